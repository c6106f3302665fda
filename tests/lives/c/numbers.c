// Floats to the bit (NaN payloads, denormals, signed zeros), 64 and 128 bit integers, conversions.
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

uintptr_t __stack_chk_guard = 1;  // the compiler's own library wants them
void __stack_chk_fail(void) { __builtin_trap(); }

static uint64_t bits(double d) { uint64_t b; memcpy(&b, &d, 8); return b; }
static uint32_t bits32(float f) { uint32_t b; memcpy(&b, &f, 4); return b; }
static double from(uint64_t b) { double d; memcpy(&d, &b, 8); return d; }
static float from32(uint32_t b) { float f; memcpy(&f, &b, 4); return f; }

static double __attribute__((noinline)) carried(double a, float b, int n) {
  // a and b stay alive over a loop that can be left: bit for bit
  volatile int turn = 0;
  for (int i = 0; i < n; i++) turn += i;
  printf("%08x ", (unsigned)bits32(b));
  return a;
}
typedef unsigned __int128 u128;
static u128 power(u128 base, unsigned n, u128 m) {
  u128 r = 1;
  for (; n; n >>= 1, base = base * base % m) if (n & 1) r = r * base % m;
  return r;
}
int main(void) {
  uint64_t patterns[] = {0, 1, 0x8000000000000000, 0x000fffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
                         0x7ff8000000000001, 0xfff8dead0000beef, 0x7ff4000000000123, 0x3ff0000000000000};
  uint32_t small[] = {0, 1, 0x80000000, 0x007fffff, 0x7f800000, 0xff800000, 0x7fc00001, 0xffc0beef, 0x7fa00123, 0x3f800000};
  for (int i = 0; i < 10; i++)
    printf("%016llx\n", (unsigned long long)bits(carried(from(patterns[i]), from32(small[i]), 5)));
  double tiny = 1;
  for (int i = 0; tiny > 0; i++, tiny /= 2) if (i % 100 == 0 || i > 1060) printf("%a ", tiny);
  puts("");
  double x = 0.5, y = 1e-300;
  for (int i = 0; i < 60; i++) {
    x = sin(x * 3.7) * exp(-x) + pow(fabs(x), 0.3) + fmod(x * 1e5, 7.1) + atan2(y, x);
    y = y * 1.5e8 / (1 + fabs(x));
    if (i % 10 == 0) printf("%a %a %d\n", x, y, (int)lrint(x));
  }
  u128 m = ((u128)1 << 89) - 1, v = 3;
  for (int i = 0; i < 12; i++) {
    v = power(v + i, 1000003 + i, m);
    printf("%016llx%016llx ", (unsigned long long)(v >> 64), (unsigned long long)v);
  }
  uint64_t h = 0xcbf29ce484222325;
  int64_t s = -1;
  for (int i = 0; i < 300; i++) {
    h = (h ^ i) * 0x100000001b3;
    s = (s >> 3) ^ (int64_t)h;
    h = h << 13 | h >> 51;
    h += __builtin_popcountll(h) + __builtin_clzll(h | 1) + __builtin_ctzll(h | (1ull << 63));
  }
  printf("\n%llx %lld %f %f %llu\n", (unsigned long long)h, (long long)s, (double)h, (float)s, (unsigned long long)(s < 0 ? -(double)s : s));
  return 0;
}
