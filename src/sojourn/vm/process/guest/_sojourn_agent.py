"""The guest half of the Python runtime. Runs inside the virtual machine, on its CPython 3.15.

``prepare`` runs once, when an image is made: it imports what the image shall hold and notes which random
generators were seeded from the system. ``start`` runs in every process that starts from the image:
it makes the interpreter that process's own (fresh randomness, its clock, its identity, its environment),
runs the program as ``python`` would have, ends it as ``python`` would have, and leaves with its exit status.

Between the two lies the copy of the whole memory. So nothing here may keep a number drawn or a time read in
``prepare`` where ``start`` could see it.
"""

import atexit
import builtins
import gc
import importlib
import importlib.machinery
import io
import json
import linecache
import logging
import os
import random
import runpy
import sys
import tempfile
import threading
import time
import tokenize
import traceback
import types
import uuid
import weakref

import _sojourn_adapt

_HERE = __file__
_BROKEN = 70
_image = {"modules": frozenset(), "randoms": [], "bit_generators": []}

# ---------------------------------------------------------------------------- when the image is made


def prepare(common, names):
    """Import the modules ``common`` and ``names``; return those of ``names`` that could not be imported,
    with the reason."""
    seeded = set()
    seed = random.Random.seed

    def watched(self, a=None, version=2):
        if a is not None:
            seeded.add(id(self))
        return seed(self, a, version)

    failed = {}
    _sojourn_adapt.install()
    random.Random.seed = watched
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
        random.Random.seed = seed
        del os.environ["MPLCONFIGDIR"]
    import sojourn_guest.serve  # noqa: F401 - so that functions pay for no import

    _restore_quitters()
    _image["randoms"] = [
        found
        for found in gc.get_objects()
        if isinstance(found, random.Random)
        and not isinstance(found, random.SystemRandom)
        and id(found) not in seeded
    ]
    _image["bit_generators"] = _system_seeded_bit_generators()
    sys.path.remove(os.path.dirname(_HERE))
    sys.modules.pop("__main__", None)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__builtins__ = builtins
    linecache.clearcache()
    importlib.invalidate_caches()
    _image["modules"] = frozenset(sys.modules)
    _image["count"] = len(sys.modules)
    gc.collect()
    gc.freeze()  # what the image holds is never looked at again by the collector, so its pages stay shared
    return failed


def _system_seeded_bit_generators():
    """numpy's generators whose seed came from the system. A seed that a person wrote is a small number;
    the system's is 128 bits."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return []
    own = numpy_random.mtrand._rand._bit_generator  # the one behind numpy.random.rand and its like
    found = []
    for item in gc.get_objects():
        if isinstance(item, numpy_random.BitGenerator) and item is not own:
            entropy = getattr(item.seed_seq, "entropy", None)
            if isinstance(entropy, int) and entropy >= 1 << 64:
                found.append(item)
    return found


def _restore_quitters():
    """``exit`` and ``quit`` as ``site`` makes them."""
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))


# ------------------------------------------------------------------------------- when a process starts


def _renew(identity):
    """Make the interpreter this process's own: randomness, clock, identity."""
    for generator in _image["randoms"]:
        generator.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.set_state(("MT19937", _random_words(624), 624))
        for generator in _image["bit_generators"]:
            generator.state = type(generator)().state
    tempfile._name_sequence = None
    uuid._node = uuid._last_timestamp = None
    logging._startTime = time.time_ns()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process()._config["authkey"] = process.AuthenticationString(os.urandom(32))
    os.getpid = lambda: identity


def _random_words(count):
    """An array of words from the system: a state of the Mersenne twister, at a tenth of what seeding costs."""
    import numpy

    return numpy.frombuffer(os.urandom(4 * count), numpy.uint32)


def _set_up(spec):
    os.environ.clear()
    os.environ.update(spec["environment"])
    sys.argv[:] = spec["argv"]
    sys.orig_argv[:] = ["python", *spec["argv"]]
    sys.path[:] = [*spec["path_first"], *(p for p in sys.path if p), *spec["path_last"]]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    if "zoneinfo" in sys.modules and "PYTHONTZPATH" in os.environ:
        sys.modules["zoneinfo"].reset_tzpath()


def start(text):
    """Run the program that ``text`` (JSON) describes; never returns, and never raises: a traceback from
    here would show ``text``, and with it the environment."""
    status = _BROKEN
    try:
        spec = json.loads(text)
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
        return 1
    return 0


def _fresh_main():
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    return main


def _run_script(spec):
    path = spec["target"]
    main = _fresh_main()
    with io.open_code(path) as file:
        source = file.read()
    code = compile(source, path, "exec", dont_inherit=True)
    main.__file__ = path
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    main.__cached__ = None
    exec(code, main.__dict__)


def _run_code(spec):
    main = _fresh_main()
    name, source = spec["name"], spec["target"]
    main.__loader__ = importlib.machinery.BuiltinImporter
    code = compile(source, name, "exec", dont_inherit=True)
    linecache._register_code(code, source, name)
    exec(code, main.__dict__)


def _run_module(spec):
    _fresh_main()
    runpy._run_module_as_main(spec["target"])


def _run_directory(spec):
    _fresh_main()
    sys.path.insert(0, spec["target"])
    runpy._run_module_as_main("__main__", alter_argv=False)


def _run_serve(spec):
    _fresh_main()
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
        return code & 0xFF
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
