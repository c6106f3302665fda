/* Matrix multiplication: three nested counted loops. */
#include <stdio.h>
enum { SIZE = 400 };
static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
int main(void) {
  double sum = 0;
  for (int i = 0; i < SIZE; i++)
    for (int j = 0; j < SIZE; j++) {
      a[i][j] = (i * 7 + j * 3) % 11;
      b[i][j] = (i * 5 + j) % 13;
    }
  for (int round = 0; round < 3; round++)
    for (int i = 0; i < SIZE; i++)
      for (int j = 0; j < SIZE; j++) {
        double dot = 0;
        for (int k = 0; k < SIZE; k++) dot += a[i][k] * b[k][j];
        c[i][j] += dot;
      }
  for (int i = 0; i < SIZE; i++)
    for (int j = 0; j < SIZE; j++) sum += c[i][j] * ((i ^ j) & 3);
  printf("matmul %.1f\n", sum);
  return 0;
}
