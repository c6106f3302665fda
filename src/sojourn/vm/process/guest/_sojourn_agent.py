"""The guest half of the Python runtime. Runs inside the virtual machine, on its CPython 3.15.

``prepare`` runs once, when an image is made: it imports what the image shall hold, has the random generators
watched (``_sojourn_ledger``), and does whatever a start would do the same every time. ``start`` runs
in every process that starts from the image: it makes the interpreter that process's own (randomness, clock,
identity, environment), runs the program as ``python`` would have, ends it as ``python`` would have, and leaves
with its exit status.

Between the two lies the copy of the whole memory. So nothing here may keep a number drawn or a time read in
``prepare`` where ``start`` could see it.

What a start writes it pays for: the first write to a page copies the page. Hence three things in ``prepare``:
``_rehearse`` lets the interpreter specialise the code that starts run; ``_lasting`` lists every object, so that
the host can make them immortal, which the interpreter then never counts references of; and the states of
random generators are filled by the host, without any code running here.
"""

import array
import atexit
import builtins
import copy
import gc
import importlib
import importlib.machinery
import io
import json
import linecache
import logging
import os
import runpy
import sys
import tempfile
import threading
import time
import tokenize
import traceback
import types
import uuid
import warnings
import weakref

import _sojourn_adapt
import _sojourn_ledger

_HERE = __file__
_HOME = os.path.dirname(__file__)
_BROKEN = 70
_INTERRUPTED = 130  # what a shell says of a program that SIGINT ended
_REHEARSALS = 20
_image = {"modules": frozenset(), "count": 0, "lasting": [], "addresses": None}

# ---------------------------------------------------------------------------- when the image is made


def prepare(common, names):
    """Import the modules ``common`` and ``names``, and tidy up after them."""
    _sojourn_ledger.install()
    _image["failed"] = _import_all(common, names)
    _restore_quitters()
    # The runtime starts its interpreter isolated. A program has what ``site`` gives it and the variables that
    # it was granted, and the library asks these flags whether that is so.
    sys.flags = copy.replace(sys.flags, isolated=0, ignore_environment=0, no_site=0, safe_path=False)
    os.environ.clear()
    sys.path[:] = [path for path in sys.path if path and path != _HOME]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    _sojourn_ledger.settle()
    _image["modules"] = frozenset(sys.modules)
    _image["count"] = len(sys.modules)
    _forget()
    gc.collect()


def settle():
    """Make what ``prepare`` left ready to be copied; return what the host must know of it.

    ``failed``: the imports that could not be done, with the reason. ``enter``: the address of ``start``.
    ``ledger``: that of the ledger; ``samples``: what the host checks its idea of generators by. ``lasting``:
    address and count of the addresses of all objects.
    """
    _rehearse()
    _forget()
    gc.collect()
    _image["lasting"] = _lasting()  # kept, so that no address is that of an object that has gone
    _image["addresses"] = array.array("L", map(id, _image["lasting"]))
    facts = {
        "failed": _image.pop("failed"),
        "enter": id(start),
        "ledger": _sojourn_ledger.address(),
        "samples": _sojourn_ledger.samples(),
        "lasting": _image["addresses"].buffer_info(),
    }
    gc.freeze()  # what the image holds is never looked at again by the collector, so its pages stay shared
    return facts


def _import_all(common, names):
    """Import; return what failed."""
    failed = {}
    _sojourn_adapt.install()
    os.environ["MPLCONFIGDIR"] = "/tmp/matplotlib"  # read when matplotlib is imported, and kept by it
    try:
        for name in common:
            importlib.import_module(name)
        for name in names:
            try:
                importlib.import_module(name)
            except BaseException as error:  # noqa: BLE001 - an import may raise anything
                failed[name] = f"{type(error).__name__}: {error}"
    finally:
        del os.environ["MPLCONFIGDIR"]
    import sojourn_guest.serve  # noqa: F401 - so that functions pay for no import

    return failed


def _restore_quitters():
    """``exit`` and ``quit`` as ``site`` makes them."""
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))


