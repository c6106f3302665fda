# ruff: noqa: T201, E501 - a script that talks to a person, and programs as text
"""Record which functions of the Python runtime run when it starts, and when a program imports a package.

What it writes, ``src/sojourn/vm/process/recorded.json``, decides what is compiled before the first line runs
on a machine with an empty cache (``vm/process/partition.py``). A wrong list costs time and nothing else.

Every function is given one instruction that marks a byte for it in the control memory; the module is
compiled whole (minutes), then one interpreter is started for each layer and runs what programs of its kind
do. Run it anew for each version of the runtime: ``python scripts/record_functions.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sojourn.model.limits import MIB, Limits
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import THREAD_STACK_BYTES, CompiledModule, Instance, compile_module
from sojourn.vm.process.entrances import BYTES_FROM, CALL_ONE
from sojourn.vm.process.preparing import Prepared, prepare
from sojourn.vm.process.runtime import _MARK, PythonRuntime, PythonStart, _prepare, _put
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.wasm.base import CONTROL
from sojourn.wasm.binary import FUNCTION, MEMORY, Module, Reader, SectionId, uleb
from sojourn.wasm.frames import sized
from sojourn.wasm.index_spaces import read_type

MARKS = 1 << 20  # where in the control memory the marks begin
OUT = Path(__file__).parents[1] / "src/sojourn/vm/process/recorded.json"
LIMITS = Limits(memory_bytes=3000 * MIB, cpu_seconds=3600, wall_seconds=7200, output_bytes=64 * MIB)

PLAIN = r"""
import sys, os, re, json, math, time, datetime, decimal, fractions, random, collections, itertools
import functools, string, io, struct, hashlib, base64, csv, textwrap, statistics, contextlib, asyncio
import dataclasses, enum, heapq, bisect, copy, pickle, operator, typing, abc, traceback, pathlib, tempfile
print("hello", 1, 2.5, [1, "a", None], {"k": (1, 2)}, {3, 4}, sep=" | ", file=sys.stderr)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(12)
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: float = 1.5
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
class Colour(enum.Enum):
    RED = 1
    BLUE = "b"
print(Point(1) + Point(2, 3), sorted([Point(2), Point(1)]), Colour.RED, Colour("b"))
for bad in ("1/0", "[][1]", "{}['x']", "int('a')", "None.x", "f(", "'a' + 1", "open('/none')", "import_x"):
    try: eval(bad)
    except Exception: traceback.format_exc()
def gen(n):
    total = 0
    for i in range(n):
        got = yield i
        total += got or 0
    return total
def outer(): return (yield from gen(3))
list(outer()); g = gen(3); next(g); g.send(5); g.close()
class Context:
    def __enter__(self): return self
    def __exit__(self, *_): return True
