"""numpy: transforms, linear algebra, sorting, seeded chance; results to the last bit."""

import hashlib

import numpy as np

rng = np.random.default_rng(7)
state = rng.standard_normal((60, 60))


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


for turn in range(25):
    wave = np.fft.rfft(rng.random(4096)) * np.exp(1j * turn)
    back = np.fft.irfft(wave)
    values, vectors = np.linalg.eigh(state @ state.T)
    order = np.argsort(rng.integers(0, 1000, 20000), kind="stable")
    u, s, v = np.linalg.svd(state[:20])
    state = np.tanh(state @ vectors / 8 + np.linalg.solve(state + 5 * np.eye(60), np.ones(60)))
    print(turn, digest(back), digest(values), digest(order), digest(s), digest(state), flush=True)
    print(np.einsum("ij,jk->ik", state[:3, :5], state[5:10, :2]).round(6).tolist())
    try:
        np.linalg.inv(np.zeros((3, 3)))
    except np.linalg.LinAlgError as error:
        print(error)
words = np.array([f"w{i * 7919 % 1000}" for i in range(5000)])
print(digest(np.sort(words)), np.unique(words).size, digest(np.sort(rng.random(300_000))))
