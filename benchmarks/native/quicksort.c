/* A hand-written quicksort: recursion around tight scanning loops. */
#include <stdint.h>
#include <stdio.h>
enum { SIZE = 3000000 };
static uint32_t values[SIZE];
static void quicksort(uint32_t *low, uint32_t *high) {
  while (low < high) {
    uint32_t pivot = low[(high - low) / 2], *i = low, *j = high;
    while (i <= j) {
      while (*i < pivot) i++;
      while (*j > pivot) j--;
      if (i <= j) {
        uint32_t held = *i;
        *i++ = *j;
        *j-- = held;
      }
    }
    quicksort(low, j);
    low = i;
  }
}
int main(void) {
  uint32_t seed = 4321, check = 0;
  for (int i = 0; i < SIZE; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = seed >> 3;
  }
  quicksort(values, values + SIZE - 1);
  for (int i = 0; i < SIZE; i++) check = check * 31 + values[i];
  printf("quicksort %u\n", check);
  return 0;
}
