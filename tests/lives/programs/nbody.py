"""Planets: floats in tight loops, to the last bit."""

BODIES = [
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 39.47841760435743),
    ([4.84143144, -1.16032004, -0.10362204], [0.60632639, 2.81198684, -0.02521836], 0.03769367),
    ([8.34336671, 4.12479856, -0.4035234], [-1.01077434, 1.82566237, 0.00841576], 0.01128632),
    ([12.8943695, -15.1111514, -0.22330757], [1.0827910, 0.86871301, -0.01083263], 0.00172372),
]


def advance(step):
    for i, (place, speed, mass) in enumerate(BODIES):
        for other, its_speed, its_mass in BODIES[i + 1 :]:
            way = [a - b for a, b in zip(place, other, strict=True)]
            pull = step / (sum(d * d for d in way) ** 1.5)
            for k in range(3):
                speed[k] -= way[k] * its_mass * pull
                its_speed[k] += way[k] * mass * pull
    for place, speed, _ in BODIES:
        for k in range(3):
            place[k] += step * speed[k]


for turn in range(6000):
    advance(0.01)
    if turn % 500 == 0:
        print(turn, [value.hex() for value in BODIES[1][0]])
