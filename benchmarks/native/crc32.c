/* CRC-32 by a table, a byte at a time: a dependent load in a loop of a few instructions. */
#include <stdint.h>
#include <stdio.h>
static uint32_t table[256];
static unsigned char data[1 << 20];
int main(void) {
  uint32_t crc = ~0u;
  for (uint32_t i = 0; i < 256; i++) {
    table[i] = i;
    for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
  }
  for (unsigned i = 0; i < sizeof data; i++) data[i] = i * 7 + (i >> 9);
  for (int round = 0; round < 120; round++)
    for (unsigned i = 0; i < sizeof data; i++) crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
  printf("crc32 %08x\n", ~crc);
  return 0;
}