with Context(): raise ValueError("swallowed")
words = "the quick brown fox jumps over the lazy dog".split()
counts = collections.Counter("".join(words)); counts.most_common(3)
print(sorted(words, key=len, reverse=True), max(words), min(words), sum(map(len, words)))
print({w: len(w) for w in words}, [w.upper() for w in words if "o" in w], (set(words) & {"the", "fox"}))
print(f"{math.pi:.3f} {1234567:,} {'x':>10} {255:#x} {0.1 + 0.2!r} {1e300} {2 ** 200} {-7 // 2} {-7 % 3}")
print("%s %d %.2f" % ("a", 3, 2.5), "{:08b}".format(37), "a,b,c".split(","), "-".join("abc"), "Abc".swapcase())
print(re.sub(r"(\w+)@(\w+)", r"\2 at \1", "joe@host"), re.findall(r"\d+", "1 22 333"), re.split(r"\s+", "a b  c"))
json.loads(json.dumps({"a": [1, 2.5, "x\u00e9", None, True], "b": {"c": "d"}}, indent=2, sort_keys=True))
datetime.datetime(2024, 2, 29, 12).isoformat(); datetime.datetime.now().strftime("%Y-%m-%d"); datetime.timedelta(days=3)
decimal.Decimal("1.10") + 3; fractions.Fraction(1, 3) * 2; random.Random(1).random(); random.shuffle([1, 2, 3])
hashlib.sha256(b"x").hexdigest(); hashlib.md5(b"x").hexdigest(); base64.b64encode(b"abc"); struct.pack("<If", 1, 2.0)
list(itertools.permutations(range(3))); list(zip(range(3), "abc")); list(itertools.groupby("aabb")); list(itertools.chain([1], [2]))
functools.reduce(operator.mul, range(1, 20)); functools.lru_cache(fib)(10); functools.partial(fib, 3)()
heapq.nlargest(2, [3, 1, 2]); bisect.insort([1, 3], 2); copy.deepcopy({"a": [1]}); pickle.loads(pickle.dumps({"a": [1, 2.5, "x"]}))
statistics.mean([1, 2, 3]); statistics.stdev([1, 2, 3]); textwrap.fill("a b c " * 30); string.Template("$a").substitute(a=1)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "file.txt"
    path.write_text("line one\nline two\n"); path.read_text(); path.exists(); list(pathlib.Path(folder).iterdir())
    with open(path, "a") as file: file.write("three\n")
    with open(path, "rb") as file: file.read(); file.seek(0); file.tell()
    for line in open(path): line.strip()
    with open(path, "w", newline="") as file: csv.writer(file).writerows([["a", "b"], [1, 2]])
    list(csv.DictReader(open(path)))
match [1, {"k": 2}]:
    case [int(a), {"k": b}]: a + b
big = {i: str(i) for i in range(3000)}; lst = list(range(3000)); lst.sort(reverse=True); del big[5]; lst[5:10] = []; lst.insert(0, 1)
"".join(big.values()).encode().decode(); bytes(range(20)).hex(); bytearray(b"ab").append(1); b"abc".find(b"c"); memoryview(b"abc")[1:]
primes = [n for n in range(2, 200) if all(n % d for d in range(2, int(n ** 0.5) + 1))]
complex(1, 2) * 3j; divmod(7, 2); pow(3, 100, 7); round(2.567, 1); abs(-3); bin(5); int("ff", 16); float("1e5"); hash("x"); math.sqrt(2); math.gcd(4, 6)
class Lazy:
    def __getattr__(self, name): return name
    def __getitem__(self, key): return key
    def __iter__(self): return iter([1])
    def __len__(self): return 1
    def __contains__(self, x): return True
    def __call__(self, *a, **k): return a, k
l = Lazy(); l.x; l[1:2]; list(l); len(l); 1 in l; l(1, b=2)
class Meta(type): pass
class Base(metaclass=Meta):
    __slots__ = ("a", "__weakref__")
    @property
    def p(self): return 1
    @classmethod
    def c(cls): return cls
    @staticmethod
    def s(): return 2
class Sub(Base):
    def p2(self): return super().p
