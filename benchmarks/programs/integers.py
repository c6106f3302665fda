"""Digits of pi with large integers, and a sieve."""


def digits(count):
    q, r, t, k, n, x = 1, 0, 1, 1, 3, 3
    found = []
    while len(found) < count:
        if 4 * q + r - t < n * t:
            found.append(n)
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, x = (
                *(q * k, (2 * q + r) * x, t * x, k + 1),
                *((q * (7 * k + 2) + r * x) // (t * x), x + 2),
            )
    return found


sieve = bytearray([1]) * 1_000_000
for i in range(2, 1000):
    if sieve[i]:
        sieve[i * i :: i] = bytes(len(range(i * i, len(sieve), i)))
print(sum(digits(900)), sum(sieve) - 2)
