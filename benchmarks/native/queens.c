/* All ways to place n queens: backtracking by recursion. */
#include <stdio.h>
static long place(unsigned all, unsigned columns, unsigned left, unsigned right) {
  if (columns == all) return 1;
  long found = 0;
  for (unsigned free = all & ~(columns | left | right); free;) {
    unsigned bit = free & -free;
    free ^= bit;
    found += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
  }
  return found;
}
int main(void) {
  printf("queens %ld\n", place((1u << 13) - 1, 0, 0, 0) + place((1u << 14) - 1, 0, 0, 0));
  return 0;
}
