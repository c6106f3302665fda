/* The spectral norm of a matrix that is computed as it is used: divisions, and a small function. */
#include <math.h>
#include <stdio.h>
enum { SIZE = 1000 };
static double u[SIZE], v[SIZE], w[SIZE];
static double entry(int i, int j) { return 1.0 / ((i + j) * (i + j + 1) / 2 + i + 1); }
static void times(const double *in, double *out) {
  for (int i = 0; i < SIZE; i++) {
    double sum = 0;
    for (int j = 0; j < SIZE; j++) sum += entry(i, j) * in[j];
    out[i] = sum;
  }
}
static void transposed(const double *in, double *out) {
  for (int i = 0; i < SIZE; i++) {
    double sum = 0;
    for (int j = 0; j < SIZE; j++) sum += entry(j, i) * in[j];
    out[i] = sum;
  }
}
int main(void) {
  double above = 0, below = 0;
  for (int i = 0; i < SIZE; i++) u[i] = 1;
  for (int i = 0; i < 40; i++) {
    times(u, w);
    transposed(w, v);
    times(v, w);
    transposed(w, u);
  }
  for (int i = 0; i < SIZE; i++) {
    above += u[i] * v[i];
    below += v[i] * v[i];
  }
  printf("spectral %.9f\n", sqrt(above / below));
  return 0;
}
