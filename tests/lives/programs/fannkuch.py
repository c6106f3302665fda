"""Permutations and lists turned over in place."""


def flips(n):
    count, signs, most, total, first = list(range(n)), 1, 0, 0, list(range(n))
    while True:
        if first[0]:
            work, steps = first[:], 0
            while work[0]:
                top = work[0]
                work[: top + 1] = reversed(work[: top + 1])
                steps += 1
            most, total = max(most, steps), total + signs * steps
        if signs > 0:
            first[0], first[1], signs = first[1], first[0], -1
            continue
        first[1], first[2], signs = first[2], first[1], 1
        for i in range(2, n - 1):
            if count[i]:
                count[i] -= 1
                break
            count[i] = i
            first.insert(i + 1, first.pop(0))
        else:
            if not count[n - 1]:
                return total, most
            count[n - 1] -= 1
            return total, most


for size in range(3, 9):
    print(size, flips(size))
