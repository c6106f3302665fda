"""The guest's half of function calls: a loop that reads requests, calls functions, writes replies.

Runs inside the virtual machine on the guest's Python, as a member of the package that
``sojourn.vm.process.guest.function_server_files`` describes (this file beside the codec's); the
messages are described in ``sojourn.functions.protocol``. It must not import sojourn.

A program is a set of files. Its modules live in memory and are imported through a finder; several
programs may have modules of the same name, so the modules of one are out of ``sys.modules`` while
another one runs. Files are compiled so that tracebacks show the user's own file names and lines.

Invariants: every request gets exactly one reply; whatever a function raises, prints or returns, the
loop goes on; only a stream that is broken ends it.
"""

import __future__
import importlib.machinery
import io
import json
import linecache
import sys
import traceback

import msgpack

from . import codec
from .wire import CodecError, read_message, seal, unseal

MANIFEST = "sojourn-program.json"
TEXT_CHARACTERS_MAX = 200_000
REQUEST_BYTES = 65_536


class Program:
    """The files of one program, its modules once imported, and the classes its values may have."""

    def __init__(self, files):
        manifest = json.loads(files[MANIFEST])
        self.files = files
        self.modules = manifest["modules"]
        self.class_names = manifest["classes"]
        self.imported = {}
        self._registry = None

    def find(self, entry):
        """The object that ``entry`` (``"module:qualname"``) names."""
        name, _, path = entry.partition(":")
        if name not in sys.modules:
            __import__(name)
        found = sys.modules[name]
        for part in path.split("."):
            found = getattr(found, part)
        return found

    def registry(self):
        if self._registry is None:
            self._registry = codec.Registry({name: self.find(entry) for name, entry in self.class_names.items()})
        return self._registry


class Programs:
    """All programs by digest, and the finder and loader for the modules of the one that runs."""

    def __init__(self):
        self.by_digest = {}
        self.current = None

    def load(self, digest, files):
        self.by_digest[digest] = Program(files)

    def enter(self, digest):
        """Make this program's modules the importable ones."""
        program = self.by_digest.get(digest)
        if program is None:
            raise CodecError("the program is not loaded in the guest", "Call it again: it is then sent again.")
        if program is not self.current:
            self._leave()
            sys.modules.update(program.imported)
            self.current = program
        return program

    def _leave(self):
        if self.current is None:
            return
        for name in self.current.modules:
            module = sys.modules.pop(name, None)
            if module is not None:
                self.current.imported[name] = module

    def find_spec(self, name, path=None, target=None):
        facts = self.current.modules.get(name) if self.current is not None else None
        if facts is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=facts["file"], is_package=facts["package"])
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        program = self.current
        facts = program.modules[module.__name__]
        module.__dict__["_constant"] = lambda path, classes: _constant(program.files[path], classes)
        text = program.files[facts["path"]].decode("utf-8")
        for unit in _units(facts, text):
            exec(_compile(*unit, facts["future"]), module.__dict__)


def _constant(data, classes):
    """A constant that came as an encoded value; ``classes`` are those of the program's that it needs."""
    message = read_message(io.BytesIO(data).readinto)
    if message is None:
        raise CodecError("an empty constant")
    return codec.decode(message.header, message.buffers, codec.Registry(classes))


def _units(facts, text):
    """The parts of a module that are compiled on their own: (text at its original lines, file name)."""
    lines = _lines(text)
    for unit in facts["units"]:
        placed = []
        for start, stop, original in unit["pieces"]:
            placed.extend("\n" for _ in range(original - 1 - len(placed)))
            placed.extend(lines[start:stop])
        yield "".join(placed), unit["file"]
    if not facts["units"]:
        yield text, facts["file"]


def _lines(text):
    """The lines as Python counts them: only a newline ends one."""
    return [line + "\n" for line in text.split("\n")]


def _compile(text, file_name, future):
    _remember(text, file_name)
    flags = __future__.annotations.compiler_flag if future else 0
    return compile(text, file_name, "exec", flags=flags, dont_inherit=True)


