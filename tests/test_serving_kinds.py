"""The three kinds of steps, whoever runs them: the same steps from `ServingCore`, ahead and in
simulated time.
"""

from typing import Any

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.arrays import Ints
from blendsim.serving import ahead
from blendsim.serving.core import ServingCore
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.steplog import COUNTS

SMALL = {"planner": "dfs", "kv_bytes": 4_000_000_000}
KINDS: dict[str, dict[str, Any]] = {
    "batches": {"engine": "vllm"},
    "turned": {"engine": "vllm", "knobs": Knobs(long_prefill_token_threshold=512, watermark=0.01)},
    "rounds": {"engine": "sglang"},
}


class Run:
    """A small pool's plan, its steps in simulated time, and fresh cores to run it again."""

    def __init__(self, kind: str) -> None:
        self.settings = Settings(**SMALL, **KINDS[kind])
        self.pool = mixed_pool(np.random.default_rng(5), 60)
        self.problem = search.prepare(self.pool, self.settings)
        self.plan = search.plan_policy(self.problem, "dfs")
        self.counts: Ints = simulate(
            self.plan,
            self.pool,
            self.problem.true_lengths,
            self.problem.prompts,
            self.problem.model,
            self.settings.flavour(),
        ).counts

    def core(self) -> ServingCore:
        return ServingCore.from_plan(
            self.plan,
            self.pool,
            self.problem.true_lengths,
            self.problem.prompts,
            self.problem.model.system,
            self.settings.flavour(),
        )


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


def test_steps_run_ahead_are_the_simulated_ones(run: Run) -> None:
    assert np.array_equal(ahead.all_counts(run.core()), run.counts)


def test_steps_of_the_core_are_the_simulated_ones(run: Run) -> None:
    core, rows = run.core(), []
    while not core.is_done:
        core.step()
        core.commit()
        rows.append([core.counts()[name] for name in COUNTS])
    assert np.array_equal(rows, run.counts)


def test_kinds_differ() -> None:
    batches, turned, rounds = (Run(kind).counts for kind in KINDS)
    assert not np.array_equal(batches, turned)
    assert len(batches) != len(rounds)
