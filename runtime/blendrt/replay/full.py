"""Full replay: every step of a plan, executed and timed, rank after rank on one device.

The same serving core that the simulator runs decides the steps, so that all counts of the step log
are the simulator's, row by row, and only the times are found out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from blendrt.batch import BatchBuilder, OutputTokens
from blendrt.clock import clock_for
from blendrt.engine import Engine
from blendrt.loading import (
    Runtime,
    make_pool,
    require_attention_room,
)
from blendrt.pages import pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.replay.warm_up import warm_executor
from blendrt.tokens import PromptTokens
from blendsim.serving.core import ServingCore
from blendsim.steplog import HALVED, StepLog


class FullReplay:
    """A plan's run on a runtime: its step log while it grows, and what the model answered."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._recorder = Recorder()
        self._done = 0
        #: Output tokens of each request that is done, by workload row; filled rank by rank.
        self.outputs: list[list[int]] = [[] for _ in range(len(job.workload))]
        #: Seconds of host work of every step of the ranks that are done.
        self.host_seconds: list[float] = []

    def measure(self, runtime: Runtime, told: Callable[[int], None] = lambda _: None) -> None:
        """Run the plan to its end. `told` hears how many requests are done.

        Ranks start at 0 s each, as they would side by side. If it fails, `log` holds the steps
        executed so far.
        """
        job, decoder = self._job, runtime.decoder
        longest = int((job.workload.prompt_len + job.output_len).max())
        require_attention_room(decoder, job.flavour.token_budget, longest)
        cores = {rank: job.core(rank) for rank in job.ranks}
        pool = make_pool(runtime, max(map(pool_pages, cores.values())), job.system)
        tokens = PromptTokens(job.workload, decoder.config.vocab, runtime.seed)
        advice = "plan again with fewer kv_bytes or a smaller --token-budget"
        budget = job.flavour.token_budget
        with warm_executor(runtime, pool, budget, lambda: len(self._recorder), advice) as executor:
            for rank, core in cores.items():
                outputs = OutputTokens(core.state.requests.output, decoder.device)
                builder = BatchBuilder(core, tokens, outputs, decoder.device)
                engine = Engine(core, builder, executor, clock_for(decoder.device))
                engine.run(self._recorder, rank, lambda done: told(self._done + done))
                self.host_seconds += engine.host_seconds
                self._keep(core, outputs)

    def _keep(self, core: ServingCore, kept: OutputTokens) -> None:
        """A rank is done; its requests' outputs come off the device."""
        self._done += len(core.rows)
        for row, output in zip(core.rows.tolist(), kept.lists(), strict=True):
            self.outputs[row] = output

    def log(self, meta: Mapping[str, Any]) -> StepLog:
        """The steps so far. `complete` in its meta says whether these are all."""
        complete = self._done == len(self._job.workload)
        told = {HALVED: self._recorder.halved, "complete": complete}
        return self._recorder.log({**meta, **told})
