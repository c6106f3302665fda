"""Locks and queues that wait as they should where there are no threads.

The C library of the runtime has no way to wait for a lock: a lock that is held, and acquired by who waits for
it, ends the whole program with a trap. Without threads nobody releases a lock while a program waits for it, so
waiting with a limit of time is sleeping for so long, and looking again: an ``Event().wait(1)`` in a program's
loop sleeps a second. Waiting without a limit would never end: a normal Python hangs, here it is a
``RuntimeError`` that says so, as with an event loop that has nothing left to wait for.
"""

import sys

_FOR_EVER = "this would wait for ever: there are no other threads in the virtual machine that could end the wait"


def adapt_threading(threading):
    """Replace the locks that ``threading`` and ``_thread`` give; reentrant ones never wait without threads."""
    low = sys.modules["_thread"]
    made = low.allocate_lock
    lock = _lock_type(made, low.TIMEOUT_MAX)
    threading.Lock = threading._allocate_lock = lock
    low.lock = low.LockType = low.allocate_lock = low.allocate = lock


def adapt_queue(queue):
    """The queue that is written in C waits as the others do."""
    own = queue.SimpleQueue
    if own.__module__ != "_queue":  # the one in Python stands on locks
        return

    class SimpleQueue(own):
        __slots__ = ()
        __doc__ = own.__doc__

        def get(self, block=True, timeout=None):
            if block and timeout is not None and timeout < 0:
                raise ValueError("'timeout' must be a non-negative number")
            if block and self.empty():
                _sleep(timeout)
            return super().get(False)

    SimpleQueue.__module__ = "_queue"
    SimpleQueue.__qualname__ = "SimpleQueue"
    queue.SimpleQueue = SimpleQueue


def _sleep(seconds):
    """Wait for something that nobody can do meanwhile but a finaliser or a signal of the program's own."""
    if seconds is None:
        raise RuntimeError(_FOR_EVER)
    import time

    time.sleep(seconds)


def _lock_type(made, timeout_max):
    class lock:
        """A lock object is a synchronization primitive; see ``threading.Lock``."""

        __slots__ = ("_lock", "_take", "release", "locked", "__weakref__")

        def __init__(self):
            own = self._lock = made()
            self._take, self.release, self.locked = own.acquire, own.release, own.locked

        def acquire(self, blocking=True, timeout=-1):
            if not blocking or timeout == 0:
                return self._take(blocking, timeout)
            if timeout != -1 and timeout < 0:
                raise ValueError("timeout value must be a non-negative number")
            if timeout > timeout_max:
                raise OverflowError("timeout value is too large")
            if self._take(False):
                return True
            _sleep(None if timeout == -1 else timeout)
            return self._take(False)

        def __enter__(self):
            return self._take(False) or self.acquire()

        def __exit__(self, *error):
            self.release()

        def _at_fork_reinit(self):
            self._lock._at_fork_reinit()

        def __repr__(self):
            return repr(self._lock)

        def __reduce_ex__(self, protocol):
            raise TypeError("cannot pickle '_thread.lock' object")

        acquire_lock = acquire
        release_lock = property(lambda self: self.release)
        locked_lock = property(lambda self: self.locked)

    lock.__module__, lock.__qualname__ = "_thread", "lock"
    return lock
