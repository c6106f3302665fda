/* A hash table of chained nodes from malloc: pointers, and calls into the C library. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
enum { BUCKETS = 1 << 16, KEYS = 200000 };
struct node { uint32_t key, value; struct node *next; };
static struct node *buckets[BUCKETS];
static uint32_t hash(uint32_t key) { return (key * 2654435761u) >> 16; }
static struct node *__attribute__((noinline)) find(uint32_t key) {
  struct node *node = buckets[hash(key)];
  while (node && node->key != key) node = node->next;
  return node;
}
static void add(uint32_t key) {
  struct node *node = find(key);
  if (!node) {
    node = malloc(sizeof *node);
    *node = (struct node){key, 0, buckets[hash(key)]};
    buckets[hash(key)] = node;
  }
  node->value++;
}
static int removed(uint32_t key) {
  for (struct node **at = &buckets[hash(key)]; *at; at = &(*at)->next)
    if ((*at)->key == key) {
      struct node *node = *at;
      *at = node->next;
      free(node);
      return 1;
    }
  return 0;
}
int main(void) {
  uint32_t seed = 1, sum = 0, gone = 0;
  for (int round = 0; round < 12; round++) {
    for (int i = 0; i < KEYS; i++) {
      seed = seed * 1664525u + 1013904223u;
      add(seed >> 14);
    }
    for (uint32_t key = 0; key < 1u << 18; key += 3) {
      struct node *node = find(key);
      if (node) sum = sum * 31 + node->value;
    }
    for (uint32_t key = 0; key < 1u << 18; key += 2) gone += removed(key);
  }
  printf("hashtable %u %u\n", sum, gone);
  return 0;
}
