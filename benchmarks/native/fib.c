/* Doubly recursive Fibonacci numbers: nothing but calls. */
#include <stdio.h>
static int __attribute__((noinline)) fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
int main(void) {
  printf("fib %d\n", fib(38));
  return 0;
}
