/* The Mandelbrot set: a loop of floating point numbers that ends on its data. */
#include <stdio.h>
enum { SIZE = 1000, STEPS = 250 };
int main(void) {
  unsigned check = 0;
  for (int row = 0; row < SIZE; row++)
    for (int column = 0; column < SIZE; column++) {
      double cr = 3.0 * column / SIZE - 2.2, ci = 2.4 * row / SIZE - 1.2, zr = 0, zi = 0;
      int step = 0;
      while (step < STEPS && zr * zr + zi * zi < 4.0) {
        double next = zr * zr - zi * zi + cr;
        zi = 2 * zr * zi + ci;
        zr = next;
        step++;
      }
      check = check * 33 + step;
    }
  printf("mandelbrot %u\n", check);
  return 0;
}
