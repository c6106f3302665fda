"""The interpreter at work on itself: parsing, compiling, imports, classes made at run time, tracing."""

import ast
import dataclasses
import dis
import enum
import io
import sys
import tokenize
import types
import typing

SOURCE = "\n".join(
    f"def f{i}(a, *b, c={i}, **d):\n    match a:\n        case [x, *y] if x > {i}: return y\n"
    f"        case {{'k': v}}: return v + {i}\n        case _: return [z async for z in a] if 0 else c\n"
    for i in range(60)
).replace("[z async for z in a] if 0 else c", "[z for z in b] or c")
for turn in range(4):
    tree = ast.parse(SOURCE)
    text = ast.unparse(tree)
    assert ast.dump(ast.parse(text)) == ast.dump(tree)
    module = types.ModuleType(f"made{turn}")
    sys.modules[module.__name__] = module
    exec(compile(text, module.__name__, "exec", optimize=turn % 3), module.__dict__)
    print(
        turn,
        sum(f([i + 1, turn])[0] for i in range(60) if (f := getattr(module, f"f{i}"))),
        module.f3({"k": 4}),
    )
    print(sum(1 for _ in tokenize.generate_tokens(io.StringIO(text).readline)))
    listing = io.StringIO()
    dis.dis(module.f7, file=listing)
    print(len(listing.getvalue().splitlines()))
    lines = []
    sys.settrace(lambda frame, event, arg, lines=lines: lines.append((event, frame.f_code.co_name)) or None)
    module.f1(3)
    sys.settrace(None)
    print(lines)
    for i in range(30):
        made = dataclasses.make_dataclass(
            f"D{i}", [("x", int), ("y", list, dataclasses.field(default_factory=list))]
        )
        kind = enum.Enum(f"E{i}", {f"N{k}": k for k in range(20)})
        assert made(i) == made(i) and kind(3).name == "N3"
    print(made(5), kind.N7, typing.get_type_hints(made)["x"])
for name in ("colorsys", "cmd", "html.parser", "mailbox", "plistlib", "imaplib", "sched", "turtle", "wave"):
    try:
        __import__(name)
        print(name, "imported")
    except ImportError as error:
        print(name, type(error).__name__)
