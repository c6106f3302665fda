"""Regular expressions over text made here."""

import re

words = ["alpha", "beta42", "gamma@delta.example", "2026-11-24", "10.1.2.3", "epsilon"]
text = " ".join(words[i * 7 % 6] + str(i) for i in range(30_000))
patterns = [r"\d{4}-\d\d-\d\d", r"[a-z]+@[a-z.]+", r"(?:\d+\.){3}\d+", r"(\w)\1", r"\b\w*a\d+\b"]
print([len(re.findall(pattern, text)) for pattern in patterns for _ in range(2)])
