/* Searching text for words, byte by byte and by Horspool's skips: loops that end on their data. */
#include <stdio.h>
#include <string.h>
enum { SIZE = 1 << 22 };
static char text[SIZE];
static int bytewise(const char *word, int length) {
  int found = 0;
  for (int at = 0; at + length <= SIZE; at++) {
    int n = 0;
    while (n < length && text[at + n] == word[n]) n++;
    found += n == length;
  }
  return found;
}
static int skipping(const char *word, int length) {
  int skip[256], found = 0;
  for (int i = 0; i < 256; i++) skip[i] = length;
  for (int i = 0; i < length - 1; i++) skip[(unsigned char)word[i]] = length - 1 - i;
  for (int at = 0; at + length <= SIZE; at += skip[(unsigned char)text[at + length - 1]]) {
    int n = length;
    while (n && text[at + n - 1] == word[n - 1]) n--;
    found += n == 0;
  }
  return found;
}
int main(void) {
  static const char *words[] = {"abca", "cabbage", "deadbeef", "aaaaaaaa", "facade", "bead", "gg"};
  unsigned seed = 7, check = 0;
  for (int i = 0; i < SIZE; i++) {
    seed = seed * 1664525u + 1013904223u;
    text[i] = 'a' + (seed >> 24) % 7;
  }
  for (int round = 0; round < 4; round++)
    for (int i = 0; i < 7; i++) {
      int length = strlen(words[i]), first = bytewise(words[i], length), second = skipping(words[i], length);
      if (first != second) return 1;
      check = check * 31 + first;
    }
  printf("search %u\n", check);
  return 0;
}
