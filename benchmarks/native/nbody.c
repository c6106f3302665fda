/* Planets under gravitation: doubles in small counted loops. */
#include <math.h>
#include <stdio.h>
enum { COUNT = 5 };
struct body { double x, y, z, vx, vy, vz, mass; };
static struct body bodies[COUNT] = {
  {0, 0, 0, 0, 0, 0, 39.47},
  {4.84, -1.16, -0.10, 0.60, 2.81, -0.02, 0.0377},
  {8.34, 4.12, -0.40, -1.01, 1.82, 0.008, 0.0113},
  {12.89, -15.11, -0.22, 1.08, 0.868, -0.01, 0.0017},
  {15.37, -25.9, 0.179, 0.979, 0.594, -0.034, 0.002},
};
static void advance(double dt) {
  for (int i = 0; i < COUNT; i++)
    for (int j = i + 1; j < COUNT; j++) {
      struct body *a = &bodies[i], *b = &bodies[j];
      double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
      double square = dx * dx + dy * dy + dz * dz, pull = dt / (square * sqrt(square));
      a->vx -= dx * b->mass * pull; a->vy -= dy * b->mass * pull; a->vz -= dz * b->mass * pull;
      b->vx += dx * a->mass * pull; b->vy += dy * a->mass * pull; b->vz += dz * a->mass * pull;
    }
  for (int i = 0; i < COUNT; i++) {
    struct body *a = &bodies[i];
    a->x += dt * a->vx; a->y += dt * a->vy; a->z += dt * a->vz;
  }
}
static double energy(void) {
  double sum = 0;
  for (int i = 0; i < COUNT; i++) {
    struct body *a = &bodies[i];
    sum += 0.5 * a->mass * (a->vx * a->vx + a->vy * a->vy + a->vz * a->vz);
    for (int j = i + 1; j < COUNT; j++) {
      double dx = a->x - bodies[j].x, dy = a->y - bodies[j].y, dz = a->z - bodies[j].z;
      sum -= a->mass * bodies[j].mass / sqrt(dx * dx + dy * dy + dz * dz);
    }
  }
  return sum;
}
int main(void) {
  for (int i = 0; i < 2000000; i++) advance(0.001);
  printf("nbody %.12f\n", energy());
  return 0;
}
