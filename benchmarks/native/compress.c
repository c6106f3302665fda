/* Compression by references to earlier text, and back: searching loops that end on their data. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
enum { SIZE = 1 << 20, HEADS = 1 << 15, WINDOW = 1 << 15, TRIES = 16, LONGEST = 255, SHORTEST = 4 };
static unsigned char text[SIZE], packed[2 * SIZE], back[SIZE];
static int head[HEADS], before[SIZE];
static uint32_t hash(const unsigned char *at) {
  return (at[0] * 2654435761u ^ at[1] * 40503u ^ at[2] * 2246822519u ^ at[3]) >> 5 & (HEADS - 1);
}
static int same(const unsigned char *a, const unsigned char *b, int most) {
  int length = 0;
  while (length < most && a[length] == b[length]) length++;
  return length;
}
static int compress(void) {
  int out = 0;
  memset(head, -1, sizeof head);
  for (int at = 0; at < SIZE;) {
    int best = 0, from = 0, left = SIZE - at, most = left < LONGEST ? left : LONGEST;
    if (left >= SHORTEST) {
      int tries = TRIES;
      for (int old = head[hash(text + at)]; old >= 0 && at - old < WINDOW && tries--; old = before[old]) {
        int length = same(text + old, text + at, most);
        if (length > best) best = length, from = old;
      }
    }
    int step = best >= SHORTEST ? best : 1;
    if (best >= SHORTEST) {
      packed[out++] = best;
      packed[out++] = (at - from) & 255;
      packed[out++] = (at - from) >> 8;
    } else {
      packed[out++] = 0;
      packed[out++] = text[at];
    }
    for (; step--; at++)
      if (SIZE - at >= SHORTEST) {
        uint32_t slot = hash(text + at);
        before[at] = head[slot];
        head[slot] = at;
      }
  }
  return out;
}
static int expand(int size) {
  int out = 0;
  for (int at = 0; at < size;) {
    int length = packed[at++];
    if (length == 0) {
      back[out++] = packed[at++];
      continue;
    }
    int distance = packed[at] | packed[at + 1] << 8;
    at += 2;
    for (; length--; out++) back[out] = back[out - distance];
  }
  return out;
}
int main(void) {
  static const char *words[] = {"the ", "memory ", "of ", "a ", "program ", "that ", "moves ", "is ", "small "};
  uint32_t seed = 99, total = 0;
  for (int at = 0; at < SIZE;) {
    seed = seed * 1664525u + 1013904223u;
    for (const char *word = words[(seed >> 20) % 9]; *word && at < SIZE;) text[at++] = *word++;
    if (seed >> 29 == 0 && at < SIZE) text[at++] = seed >> 8;
  }
  for (int round = 0; round < 10; round++) {
    int size = compress();
    if (expand(size) != SIZE || memcmp(text, back, SIZE)) return 1;
    total += size;
    text[round * 1000] ^= 1;
  }
  printf("compress %u\n", total);
  return 0;
}
