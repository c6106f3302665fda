/* Permutations and flips: very short loops over small arrays. */
#include <stdio.h>
enum { N = 10 };
int main(void) {
  int perm[N], work[N], count[N], most = 0, check = 0, index = 0, r = N;
  for (int i = 0; i < N; i++) perm[i] = i;
  for (;;) {
    for (; r != 1; r--) count[r - 1] = r;
    for (int i = 0; i < N; i++) work[i] = perm[i];
    int flips = 0;
    for (int k; (k = work[0]);) {
      for (int low = 0, high = k; low < high; low++, high--) {
        int held = work[low];
        work[low] = work[high];
        work[high] = held;
      }
      flips++;
    }
    if (flips > most) most = flips;
    check += index++ % 2 ? -flips : flips;
    for (;; r++) {
      if (r == N) {
        printf("fannkuch %d %d\n", check, most);
        return 0;
      }
      int first = perm[0];
      for (int i = 0; i < r; i++) perm[i] = perm[i + 1];
      perm[r] = first;
      if (--count[r] > 0) break;
    }
  }
}
