"""numpy: element-wise arithmetic, sorting, products, a transform."""

import numpy as np

rng = np.random.default_rng(7)
x = rng.normal(size=400_000)
total = 0.0
for _ in range(5):
    total += float(np.sort(x)[1000])
    total += float((np.sin(x) * np.exp(-(x**2))).sum())
    total += float(np.abs(np.fft.rfft(x[:131072])).max())
m = rng.normal(size=(220, 220))
for _ in range(5):
    m = m @ m
    m /= np.abs(m).max()
print(round(total, 6), round(float(np.abs(m).sum()), 3))
