"""Exit statuses: what a script may want to tell apart (docs/commands.md).

A command that failed says in its exception whose fault it was. A user's error has a cause where the
machine was at fault, such as a full disk.
"""

import errno
from collections.abc import Iterator

from blendsim.errors import BlendsimError
from blendsim.files import FULL

BUG = 1  # Python's own, after a traceback
WRONG_INPUT = 2
INCOMPLETE = 3  # all is written, and some requests have an error instead of an answer
MACHINE = 4
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE

_FAILED = frozenset({*FULL, errno.ENOMEM, errno.EIO})
#: torch's errors, by name: it is loaded by few commands, and not for this.
_OUT_OF_MEMORY, _GPU_FAILED = "OutOfMemoryError", "AcceleratorError"


def status_of(error: BaseException) -> int:
    """The exit status after `error`."""
    if any(map(_is_machines, _causes(error))):
        return MACHINE
    return WRONG_INPUT if isinstance(error, BlendsimError) else BUG


def is_interrupted(error: BaseException) -> bool:
    """Whether an error is from an interrupt: libraries written in C make an ImportError of one that
    comes while they are imported.
    """
    return any(isinstance(each, KeyboardInterrupt) for each in _causes(error))


def machine_told(error: BaseException) -> str | None:
    """A line about an error that nobody expected and that the machine is at fault for; None for one
    whose traceback says more, as that of a GPU's error does: it may be ours.
    """
    if _is_torchs(error, _OUT_OF_MEMORY) or isinstance(error, MemoryError):
        what = " ".join(str(error).split())
        return f"out of memory{f' ({what})' * bool(what)}; free some, or give the command less"
    if isinstance(error, OSError) and error.errno in _FAILED:
        where = f"{error.filename}: " if error.filename else ""
        what = "make room" if error.errno in FULL else "see to that"
        return f"{where}the machine failed ({error.strerror}); {what} and try again"
    return None


def _is_machines(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FAILED):
        return True
    return _is_torchs(error, _OUT_OF_MEMORY) or _is_torchs(error, _GPU_FAILED)


def _is_torchs(error: BaseException, name: str) -> bool:
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] == "torch"
        for kind in type(error).__mro__
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those it was raised from, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
