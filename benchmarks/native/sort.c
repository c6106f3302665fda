/* The C library's qsort with a comparison function: indirect calls. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
enum { SIZE = 800000 };
static uint32_t values[SIZE];
static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}
int main(void) {
  uint32_t seed = 12345, check = 0;
  for (int i = 0; i < SIZE; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = seed >> 4;
  }
  qsort(values, SIZE, sizeof *values, compare);
  for (int i = 0; i < SIZE; i++) check = check * 31 + values[i];
  printf("sort %u %u %u\n", values[0], values[SIZE - 1], check);
  return 0;
}
