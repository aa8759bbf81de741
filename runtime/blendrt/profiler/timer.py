"""Timers: seconds of work that is called again and again, on a CPU or a GPU.

On a GPU launches must not show, as they do not in a busy engine. So the stream is first put to
sleep for as long as the host takes to queue the work, and CUDA events bracket what then runs
without a gap. A call is told its number, so that it can turn through buffers too large for a cache.

With a filler the stream works instead of sleeping, and goes on while the host prepares what is
timed next, so that clocks are what a power limit leaves to a GPU that is never idle. Behind every
timing the GPU then tells its clock.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from blendrt.executor.streams import Partition, split_gpu
from blendrt.profiler import clocks

Call = Callable[[int], object]


class Filler(Protocol):
    """Work that keeps a GPU as busy as serving does. Nobody reads what comes of it."""

    def queue(self, seconds: float) -> float:
        """Queue about so many seconds of it on the current stream, without waiting. Tells how many
        seconds that is; 0 when none is left.
        """
        ...


class Timer(Protocol):
    """Times work on one device."""

    def seconds(self, call: Call) -> float:
        """Median seconds of one call, alone on the device."""
        ...

    def among(self, calls: Sequence[Call], beside: Call, share: float) -> list[float]:
        """Median seconds of each of `calls` in a stream of work as an engine's: all of them, one
        after another, then `beside` for `share` of their time, over and over.
        """
        ...

    def together(self, first: Call, second: Call, first_sms: int) -> float:
        """Median seconds until a call of each is done, both begun at once: the first on `first_sms`
        SMs and the second on the rest, or on two plain streams (NO_PARTITION).
        """
        ...


class WallTimer:
    """For a CPU, where a call returns when its work is done; two run one after the other."""

    REPEATS = 3  # calls of which the median counts

    def __init__(self, repeats: int = REPEATS) -> None:
        self._repeats = repeats

    def seconds(self, call: Call) -> float:
        """See `Timer`; the first call warms up."""
        call(0)
        times = []
        for i in range(self._repeats):
            start = time.perf_counter()
            call(i + 1)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def among(self, calls: Sequence[Call], beside: Call, share: float) -> list[float]:
        """See `Timer`; on a CPU it makes no difference."""
        return [self.seconds(call) for call in calls]

    def together(self, first: Call, second: Call, first_sms: int) -> float:
        """See `Timer`."""
        return self.seconds(lambda i: (first(i), second(i)))


class _Queued(NamedTuple):
    """Stretches of so many calls, each between two events."""

    events: list[tuple[torch.cuda.Event, torch.cuda.Event]]
    calls: int

    @property
    def seconds(self) -> float:
        """Median of one call, once the last event has come."""
        milliseconds: float = statistics.median(a.elapsed_time(b) for a, b in self.events)
        return milliseconds / 1e3 / self.calls


class EventTimer:
    """For a GPU: medians over `repeats` stretches of back-to-back calls."""

    REPEATS = 10  # stretches of which the median counts
    WARM_UP = 3  # calls that do not count
    #: A stretch is at least so long, so that the events' own microseconds do not count.
    STRETCH = 300e-6
    MOST_CALLS = 24  # a stretch; a stream holds about a thousand launches before the host waits
    SEGMENT = 100e-6  # of one call in a stream of work, again so that events do not count
    SETTLED = 0.25  # half of it until clocks are what the power limit leaves, half to count
    CLOCK = 2e9  # cycles a second to sleep by; a slower GPU sleeps longer
    ROUGH = 3  # stretches, where it only matters how long a call takes about
    #: Seconds of a stretch and the filler ahead of it together. So most of a kernel's timing is
    #: filler, and a stretch that is work as in serving itself (a pair) needs little of it.
    BUSY = 2e-3
    #: The filler's own launches take a part of what it covers: this many times the time to cover,
    #: of which `SURE` counts, should a higher clock make it shorter than it says.
    COVERED, SURE = 2.5, 0.75
    #: Filler behind a timing, at most. It is as long as the host last took between two.
    MOST_BEHIND = 20e-3

    def __init__(
        self,
        device: torch.device,
        repeats: int = REPEATS,
        filler: Filler | None = None,
    ) -> None:
        self._device = device
        self._repeats = repeats
        self._filler = filler
        self._ended = time.perf_counter()
        self._partitions: dict[int, Partition] = {}
        #: Megahertz right behind each timing so far, where there is a filler.
        self.clocks: list[float] = []

    def seconds(self, call: Call) -> float:
        """See `Timer`."""
        return self.stretches(lambda calls: [call(i) for i in range(calls)])

    def among(self, calls: Sequence[Call], beside: Call, share: float) -> list[float]:
        """See `Timer`. A burst runs at the highest clock; work without a pause runs at what the
        power limit leaves. So the stream goes on for `SETTLED` seconds, and its second half counts.
        """
        prepared = time.perf_counter() - self._ended
        alone = [self._rough(call) for call in calls]
        repeats = [max(1, round(self.SEGMENT / seconds)) for seconds in alone]
        once = sum(n * seconds for n, seconds in zip(repeats, alone, strict=True))
        reads = max(1, round(share * once / self._rough(beside)))
        rounds = max(8, round(self.SETTLED / ((1.0 + share) * once)))
        marks = []
        for i in range(rounds):
            mine = [self._mark()]
            for call, n in zip(calls, repeats, strict=True):
                for j in range(n):
                    call(n * i + j)
                mine.append(self._mark())
            for j in range(reads):
                beside(reads * i + j)
            marks.append(mine)
        self._wait(prepared)
        times = [
            [a.elapsed_time(b) / 1e3 / n for a, b, n in zip(mine, mine[1:], repeats, strict=False)]
            for mine in marks[rounds // 2 :]
        ]
        return [statistics.median(column) for column in zip(*times, strict=True)]

    def together(self, first: Call, second: Call, first_sms: int) -> float:
        """See `Timer`. Cuts of the GPU are kept: making one takes milliseconds."""
        if first_sms not in self._partitions:
            self._partitions[first_sms] = split_gpu(self._device, first_sms)
        parts = self._partitions[first_sms]

        def both(calls: int) -> None:
            caller = torch.cuda.current_stream(self._device)
            parts.attention.wait_stream(caller)
            parts.gemm.wait_stream(caller)
            with torch.cuda.stream(parts.attention):
                for i in range(calls):
                    first(i)
            with torch.cuda.stream(parts.gemm):
                for i in range(calls):
                    second(i)
            caller.wait_stream(parts.attention)
            caller.wait_stream(parts.gemm)

        return self.stretches(both)

    def stretches(self, run: Callable[[int], object]) -> float:
        """Median seconds of one call, where `run(n)` queues n of them."""
        prepared = time.perf_counter() - self._ended
        queued = self._queue(run, self._repeats)
        self._wait(prepared)
        return queued.seconds

    def _rough(self, call: Call) -> float:
        """About what a call takes. More is timed at once, so there is no filler behind."""
        queued = self._queue(lambda calls: [call(i) for i in range(calls)], self.ROUGH)
        queued.events[-1][1].synchronize()
        return queued.seconds

    def _queue(self, run: Callable[[int], object], repeats: int) -> _Queued:
        """So many stretches, on their way."""
        for _ in range(self.WARM_UP):
            run(1)
        torch.cuda.synchronize(self._device)
        start = time.perf_counter()
        run(1)
        issued = time.perf_counter() - start
        torch.cuda.synchronize(self._device)
        taken = time.perf_counter() - start
        calls = max(1, min(self.MOST_CALLS, int(self.STRETCH / taken) + 1))
        events = []
        for _ in range(repeats):
            begin, end = (self._event() for _ in range(2))
            self._cover(1.5 * calls * issued + 50e-6, calls * taken)
            begin.record()
            run(calls)
            end.record()
            events.append((begin, end))
        return _Queued(events, calls)

    def _cover(self, seconds: float, stretch: float) -> None:
        """Keep the stream from the next stretch, of about `stretch` seconds, for as long as it
        takes to queue it: by filler, and by sleep as far as that falls short.
        """
        if self._filler is not None:
            start = time.perf_counter()
            queued = self._filler.queue(max(self.BUSY - stretch, self.COVERED * seconds))
            seconds -= self.SURE * queued - (time.perf_counter() - start)
        if seconds > 0:
            torch.cuda._sleep(int(seconds * self.CLOCK))  # type: ignore[no-untyped-call]

    def _wait(self, prepared: float) -> None:
        """Until all that is queued is done. With a filler the GPU then tells its clock, and filler
        goes on for as long as the host took to prepare this timing: it may well take as long for
        the next.
        """
        last = self._mark()
        if self._filler is None:
            last.synchronize()
        else:
            clocks.spin()
            spun = self._mark()
            self._filler.queue(min(prepared, self.MOST_BEHIND))
            spun.synchronize()
            self.clocks.append(clocks.megahertz(last, spun))
        self._ended = time.perf_counter()

    def _mark(self) -> torch.cuda.Event:
        event = self._event()
        event.record()
        return event

    def _event(self) -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def timer_for(device: torch.device) -> EventTimer | WallTimer:
    """The timer that suits a device."""
    return EventTimer(device) if device.type == "cuda" else WallTimer()
