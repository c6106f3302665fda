// The heap: lists, trees, realloc in a loop, growth in the middle, alloca and large frames, bulk copies.
#include <alloca.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct node { struct node *left, *right; unsigned key; char text[20]; } node;
static node *insert(node *at, unsigned key) {
  if (!at) {
    at = calloc(1, sizeof *at);
    at->key = key;
    snprintf(at->text, sizeof at->text, "k%u", key);
  } else if (key < at->key) at->left = insert(at->left, key);
  else if (key > at->key) at->right = insert(at->right, key);
  return at;
}
static uint32_t walk(node *at, uint32_t sum) {
  if (!at) return sum;
  sum = walk(at->left, sum) * 31 + at->key + at->text[1];
  return walk(at->right, sum);
}
static void drop(node *at) { if (at) { drop(at->left); drop(at->right); free(at); } }
static uint32_t __attribute__((noinline)) large(int n) {
  uint32_t room[2000];
  char *more = alloca(100 + n * 10);
  for (int i = 0; i < 2000; i++) room[i] = i * n;
  memset(more, n, 100 + n * 10);
  return n ? large(n - 1) + room[n * 3] + more[50] : more[99];
}
int main(void) {
  node *root = 0;
  unsigned seed = 1;
  for (int i = 0; i < 300; i++) root = insert(root, (seed = seed * 1664525 + 1013904223) >> 20);
  printf("%u\n", walk(root, 7));
  drop(root);
  char *text = 0;
  size_t size = 0;
  for (int i = 0; i < 200; i++) {
    text = realloc(text, size + 300);
    memset(text + size, 'a' + i % 26, 300);
    memmove(text + i, text + i / 2, size + 300 - i);
    size += 300;
  }
  uint32_t sum = 0;
  for (size_t i = 0; i < size; i += 97) sum = sum * 33 + text[i];
  printf("%u %zu\n", sum, size);
  for (int i = 1; i < 12; i++) {
    size_t n = i * 700000;
    unsigned char *big = malloc(n);
    memset(big, i, n);
    big[n - 1] = 99;
    memcpy(big, big + n / 2, n / 3);
    sum = sum * 31 + big[n / 2] + big[n - 1] + big[n / 3];
    if (i % 2) free(big);
    printf("%d %u %zu\n", i, sum, __builtin_wasm_memory_size(0) > 4 ? (size_t)1 : 0);
  }
  printf("%u %zu\n", large(40), __builtin_wasm_memory_grow(0, 3) != (size_t)-1 ? (size_t)1 : 0);
  return 3;
}
