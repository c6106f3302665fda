"""Matrix products by function calls and generator expressions."""


def a(i, j):
    return 1.0 / ((i + j) * (i + j + 1) // 2 + i + 1)


def times(v, transposed):
    size = range(len(v))
    if transposed:
        return [sum(a(j, i) * v[j] for j in size) for i in size]
    return [sum(a(i, j) * v[j] for j in size) for i in size]


u = [1.0] * 130
for _ in range(6):
    v = times(times(u, False), True)
    u = times(times(v, False), True)
norm = (sum(x * y for x, y in zip(u, v, strict=True)) / sum(y * y for y in v)) ** 0.5
print(round(norm, 9))
