/* SHA-256 over a megabyte, many times: rotations and additions in counted loops. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
static uint32_t k[64], state[8];
static unsigned char data[1 << 20];
static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }
/* The constants are the first bits of the fractional parts of cube and square roots of primes. */
static uint32_t root_bits(unsigned prime, int power) {
  uint64_t low = 0, high = (uint64_t)20 << 32;
  while (high - low > 1) {
    uint64_t middle = (low + high) / 2;
    long double root = (long double)middle / 4294967296.0L, value = root;
    for (int i = 1; i < power; i++) value *= root;
    if (value <= prime) low = middle; else high = middle;
  }
  return (uint32_t)low;
}
static void block(const unsigned char *at) {
  uint32_t w[64], s[8];
  for (int i = 0; i < 16; i++)
    w[i] = (uint32_t)at[4 * i] << 24 | at[4 * i + 1] << 16 | at[4 * i + 2] << 8 | at[4 * i + 3];
  for (int i = 16; i < 64; i++)
    w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
           (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
  memcpy(s, state, sizeof s);
  for (int i = 0; i < 64; i++) {
    uint32_t sum = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
    uint32_t first = s[7] + sum + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
    uint32_t other = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
    uint32_t second = other + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += first;
    s[0] = first + second;
  }
  for (int i = 0; i < 8; i++) state[i] += s[i];
}
int main(void) {
  int count = 0;
  for (unsigned n = 2; count < 64; n++) {
    int prime = 1;
    for (unsigned d = 2; d * d <= n; d++) prime &= n % d != 0;
    if (!prime) continue;
    if (count < 8) state[count] = root_bits(n, 2);
    k[count++] = root_bits(n, 3);
  }
  for (unsigned i = 0; i < sizeof data; i++) data[i] = i * 31 + (i >> 8);
  for (int round = 0; round < 40; round++)
    for (unsigned at = 0; at < sizeof data; at += 64) block(data + at);
  printf("sha256 ");
  for (int i = 0; i < 8; i++) printf("%08x", state[i]);
  printf("\n");
  return 0;
}
