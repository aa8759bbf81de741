"""What is being done, said on stderr once it has taken longer than a second."""

import sys
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from blendsim.cli.output import tell
from blendsim.printable import printable

PATIENCE = 1.0  # seconds of silence
LONG = 5.0  # seconds after which a terminal is told how long a stage has lasted
COLD_SECONDS = 120  # compiling all kernels: one core's time, as numba compiles one at a time


class Stage:
    """A stage as a terminal shows it: rich draws it anew several times a second."""

    def __init__(self, name: str, began: float | None = None) -> None:
        self._name = name
        self._began = time.monotonic() if began is None else began  # by `time.monotonic`

    def __rich__(self) -> Any:
        from rich.text import Text

        seconds = time.monotonic() - self._began
        return Text(f"{self._name} ({seconds:,.0f} s)" if seconds >= LONG else self._name)


class Progress:
    """Call it with the name of each stage. A terminal gets one changing line, a pipe or file a line
    a stage.
    """

    def __init__(self, is_whole_run: bool = False) -> None:
        self._is_whole_run = is_whole_run  # it compiles everything, and marks that done
        self._is_cold = False
        self._stage = ""
        self._began = 0.0  # when the stage did
        self._far = ""  # how far it is
        self._is_shown = False
        self._has_ended = False
        self._status: Any = None
        self._listens = ExitStack()
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True

    def __call__(self, stage: str) -> None:
        with self._lock:
            if self._is_cold:  # not before what was asked for is known to make sense
                self._is_cold = False
                tell(f"compiling kernels once, about {COLD_SECONDS} s")
            is_new, self._stage = stage != self._stage, printable(stage)
            if is_new:
                self._began, self._far = time.monotonic(), ""
            if is_new and self._is_shown:
                self._say()

    def share(self, what: str, share: float) -> None:
        """How far the stage is: `share`, 0 to 1, of `what`. Shown on a terminal alone."""
        if not sys.stderr.isatty():
            return
        with self._lock:
            far = printable(f"{what}: {share * 100:.0f} %")
            is_new, self._far = far != self._far, far
            if is_new and self._is_shown:
                self._say()

    def __enter__(self) -> Self:
        if self._is_whole_run:
            from blendsim import compiled

            self._is_cold = not compiled.is_warm()
            if not self._is_cold:
                self._listens.enter_context(compiled.compiling_told(_told_of_others, PATIENCE))
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._listens.close()
        with self._lock:
            self._is_shown, self._has_ended = False, True
            if self._status is not None:
                self._status.stop()
                self._status = None
        if self._is_whole_run and kind is None:
            from blendsim import compiled

            compiled.mark_warm()

    def _show(self) -> None:
        with self._lock:
            self._is_shown = not self._has_ended  # the timer may have fired just before the end
            if self._is_shown and self._stage:
                self._say()

    def _say(self) -> None:
        if not sys.stderr.isatty():
            tell(f"{self._stage} …")
            return
        if self._status is None:
            from rich.console import Console

            console = Console(stderr=True)
            self._status = console.status("")
            self._status.start()
            # NOTE: a process that is ended leaves the terminal as it is: with a cursor, then.
            console.show_cursor(True)
        self._status.update(Stage(self._far or self._stage, self._began))


def _told_of_others() -> None:
    """That something is compiled though the machine is warm."""
    tell("compiling kernels that no run before this one needed, once")
