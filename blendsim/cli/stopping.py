"""What SIGTERM does: it ends a command at once where only computing is lost, and elsewhere as an
interrupt does, so that what is to be kept of a run is written. Both cut a search short.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

_ASKED = "\nstopping the search, to keep what it found; a second signal keeps nothing\n"


def terminated(number: int, _: Any) -> None:
    """The handler of a command that has something to keep."""
    raise SystemExit(128 + number)


#: Handlers that a search may replace.
_USUAL: dict[int, tuple[Any, ...]] = {
    signal.SIGINT: (signal.default_int_handler,),
    signal.SIGTERM: (signal.SIG_DFL, terminated),
}


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within, SIGTERM ends the process where `terminated` would have handled it, and an interrupt
    bears a note that nothing was written; so does what `terminated` raises where it stays.
    """
    try:
        with _ended():
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        error.add_note("nothing was written")
        raise


@contextmanager
def _ended() -> Iterator[None]:
    # NOTE: a handler in Python waits for the kernel that is compiled, which may be more than a
    # minute, and then for those of other threads. What ends at once has no last word.
    if not _may_end():
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminated)


class Cut:
    """What a search asks whether to stop (search/cut.py): an interrupt or SIGTERM asks for it, the
    first once there is something to keep. Before that, and with the second, they do what they did.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[int, Any] = {}  # handlers, by signal, while ours stand

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def keep(self) -> None:
        """From here on a signal asks to stop."""
        if self._before or self._is_asked:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in _USUAL.items():
            if signal.getsignal(number) in usual:  # one that is ignored, as by nohup, stays so
                self._before[number] = signal.signal(number, self._ask)

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self._is_asked

    def _ask(self, number: int, _: Any) -> None:
        self._is_asked = True
        self._restore()
        # NOTE: written past Python's streams and our progress, which the signal may have broken
        # into.
        with suppress(OSError):
            os.write(2, _ASKED.encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _may_end() -> bool:
    """Whether the handler is ours to change, and kernels lie where they may stay."""
    from blendsim.compiled import cache_directory

    is_main = threading.current_thread() is threading.main_thread()
    is_ours = is_main and signal.getsignal(signal.SIGTERM) is terminated
    # NOTE: kernels in a passing directory are removed when the interpreter ends, not the process.
    directory = cache_directory()
    return is_ours and directory is not None and os.access(directory, os.W_OK)
