/* The sieve of Eratosthenes: short loops over bytes. */
#include <stdio.h>
#include <string.h>
enum { SIZE = 2000000 };
static unsigned char composite[SIZE];
int main(void) {
  unsigned long sum = 0, count = 0;
  for (int round = 0; round < 30; round++) {
    memset(composite, 0, sizeof composite);
    for (int i = 2; i < SIZE; i++) {
      if (composite[i]) continue;
      count++;
      sum += i;
      if (i > SIZE / i) continue;
      for (int j = i * i; j < SIZE; j += i) composite[j] = 1;
    }
  }
  printf("sieve %lu %lu\n", count, sum);
  return 0;
}
