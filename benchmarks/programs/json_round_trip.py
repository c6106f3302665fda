"""Encoding and decoding: the C accelerators of the standard library."""

import json

document = {
    f"key{i}": {"list": list(range(i % 50)), "text": "αβγ" * (i % 7), "number": i * 1.5, "flag": i % 2 == 0}
    for i in range(800)
}
size = 0
for _ in range(25):
    text = json.dumps(document, sort_keys=True)
    size += len(text)
    document = json.loads(text)
print(size)
