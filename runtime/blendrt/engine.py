"""The engine: asks the serving core for a step, executes it, commits it, and notes its time.

The host issues a step while the device still runs the one before: output lengths are forced, so the
core needs no token's value to decide the next step.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from blendrt.batch import BatchBuilder
from blendrt.clock import Clock
from blendrt.executor import Executor
from blendrt.pages import Pager
from blendrt.recorder import Recorder
from blendsim.serving.core import ServingCore

#: Steps the device may still have to run when the host starts to prepare the next one.
UNFINISHED = 1


class Engine:
    """One core's requests on one executor, whose KV pool holds `blendrt.pages.pool_pages(core)`
    pages.
    """

    def __init__(
        self, core: ServingCore, builder: BatchBuilder[Any], executor: Executor, clock: Clock
    ) -> None:
        self.core = core
        self._builder = builder
        self._executor = executor
        self._clock = clock
        self._pager = Pager(core)
        #: Seconds the host took to decide and issue each step. As long as they are below the step's
        #: own, the device never waits; beyond some thousand kernels it is the host that waits.
        self.host_seconds: list[float] = []

    def run(
        self, recorder: Recorder, replica: int = 0, told: Callable[[int], None] = lambda _: None
    ) -> None:
        """Run to the end. `told` hears how many requests are done, after every step.

        If a step fails, the recorder holds all steps known to have been executed.
        """
        issued: deque[tuple[dict[str, int], bool]] = deque()

        def note(pending: int) -> None:
            for step in self._clock.ended(pending):
                if not issued:  # an interrupt came between the clock's end and what was noted of it
                    return
                counts, is_halved = issued.popleft()
                recorder.add(replica, counts, step, is_halved)

        try:
            while not self.core.is_done:
                began = time.perf_counter()
                self._issue()
                self.host_seconds.append(time.perf_counter() - began)
                issued.append((self.core.counts(), self._executor.is_halved))
                note(UNFINISHED)
                told(int(self.core.state.scalars[0].done))
        finally:
            note(0)
        self.core.check()

    def _issue(self) -> None:
        """Decide the next step and put it on the device."""
        counts = self.core.step()
        inputs = self._builder.build(self._pager.follow(), counts)
        self._clock.begin()
        self._builder.outputs.store(inputs.sample_places, self._executor.run(inputs))
        self._clock.end()
        self.core.commit()
