"""A clock for CPUs that lags as a busy GPU's does."""

from collections.abc import Iterator

from blendrt.clock import StepTime, WallClock


class LateClock(WallClock):
    """Tells of a step when the next one has been issued, as a GPU does that is busy."""

    def ended(self, pending: int) -> Iterator[StepTime]:
        while len(self._ended) > pending:
            yield self._ended.popleft()
