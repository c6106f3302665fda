"""Planets under gravity: floating point in tight loops."""

BODIES = [
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 39.47841760435743],
    [4.841, -1.160, -0.1036, 0.6063, 2.8119, -0.02522, 0.03769],
    [8.3434, 4.1248, -0.4035, -1.0108, 1.8257, 0.00842, 0.01129],
    [12.8944, -15.1112, -0.2233, 1.0828, 0.8687, -0.01083, 0.001724],
    [15.3797, -25.9193, 0.1793, 0.9791, 0.5946, -0.03475, 0.002034],
]


def advance(bodies, dt):
    for i, a in enumerate(bodies):
        for b in bodies[i + 1 :]:
            dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
            mag = dt * (dx * dx + dy * dy + dz * dz) ** -1.5
            ma, mb = a[6] * mag, b[6] * mag
            a[3] -= dx * mb
            a[4] -= dy * mb
            a[5] -= dz * mb
            b[3] += dx * ma
            b[4] += dy * ma
            b[5] += dz * ma
    for body in bodies:
        body[0] += dt * body[3]
        body[1] += dt * body[4]
        body[2] += dt * body[5]


for _ in range(20_000):
    advance(BODIES, 0.01)
print(round(BODIES[0][0], 9))
