"""Regular expressions (one that backtracks for long), formatting, JSON, pickles, templates, unicode."""

import json
import pickle
import re
import string
import textwrap
import unicodedata

WORDS = [f"{chr(97 + i % 26)}{i * 7919 % 1000}wörd{chr(0x1F600 + i % 60)}" for i in range(400)]
text = " ".join(WORDS)
for turn in range(12):
    print(
        turn, len(re.findall(r"[a-m]\d+w(ö)rd.", text)), re.sub(r"(\d)(\d)", r"\2\1", text)[turn * 9 :][:40]
    )
    found = re.match(r"(a|aa)+$", "a" * (14 + turn) + "b")  # catastrophic
    print(found, re.fullmatch(r"(?:(x+x+)+y)|x*", "x" * (10 + turn)) is not None)
    data = {word: [turn, {"n": i / 7, "s": None}] for i, word in enumerate(WORDS)}
    packed = json.dumps(data, sort_keys=True, indent=1)
    assert json.loads(packed) == data
    for protocol in range(6):
        assert pickle.loads(pickle.dumps(data, protocol)) == data
    print(len(packed), f"{turn / 7:>20.10e}|{turn * 12345:_}|{turn!r:^9}|{packed[5:9]:*<12}")
    print("%(a)08.3f %(b)-5s|%(c)#x" % {"a": turn / 3, "b": "b", "c": turn * 977})  # noqa: UP031
    print(string.Template("$x ${y}").substitute(x=turn, y=WORDS[turn]))
    print(
        textwrap.fill(text[:300], 30 + turn).count("\n"),
        unicodedata.normalize("NFD", WORDS[turn]).encode()[:12],
    )
