"""Python called from the middle of C: keys, comparisons, hashes, iterators, callbacks of the library."""

import bisect
import collections
import functools
import heapq
import itertools
import operator
import queue
import random
import re
import xml.etree.ElementTree as ET

random.seed(12)


@functools.total_ordering
class Odd:
    compared = 0

    def __init__(self, n):
        self.n = n

    def __lt__(self, other):
        Odd.compared += 1
        for _ in range(3):
            self.n ^= 0
        return (self.n * 7919) % 1009 < (other.n * 7919) % 1009

    def __eq__(self, other):
        return self.n == other.n

    def __hash__(self):
        return sum(hash(str(self.n % 13)) * 0 + self.n for _ in range(3)) % 31


for turn in range(5):
    items = [Odd(random.randrange(5000)) for _ in range(1500)]
    items.sort()
    print(turn, Odd.compared, items[0].n, items[-1].n, max(items).n, len(set(items)))
    print([o.n for o in heapq.nsmallest(4, items, key=lambda o: sum(range(o.n % 50)))])
    print(bisect.bisect(items, items[700]) > 0, sorted(items, key=lambda o: -o.n, reverse=True)[5].n)
    compare = functools.cmp_to_key(lambda a, b: (a.n > b.n) - (a.n < b.n))
    print(min(items, key=compare).n, functools.reduce(lambda a, o: (a * 3 + o.n) % 65537, items, 1))
    counted = collections.Counter(map(operator.attrgetter("n"), items))
    print(
        counted.most_common(2),
        sum(1 for _ in itertools.groupby(sorted(o.n for o in items), lambda n: n // 100)),
    )
    print(
        re.sub(
            r"\d+", lambda m: str(int(m[0]) + sum(range(int(m[0]) % 300))), " ".join(map(str, range(900)))
        )[-30:]
    )
    waiting = queue.PriorityQueue()
    for item in items[:300]:
        waiting.put(item)
    print([waiting.get().n for _ in range(3)], list(filter(lambda o: o.n % 991 == 0, items))[:1] != 0)
    found = ET.fromstring("<a>" + "".join(f"<b n='{o.n}'>x</b>" for o in items[:400]) + "</a>")
    print(len(found), sum(int(e.get("n")) for e in found.iter("b")), len(ET.tostring(found)))

    class Shouting(dict):
        def __missing__(self, key):
            self[key] = value = [key] * (key % 7)
            return value

    shouting = Shouting()
    print(sum(len(shouting[n % 97]) for n in range(4000)), sum(map(len, shouting.values())))
try:
    [1, Odd(2), "x"].sort()
except (TypeError, AttributeError) as error:
    print(type(error).__name__)