Sub().p2(), Sub.c(), Sub.s(), isinstance(Sub(), Base), issubclass(Sub, Base), repr(Sub()), vars(Sub())
exec(compile("x = [i ** 2 for i in range(10)]\nassert x", "<s>", "exec"), {})
global_lambda = lambda *a, k=1, **kw: (a, k, kw); global_lambda(1, *[2], k=3, **{"z": 4})
time.time(); time.perf_counter(); time.sleep(0.001); os.getcwd(); os.environ.get("x"); os.listdir("/"); sys.argv
try: raise KeyError("a") from ValueError("b")
except KeyError as e: "".join(traceback.format_exception(e))
try: raise ExceptionGroup("g", [ValueError(1)])
except* ValueError: pass
def failing(): raise RuntimeError("seen by the top level")
failing()
"""
NUMPY = r"""
import numpy as np
a = np.arange(12, dtype=float).reshape(3, 4); b = a.T.copy()
print(a, a @ b, a.sum(), a.mean(axis=0), a.std(), np.sort(a.ravel())[::-1], a[a > 3], a[:, 1:3], repr(a.astype(int)))
np.linalg.inv(np.eye(3) * 2); np.linalg.solve(np.eye(3), np.ones(3)); np.linalg.eigh(np.eye(3)); np.linalg.svd(a); np.linalg.norm(a)
rng = np.random.default_rng(1); rng.normal(size=10); rng.integers(0, 5, 4); rng.random(3); rng.choice(5, 2); rng.permutation(5)
np.random.seed(1); np.random.rand(3); np.random.randn(3); np.random.randint(0, 9, 3)
np.concatenate([a, a]); np.vstack([a, a]); np.stack([a, a]); np.where(a > 2, a, 0); np.unique([1, 1, 2], return_counts=True); np.linspace(0, 1, 5)
np.exp(a); np.log(a + 1); np.sin(a); np.sqrt(a); a ** 2; a / (a + 1); np.dot(a[0], a[1]); np.cumsum(a); np.argsort(a[0]); np.argmax(a); np.clip(a, 1, 2)
np.array(["a", "b"]); np.array([1, 2], dtype="int64") // 2; np.zeros((2, 2), dtype=np.float32) + 1; np.ones(3, dtype=bool) & True; np.isnan(a).any()
np.fft.fft(a[0]); np.einsum("ij,kj->ik", a, a); np.percentile(a, 50); np.median(a); np.histogram(a); np.meshgrid([1, 2], [3, 4]); np.array([1 + 2j]); a.tolist()
np.sort(rng.random(2000)); np.sort(rng.integers(0, 99, 2000)); np.datetime64("2024-01-01") + np.arange(3); np.array([(1, 2.0)], dtype=[("x", int), ("y", float)])
"""
PANDAS = r"""
import numpy as np, pandas as pd, io
df = pd.DataFrame({"a": [1, 2, 3, 4], "b": list("xyxy"), "c": [1.5, None, 2.5, 3.5], "d": pd.date_range("2024-01-01", periods=4)})
print(df, df.describe(), df.dtypes, df.head(2)); df.info(buf=io.StringIO())
df.groupby("b").agg({"a": "sum", "c": "mean"}); df.groupby("b")["a"].mean(); df.sort_values("c"); df[df.a > 2]; df.loc[1:2, ["a"]]; df.iloc[0]
df.merge(df, on="a"); pd.concat([df, df]); df.pivot_table(index="b", values="a", aggfunc="sum"); df.fillna(0); df.dropna(); df.isna().sum()
df.to_csv(); pd.read_csv(io.StringIO("a,b,d\n1,x,2024-01-01\n2,y,2024-01-02\n"), parse_dates=["d"]); df.to_json(); df.to_dict(); df.to_string()
df["e"] = df.a * 2; df.apply(lambda r: r.a, axis=1); df.b.str.upper(); df.b.map({"x": 1}); df.d.dt.year; df.set_index("d").resample("2D").a.sum(); df.a.rolling(2).mean()
df.b.value_counts(); df.b.astype("category"); df.a.cumsum(); df.a.quantile(.5); df[["a", "c"]].corr(); df.rename(columns={"a": "z"}); df.reset_index(); df.T; df.drop(columns="a"); df.a.unique()
pd.to_datetime(["2024-01-01"]); pd.to_numeric(pd.Series(["1", "2"])); pd.Timedelta("1D"); pd.cut(df.a, 2); df.melt(id_vars="b", value_vars=["a"]); df.duplicated(); df.a.plot
"""
SCIPY = r"""
import numpy as np, scipy, scipy.stats, scipy.optimize, scipy.linalg, scipy.integrate, scipy.interpolate, scipy.sparse, scipy.signal, scipy.special
"""
SKLEARN = r"""
import sklearn, sklearn.linear_model, sklearn.ensemble, sklearn.model_selection, sklearn.preprocessing, sklearn.metrics, sklearn.cluster
"""
STATSMODELS = "import statsmodels.api\n"
MATPLOTLIB = r"""
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt, io
fig, ax = plt.subplots(); ax.plot([1, 2, 3]); ax.set_title("t"); fig.savefig(io.BytesIO(), format="png")
"""
# Name, imports of the image, and what the program does after them. The first is what a start waits for.
LAYERS = (
    ("start", (), 'print("hello")\n'),  # quotes and line ends take a path of their own on the way in
    ("plain", (), PLAIN),
    ("numpy", ("numpy",), NUMPY),
    ("pandas", ("numpy", "pandas"), PANDAS),
    ("matplotlib", ("numpy", "matplotlib"), MATPLOTLIB),
    ("scipy", ("numpy", "scipy"), SCIPY),
    ("sklearn", ("numpy", "scipy", "sklearn"), SKLEARN),
    ("statsmodels", ("numpy", "pandas", "scipy", "statsmodels"), STATSMODELS),
)


def marked(prepared: Prepared) -> Prepared:
    """The prepared module with a mark at the entry of each of its functions."""
    module = Module.parse(prepared.code)
    memory = next(i for name, kind, i in module.exports() if name == CONTROL and kind == MEMORY)
    first = sum(1 for item in module.imports() if item.kind == FUNCTION)
    code, starts = module.bodies()
    bodies = [uleb(len(starts) - 1)]
    for number, start in enumerate(starts[:-1], first):
        reader = Reader(code, start)
        end = reader.uleb() + reader.pos
        declared = reader.pos
        for _ in range(reader.count()):
            reader.uleb()
            read_type(reader)
        mark = b"\x41\0\x41\x01\x3a\x40" + uleb(memory) + uleb(MARKS + number)
        bodies.append(sized(bytes(code[declared : reader.pos]) + mark + bytes(code[reader.pos : end])))
    module.replace(SectionId.CODE, b"".join(bodies))
    module.sections = [(number, payload) for number, payload in module.sections if number]
    return Prepared(module.encode(), prepared.code_bytes, prepared.facts)


class Marked(CompiledModules):
    """Compiles marked modules, and keeps none on disk."""

    def get(self, digest: str, read: Callable[[], bytes], what: str) -> CompiledModule:
        print("compiling", what, file=sys.stderr, flush=True)
        return compile_module(marked(prepare(read(), inert=True)))


def record(runtime: PythonRuntime, imports: tuple[str, ...], program: str) -> set[int]:
    """The functions that run when the interpreter starts, imports and executes the program."""
    output = Collected(64 * MIB)
    machine = runtime.start(None, LIMITS, Streams(Given(), output, output))

    def run(instance: Instance) -> int | None:
        if _prepare(instance, imports, settle=True):
            return 1
        enter = json.loads(output.text().rpartition(_MARK)[2])["enter"]
        data = PythonStart("code", program, ("-c",)).encoded()
        argument = instance.call(BYTES_FROM, _put(instance, data), len(data))
        return instance.call(CALL_ONE, enter, argument or 0)

    ending = machine.run(run)
    print(imports, ending.state, ending.reason, output.text()[-600:], file=sys.stderr, flush=True)
    control: Any = machine.instance._control
    marks = bytes(control[MARKS : MARKS + (1 << 19)])
    machine.close()
    return {number for number, mark in enumerate(marks) if mark}


def differences(numbers: set[int]) -> str:
    """Ascending numbers as the distances between them."""
    ordered = sorted(numbers)
    return " ".join(str(b - a) for a, b in zip([0, *ordered], ordered, strict=False))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home.open(Path(folder))
        runtime = PythonRuntime(home, Marked(home, Silent()), Silent())
        seen: set[int] = set()
        layers: dict[str, dict[str, object]] = {}
        for name, imports, program in LAYERS:
            found = record(runtime, imports, program)
            needs = [package for package in ("plain", *imports) if package != name and package in layers]
            layers[name] = {"needs": needs, "functions": differences(found - seen)}
            print(name or "plain", len(found - seen), "functions", file=sys.stderr, flush=True)
            seen |= found
        OUT.write_text(json.dumps({runtime.artifacts.module_digest: layers}, indent=1) + "\n")


if __name__ == "__main__":
    # Guests run on this thread, so it needs the stack that the engine may use.
    threading.stack_size(THREAD_STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
