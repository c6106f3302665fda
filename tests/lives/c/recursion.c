// Recursion of several kinds, deep and mutual; qsort and bsearch with callbacks; tables of functions; varargs.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ackermann(int m, int n) {
  return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
static int odd(int n);
static int even(int n) { return n == 0 ? 1 : odd(n - 1); }
static int odd(int n) { return n == 0 ? 0 : even(n - 1); }
static long deep(int n, const char *over) {
  char room[64];
  snprintf(room, sizeof room, "%d %s", n, over);
  return n == 0 ? (long)strlen(room) : deep(n - 1, room + (n % 7 == 0 ? strlen(room) : 1)) + room[0];
}
typedef struct { int key; char text[12]; double weight; } item;
static int calls;
static int by_weight(const void *a, const void *b) {
  calls++;
  double x = ((const item *)a)->weight, y = ((const item *)b)->weight;
  return (x > y) - (x < y);
}
static int by_text(const void *a, const void *b) { return calls++, strcmp(((const item *)a)->text, ((const item *)b)->text); }
static int by_key(const void *a, const void *b) { return *(const int *)a - ((const item *)b)->key; }
static double sum(int count, ...) {
  va_list list;
  double total = 0;
  va_start(list, count);
  for (int i = 0; i < count; i++) total += i % 2 ? va_arg(list, double) : va_arg(list, int);
  va_end(list);
  return total;
}
static long long add(long long a, long long b) { return a + b; }
static long long mul(long long a, long long b) { return a * b; }
static long long mix(long long a, long long b) { return (a << 7) ^ (b >> 3); }
static long long (*const table[])(long long, long long) = {add, mul, mix};

int main(void) {
  item items[200];
  unsigned seed = 5;
  printf("%d %d %d %ld\n", ackermann(2, 5), even(301), odd(77), deep(120, "x"));
  for (int i = 0; i < 200; i++) {
    seed = seed * 1103515245 + 12345;
    items[i] = (item){i, "", (seed >> 8) / 1000.0};
    snprintf(items[i].text, sizeof items[i].text, "%08x", seed);
  }
  qsort(items, 200, sizeof *items, by_weight);
  printf("%d %s %.17g\n", calls, items[17].text, items[17].weight);
  qsort(items, 200, sizeof *items, by_text);
  printf("%d %s %.17g\n", calls, items[17].text, items[17].weight);
  for (int i = 0; i < 200; i++) items[i].key = i * 3;
  int wanted = 297;
  item *found = bsearch(&wanted, items, 200, sizeof *items, by_key);
  printf("%d %g\n", found ? (int)(found - items) : -1, sum(6, 1, 2.5, 3, 4.25, 5, 6.125));
  long long value = 1;
  for (int i = 0; i < 500; i++) value = table[(value >> 5 & 0x7fffffff) % 3](value, i * 2654435761LL + 1);
  printf("%lld %5d|%-8s|%08.3f|%#x|%+e|%c|%%|%lld\n", value, 42, "ab", 3.14159, 255, 12345.678, 'z', (long long)1 << 60);
  return calls & 0x7f;
}
