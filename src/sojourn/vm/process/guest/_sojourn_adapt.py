"""Modules of the guest's library that need a word more than WASI says, changed as they are imported.

The virtual machine has no sockets, no threads, no other processes, and no signals but those that a program
raises itself. CPython built for it still has the modules for all of that; most answer with an error that
says so. The exceptions are here: an event loop of asyncio can do all that its timers and descriptors ask of
it, once it does not insist on a pair of sockets to wake itself; and network and processes are refused with
an ``OSError``, which programs handle, instead of an ``AttributeError``, which they do not. And random generators
are watched (``_sojourn_ledger``).

``install`` costs a program that imports none of these modules nothing: each is changed right after it was
executed, by the import system.
"""

import sys
from importlib.machinery import PathFinder

import _sojourn_ledger
import _sojourn_waiting

_NO_NETWORK = "there is no network in the virtual machine"
_NO_PROCESSES = "there are no other processes in the virtual machine"
_NOTHING_TO_WAIT_FOR = (
    "the event loop would wait for ever: no timer is set and no descriptor watched, and there are no threads "
    "or signals in the virtual machine that could wake it"
)


def install():
    """Have the modules changed when they are imported, or now when that has happened."""
    for name, adapt in _ADAPTERS.items():
        if name in sys.modules:
            adapt(sys.modules[name])
    sys.meta_path.insert(0, _Finder)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in _ADAPTERS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Executes a module by its own loader, which the module then keeps, and changes it."""

    def __init__(self, own):
        self._own = own

    def create_module(self, spec):
        return self._own.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        _ADAPTERS[module.__name__](module)


# ------------------------------------------------------------------------------------------- asyncio


def _asyncio(unix_events):
    """Event loops without the sockets by which threads and signal handlers would wake them."""
    from asyncio import coroutines, events
    import signal

    loop = unix_events._UnixSelectorEventLoop
    loop._check_signal = staticmethod(_check_signal)
    unix_events.os = _StreamsAsDevices()
    run_once = loop._run_once

    def _make_self_pipe(self):
        self._ssock = self._csock = None

    def _close_self_pipe(self):
        pass

    def _run_once(self):
        if not (self._ready or self._stopping or self._selector.get_map()):
            if all(handle._cancelled for handle in self._scheduled):
                raise RuntimeError(_NOTHING_TO_WAIT_FOR)
        run_once(self)

    def add_signal_handler(self, sig, callback, *args):
        """Call ``callback`` in the loop when the program raises the signal ``sig``."""
        if coroutines.iscoroutine(callback) or coroutines._iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_closed()
        handle = events.Handle(callback, args, self, None)
        try:
            signal.signal(sig, lambda number, frame: self._handle_signal(number))
        except OSError:
            raise RuntimeError(f"sig {sig} cannot be caught") from None
        self._signal_handlers[sig] = handle

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        raise _no_network()

    async def getnameinfo(self, sockaddr, flags=0):
        raise _no_network()

    async def shutdown_default_executor(self, timeout=None):
        """An executor here never got a thread to start, so nothing has to be waited for."""
        self._executor_shutdown_called = True
        if self._default_executor is not None:
            self._default_executor.shutdown(wait=False)

    async def _make_subprocess_transport(self, *args, **kwargs):
        raise _no_processes()

    for method in (
        *(_make_self_pipe, _close_self_pipe, _run_once, add_signal_handler, getaddrinfo, getnameinfo),
        *(shutdown_default_executor, _make_subprocess_transport),
    ):
        method.__qualname__ = f"{loop.__name__}.{method.__name__}"
        setattr(loop, method.__name__, method)


class _StreamsAsDevices:
    """``os`` for the transports of pipes. They refuse what is neither a pipe nor a character device, and WASI
    has no word for a pipe."""

    def __getattr__(self, name):
        import os

        return getattr(os, name)

    def fstat(self, fd):
        import os
        import stat

        found = os.fstat(fd)
        return found if stat.S_IFMT(found.st_mode) else os.stat_result((stat.S_IFCHR, *found[1:]))


def _check_signal(sig):
    import signal

    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if not 0 < sig < signal.NSIG:
        raise ValueError(f"invalid signal number {sig}")


# --------------------------------------------------------------------------- network, other processes


def _no_network():
    import errno

    return OSError(errno.ENOTSUP, _NO_NETWORK)


def _no_processes():
    import errno

    return OSError(errno.ENOTSUP, _NO_PROCESSES)


def _refusing(name, error):
    def refuse(*args, **kwargs):
        raise error()

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def _socket(socket):
    """Names are resolved by nobody: what would ask for it gets an ``OSError``, not an ``AttributeError``."""
    low = sys.modules["_socket"]
    for name in ("getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        if not hasattr(low, name):
            refuse = _refusing(name, _no_network)
            setattr(low, name, refuse)
            if not hasattr(socket, name):
                setattr(socket, name, refuse)


def _multiprocessing(context):
    """Every way to a second process ends in one of these."""
    for name in ("Pipe", "Pool", "Manager", "SimpleQueue"):
        setattr(context.BaseContext, name, _refusing(name, _no_processes))
    for process in (context.Process, context.ForkProcess, context.SpawnProcess, context.ForkServerProcess):
        process._Popen = staticmethod(_refusing("_Popen", _no_processes))


_ADAPTERS = {
    "asyncio.unix_events": _asyncio,
    "socket": _socket,
    "multiprocessing.context": _multiprocessing,
    "threading": _sojourn_waiting.adapt_threading,
    "queue": _sojourn_waiting.adapt_queue,
    "numpy.random": _sojourn_ledger.watch_numpy,
}