def _rehearse():
    """Go the way of a start, so that the code on it is already specialised for what it meets."""
    whole = {"identity": 1, "environment": {}, "argv": [""], "path_first": [], "path_last": []}
    data = json.dumps({**whole, "kind": "code", "target": "import sys", "name": "<string>"}).encode()
    arguments = list(sys.argv), list(sys.orig_argv)
    for _ in range(_REHEARSALS):
        _renew(1)
        spec = json.loads(data)
        _set_up(spec)
        _run(spec)
        _own_modules()
        _flush()
    sys.argv[:], sys.orig_argv[:] = arguments
    _rehearse_calls()


def _rehearse_calls():
    """Answer calls as a process does that serves functions."""
    from sojourn_guest import serve

    replies = os.open("/tmp/replies", os.O_WRONLY | os.O_CREAT)
    for _ in range(_REHEARSALS):
        requests = os.open(os.path.join(_HOME, "sojourn_guest", "rehearsal"), os.O_RDONLY)
        serve.serve(requests, replies)
        os.close(requests)
    os.close(replies)
    os.unlink("/tmp/replies")


def _forget():
    """Drop what the imports and the rehearsal left that is of one process only."""
    tempfile._name_sequence = None
    uuid._node = uuid._last_timestamp = uuid._last_timestamp_v6 = uuid._last_timestamp_v7 = None
    uuid._last_counter_v7 = 0
    _fresh_main()
    linecache.clearcache()
    importlib.invalidate_caches()


def _lasting():
    """Every object there is: those that the collector knows, and what they hold."""
    seen = {}
    todo = gc.get_objects()
    while todo:
        fresh = [item for item in todo if id(item) not in seen and not isinstance(item, types.FrameType)]
        seen.update((id(item), item) for item in fresh)
        todo = gc.get_referents(*fresh)
        for item in fresh:
            if isinstance(item, types.CodeType):  # whose parts the collector is not told of
                todo += _parts(item)
    return list(seen.values())


def _parts(code):
    parts = [code.co_consts, code.co_names, code.co_filename, code.co_name, code.co_qualname]
    parts += [code.co_linetable, code.co_exceptiontable]
    return [*parts, *code.co_consts, *code.co_names]


# ------------------------------------------------------------------------------- when a process starts


def _renew(identity):
    """Make the interpreter this process's own, as far as the host has not: clock and identity."""
    _sojourn_ledger.set_identity(identity)
    logging._startTime = time.time_ns()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process()._config["authkey"] = process.AuthenticationString(os.urandom(32))


def _set_up(spec):
    asked = ()
    if spec["environment"]:
        os.environ.update(spec["environment"])
        asked = _heed(spec["environment"])
    sys.argv[:] = spec["argv"]
    sys.orig_argv[:] = ["python", *spec["argv"]]
    sys.path[:] = [*spec["path_first"], *asked, *sys.path, *spec["path_last"]]


def _heed(environment):
    """Do what the interpreter does about its variables when it begins, which in an image was earlier; return
    the folders of PYTHONPATH."""
    if "PYTHONTZPATH" in environment:
        sys.modules["zoneinfo"].reset_tzpath()
    if environment.get("PYTHONIOENCODING"):
        encoding, _, errors = environment["PYTHONIOENCODING"].partition(":")
        for stream in (sys.stdin, sys.stdout):
            stream.reconfigure(encoding=encoding or None, errors=errors or None)
        sys.stderr.reconfigure(encoding=encoding or None, errors="backslashreplace")
    if environment.get("PYTHONWARNINGS"):
        sys.warnoptions += [option for option in environment["PYTHONWARNINGS"].split(",") if option]
        warnings._processoptions(sys.warnoptions)
    return [folder for folder in environment.get("PYTHONPATH", "").split(":") if folder]


