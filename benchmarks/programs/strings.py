"""Text: splitting, joining, formatting, counting, sorting."""

from collections import Counter

lines = [f"{i * 2654435761 % 97:02d} the quick brown fox {i} jumps" for i in range(20_000)]
total = 0
for _ in range(6):
    counts = Counter(word for line in lines for word in line.split())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total += len("\n".join(f"{word:>10}|{count:5d}" for word, count in ordered))
print(total)
