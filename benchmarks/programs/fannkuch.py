"""Permutations and flips: list slicing and integer arithmetic."""


def fannkuch(n):
    most = checksum = 0
    sign, p, q, s = 1, list(range(n)), list(range(n)), list(range(n))
    while True:
        first = p[0]
        if first:
            q[:] = p
            flips = 1
            while True:
                top = q[first]
                if not top:
                    break
                q[first] = first
                if first > 2:
                    q[1:first] = q[first - 1 : 0 : -1]
                flips += 1
                first = top
            most = max(most, flips)
            checksum += sign * flips
        if sign == 1:
            p[0], p[1] = p[1], p[0]
            sign = -1
        else:
            p[1], p[2] = p[2], p[1]
            sign = 1
            for i in range(2, n):
                if s[i]:
                    s[i] -= 1
                    break
                s[i] = i
                if i == n - 1:
                    return checksum, most
                p[: i + 2] = [*p[1 : i + 2], p[0]]


print(fannkuch(8))