def start(data):
    """Run the program that ``data`` describes (JSON); never returns, and never raises: a
    traceback from here would show the environment."""
    status = _BROKEN
    try:
        spec = json.loads(data)
        _renew(spec["identity"])
        _set_up(spec)
        status = _run(spec)
        status = _finish(status)
    except BaseException as error:  # noqa: BLE001 - for instance, a program that broke what we stand on
        os.write(2, f"the interpreter could not end in order: {type(error).__name__}\n".encode())
    _leave(status)


def _run(spec):
    """The program's exit status."""
    try:
        _RUN[spec["kind"]](spec)
    except SystemExit as error:
        return _status(error.code)
    except BaseException as error:  # noqa: BLE001 - as the interpreter's own top level
        _report(error)
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _fresh_main():
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    return main


def _run_script(spec):
    path = spec["target"]
    main = sys.modules["__main__"]
    with io.open_code(path) as file:
        source = file.read()
    code = compile(source, path, "exec", dont_inherit=True)
    main.__file__ = path
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    main.__cached__ = None
    exec(code, main.__dict__)


def _run_code(spec):
    main = sys.modules["__main__"]
    name, source = spec["name"], spec["target"]
    main.__loader__ = importlib.machinery.BuiltinImporter
    code = compile(source, name, "exec", dont_inherit=True)
    linecache._register_code(code, source, name)
    exec(code, main.__dict__)


def _run_module(spec):
    runpy._run_module_as_main(spec["target"])


def _run_directory(spec):
    sys.path.insert(0, spec["target"])
    runpy._run_module_as_main("__main__", alter_argv=False)


def _run_serve(spec):
    from sojourn_guest import serve

    serve.serve(*spec["descriptors"])


_RUN = {
    "script": _run_script,
    "code": _run_code,
    "module": _run_module,
    "directory": _run_directory,
    "serve": _run_serve,
}


def _status(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 31) <= code < 1 << 31 else 0xFF
    print(code, file=sys.stderr)
    return 1


def _report(error):
    """Print a traceback as the interpreter does: without the frames that started the program."""
    _strip(error)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as inner:
        _leave(_finish(_status(inner.code)))
    except BaseException as inner:  # noqa: BLE001 - a hook of the program may raise anything
        _strip(inner)
        print("Error in sys.excepthook:", file=sys.stderr)
        sys.__excepthook__(type(inner), inner, inner.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)


def _strip(error):
    """Take our own frames off the outer end of a traceback."""
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename == _HERE:
        entry = entry.tb_next
    error.__traceback__ = entry


# -------------------------------------------------------------------------------- when a program ends


def _finish(status):
    """What the interpreter does at its end that a program can see: exit functions, finalisers, open
    files. The interpreter itself is not taken apart: its memory is about to be dropped as a whole."""
    sys.last_exc = sys.last_value = sys.last_traceback = None
    threading._shutdown()
    atexit._run_exitfuncs()
    _flush()
    # In the interpreter's own order: let go of the modules, collect, and only then empty those that live on.
    names = [*_own_modules(), "__main__"]
    modules = [sys.modules.pop(name, None) for name in names]
    left = [weakref.ref(module) for module in modules if isinstance(module, types.ModuleType)]
    modules.clear()
    gc.collect()
    for reference in left:
        module = reference()
        if module is not None:
            _clear(module)
    gc.collect()
    return status if _flush() else status or 120


def _own_modules():
    """The names of the modules that the program imported itself, the latest first. Looking at the image's
    own would write to their pages (reference counts) and so copy them."""
    names = []
    left = len(sys.modules) - _image["count"]
    for name in reversed(sys.modules):
        if name not in _image["modules"] and name != "__main__":
            names.append(name)
        elif len(names) >= left:
            break
    return names


def _clear(module):
    """Drop a module's names as the interpreter does: private ones first, ``__builtins__`` never."""
    names = module.__dict__
    for private in (True, False):
        for name in list(names):
            starts = name.startswith("_") and not name.startswith("__")
            if names.get(name) is not None and name != "__builtins__" and (starts or not private):
                names[name] = None


def _flush():
    fine = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            fine = False
    return fine


def _leave(status):
    os._exit(status)
