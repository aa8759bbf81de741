"""How the process ends: without tearing libraries down, which may abort it."""

import atexit
import os
import sys

_BROKEN_FLUSH = 120  # as the interpreter has it


class Leaving:
    """Ends the process with the status that it is told, once all that is registered to be done at
    exit has been.

    NOTE: of 180 commands that ended right after reading a small CSV on a busy machine three had
    status 134 instead of their own: aborted while the interpreter and the libraries were taken
    apart, most likely by Arrow (26.0), whose threads may be starting then. So nothing is.
    """

    def __init__(self) -> None:
        self.status: int | None = None  # None: the interpreter ends by itself, as by a signal
        # The first that is registered is called last, after those of libraries to be imported.
        atexit.register(self._leave)

    def note(self, code: object) -> None:
        """Remember the status of a SystemExit; a text has been asked to be printed."""
        self.status = code if isinstance(code, int) else None if code else 0

    def _leave(self) -> None:
        if self.status is None:
            return
        status = self.status
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:  # as it is where the command was started with it closed
                    stream.flush()
            except (OSError, ValueError):  # full, gone away or closed
                status = status or _BROKEN_FLUSH
        os._exit(status & 0xFF)
