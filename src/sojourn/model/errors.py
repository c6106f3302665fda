"""The typed errors of Sojourn.

Every error a user can meet is a ``SojournError`` with two parts: what is wrong, and how to mend it
(``hint``). ``exit_code`` is what the command line ends with. A bug of ours is *not* one of these: it
is an ordinary exception with a traceback.
"""

from __future__ import annotations


class SojournError(Exception):
    """Base of all errors that a user's input or environment can cause.

    Args:
        message: what is wrong, naming the thing.
        hint: what to do about it, as an instruction; empty when there is nothing to add.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(SojournError):
    """The request itself is wrong: an option, a value, a missing file."""

    exit_code = 2


class LimitError(UsageError):
    """A limit that cannot be: zero, negative, not a number, too small to start anything."""


class GrantError(UsageError):
    """A grant that cannot be given: no such path, two grants on one guest path, a bad form."""


class ProgramError(UsageError):
    """A program that cannot be packed or run: missing or unreadable files, a syntax error."""


class BundleError(ProgramError):
    """A bundle that is not one, is damaged, or tries to reach outside itself."""


class DependencyError(ProgramError):
    """A dependency that cannot be had inside the runtime: native code, no such release, a conflict."""


class ModuleError(ProgramError):
    """Not a WebAssembly module, or one that this virtual machine cannot run."""


class ContextError(ProgramError):
    """A process context that cannot be written, or cannot be resumed here.

    A file that cannot be read is one of the three below, because they need three responses.
    """


class NotAContextError(ContextError):
    """The file is something else: choose another file."""


class OtherVersionError(ContextError):
    """A context of a format, or a transform, that this Sojourn does not have: use the one that wrote it."""


class DamagedContextError(ContextError):
    """A context that was cut off, changed or made up: copy it again, or use an older checkpoint."""


class UnknownProcessError(UsageError):
    """No process has this pid."""


class ProcessStateError(UsageError):
    """A process that is not in a state in which this can be done to it."""


class StoreError(SojournError):
    """The store (``$SOJOURN_HOME``) cannot be used: not writable, full, owned by somebody else, damaged."""


class HostFullError(SojournError):
    """The operating system gives no more descriptors, threads or memory to this host."""


class RuntimeUnavailableError(SojournError):
    """The Python runtime or the engine is missing or damaged."""


class FunctionError(SojournError):
    """A Python function that cannot be shipped; names the name and the line."""


class CodecError(SojournError):
    """A value that cannot cross the boundary of the virtual machine, or bytes that are no value."""


class GuestError(SojournError):
    """A function raised inside the guest.

    Attributes:
        type_name: the exception's class name in the guest, such as ``"ValueError"``.
        traceback: the guest's traceback, as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.traceback.rstrip()}" if self.traceback else self.message


class ProcessFailedError(SojournError):
    """A process ended without a result: it hit a limit, trapped, was killed or was lost."""
