// SIMD of 128 bits, alive over loops and calls.
#include <stdint.h>
#include <stdio.h>
#include <wasm_simd128.h>

static v128_t __attribute__((noinline)) step(v128_t a, v128_t b, int n) {
  v128_t sum = a;
  for (int i = 0; i < n; i++) {
    sum = wasm_i32x4_add(wasm_i32x4_mul(sum, b), wasm_i32x4_splat(i));
    sum = wasm_v128_xor(sum, wasm_i8x16_shuffle(sum, a, 3, 2, 17, 0, 7, 22, 5, 4, 11, 10, 9, 8, 15, 30, 13, 12));
  }
  return sum;
}
static v128_t deep(int n, v128_t a) {
  v128_t kept = wasm_i64x2_add(a, wasm_i64x2_splat(n * 0x123456789LL));
  return n ? wasm_v128_xor(deep(n - 1, step(kept, a, 3)), kept) : kept;
}
static void show(v128_t v) {
  uint32_t out[4];
  wasm_v128_store(out, v);
  printf("%08x %08x %08x %08x\n", (unsigned)out[0], (unsigned)out[1], (unsigned)out[2], (unsigned)out[3]);
}
int main(void) {
  v128_t a = wasm_i32x4_make(1, 2, 3, 4), b = wasm_i32x4_make(5, -6, 7, -8);
  for (int i = 0; i < 10; i++) { a = step(a, b, 5); show(a); }
  show(deep(60, a));
  v128_t f = wasm_f32x4_make(1.5f, -0.0f, 3e38f, 1e-40f);
  for (int i = 0; i < 20; i++) f = wasm_f32x4_add(wasm_f32x4_mul(f, wasm_f32x4_splat(1.01f)), wasm_f32x4_convert_i32x4(a));
  show(f);
  return 0;
}
