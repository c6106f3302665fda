"""Big integers, decimals, fractions, digits of pi and e; conversions of thousands of digits."""

import decimal
import fractions
import math
import sys


def digits():
    q, r, t, k, n, x = 1, 0, 1, 1, 3, 3
    while True:
        if 4 * q + r - t < n * t:
            yield n
            q, r, n = 10 * q, 10 * (r - n * t), (10 * (3 * q + r)) // t - 10 * n
        else:
            q, r, t, k, n, x = (
                *(q * k, (2 * q + r) * x, t * x, k + 1),
                *((q * (7 * k + 2) + r * x) // (t * x), x + 2),
            )


pi = digits()
for line in range(30):
    print("".join(str(next(pi)) for _ in range(20)), line)
sys.set_int_max_str_digits(0)
decimal.getcontext().prec = 200
print(sum(decimal.Decimal(1) / math.factorial(i) for i in range(130)))
print(decimal.Decimal(2).sqrt(), decimal.Decimal(3).ln())
print(sum(fractions.Fraction(1, i) for i in range(1, 400)))
big = 3**9001
for turn in range(8):
    big = big * 7 + turn
    text = str(big)
    assert int(text) == big
    print(turn, len(text), pow(big, turn + 5, 10**40 + 7), math.isqrt(big) % 10**12, math.gcd(big, 6**500))
print(math.comb(3000, 1500) % (1 << 89), math.perm(300, 250) % 10**9, (1 << 70000) % 999983)
