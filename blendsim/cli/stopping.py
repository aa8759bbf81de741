"""What SIGTERM does: it ends a command at once where only computing is lost, and elsewhere as an
interrupt does, so that what is to be kept of a run is written.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def terminated(number: int, _: Any) -> None:
    """The handler of a command that has something to keep."""
    raise SystemExit(128 + number)


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within, SIGTERM ends the process where `terminated` would have handled it, and an interrupt
    bears a note that nothing was written.
    """
    try:
        with _ended():
            yield
    except KeyboardInterrupt as error:
        error.add_note("nothing was written")
        raise


@contextmanager
def _ended() -> Iterator[None]:
    # NOTE: a handler in Python waits for the kernel that is compiled, which may be more than a
    # minute, and then for those of other threads.
    if not _may_end():
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminated)


def _may_end() -> bool:
    """Whether the handler is ours to change, and kernels lie where they may stay."""
    from blendsim.compiled import cache_directory

    is_main = threading.current_thread() is threading.main_thread()
    is_ours = is_main and signal.getsignal(signal.SIGTERM) is terminated
    # NOTE: kernels in a passing directory are removed when the interpreter ends, not the process.
    return is_ours and os.access(cache_directory(), os.W_OK)