def _remember(text, file_name):
    """Let tracebacks show the lines of a file that does not exist here."""
    lines = _lines(text)
    known = linecache.cache.get(file_name)
    if known is not None and len(known) == 4:
        for number, line in enumerate(known[2]):
            if number >= len(lines):
                lines.append(line)
            elif not lines[number].strip():
                lines[number] = line
    linecache.cache[file_name] = (len(lines), None, lines, file_name)


class Server:
    """Answers requests, one at a time, in order."""

    def __init__(self):
        self.programs = Programs()
        self._facts = {}
        sys.meta_path.insert(0, self.programs)

    def close(self):
        self.programs._leave()
        sys.meta_path.remove(self.programs)

    def answer(self, message):
        """The reply to a request, as a message, and whether to go on."""
        number = 0
        try:
            kind, number, facts, value = unseal(message)
            if kind == "call":
                return self._call(number, self._place(facts), value, message.buffers), True
            if kind == "load":
                self.programs.load(**msgpack.unpackb(facts, raw=False))
                return seal("loaded", number), True
            if kind == "exit":
                return seal("bye", number), False
            return _refusal(number, f"not a request: {kind}", ""), True
        except CodecError as error:
            return _refusal(number, error.message, error.hint), True
        except (KeyError, TypeError, ValueError) as error:
            return _refusal(number, f"a request that cannot be read: {error!r}", ""), True

    def _place(self, facts):
        """Digest and entry: the same bytes for each call of a function, so they are read once."""
        place = self._facts.get(facts)
        if place is None:
            opened = msgpack.unpackb(facts, raw=False)
            place = self._facts[facts] = opened["digest"], opened["entry"]
        return place

    def _call(self, number, place, value, buffers):
        digest, entry = place
        try:
            program = self.programs.enter(digest)
            function = program.find(entry)
            args, kwargs = codec.decode(value, buffers, program.registry())
            result = function(*args, **kwargs)
            returned = codec.encode(result, program.registry())
        except CodecError as error:
            return _refusal(number, error.message, error.hint)
        except BaseException as error:
            return _raised(number, error)
        finally:
            _flush()
        return seal("returned", number, value=returned)


def _refusal(number, message, hint):
    return seal("refused", number, msgpack.packb({"message": _short(message), "hint": _short(hint)}))


def _raised(number, error):
    try:
        message = str(error)
    except Exception:
        message = "(its text could not be made)"
    facts = {"type": type(error).__name__, "message": _short(message), "traceback": _short(_traceback(error))}
    return seal("raised", number, msgpack.packb(facts))


def _traceback(error):
    """The traceback as text, without our own frames at its start."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception as fault:
        return f"{type(error).__name__} (its traceback could not be made: {type(fault).__name__})\n"


def _is_ours(frame):
    """Whether a frame is of this package, or of the import system that called its loader."""
    name = frame.f_globals.get("__name__") or ""
    return name.startswith((__package__ + ".", "importlib.")) or frame.f_code.co_filename.startswith("<frozen importlib")


def _short(text):
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    half = TEXT_CHARACTERS_MAX // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # a function may close or replace its own streams
            pass


def _write(stream, message):
    for part in message.parts():
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]


def serve(fd_in, fd_out):
    """Answer the requests that come on one descriptor on the other, until told to exit or the end.

    Raises:
        CodecError: the stream carries something else than messages, or ends within one.
    """
    requests = io.BufferedReader(io.FileIO(fd_in, "rb", closefd=False), REQUEST_BYTES)
    replies = io.FileIO(fd_out, "wb", closefd=False)
    server = Server()
    try:
        going = True
        while going and (message := read_message(requests.readinto)) is not None:
            reply, going = server.answer(message)
            del message
            _write(replies, _sendable(reply))
    finally:
        server.close()


def _sendable(reply):
    """The reply, or a refusal in its place when it is larger than any reader accepts."""
    try:
        reply.parts()
    except CodecError as error:
        return _refusal(unseal(reply)[1], error.message, error.hint)
    return reply
