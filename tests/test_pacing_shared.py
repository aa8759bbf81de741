"""Paced steps of chats that all begin with one long system prompt."""

import numpy as np
import pytest

from blendsim import search
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine, log_in
from blendsim.steplog import StepLog

BLOCK = 16


def chats(n: int, prefix: int) -> Workload:
    """Short prompts and answers of 250 tokens in the mean behind one prefix."""
    rng = np.random.default_rng(0)
    units = prefix // BLOCK
    shared = Prompts(
        np.arange(n + 1, dtype=np.int64) * units,
        np.tile(np.arange(units, dtype=np.int32), n),
        np.zeros(n, np.int32),
        np.array([BLOCK], np.int32),
        ("chats",),
    )
    answers = 1 + np.minimum(rng.exponential(250, n), 2_000).astype(np.int64)
    return from_lengths([prefix + 200] * n, answers, source="chats", prompts=shared)


def logs(prefix: int, sample: float) -> dict[str, StepLog]:
    """With twice as many prompts of 2,000 tokens and hardly an answer, on an A100."""
    prompts = from_lengths([2_000] * 1_600, [20] * 1_600, source="prompts")
    problem = search.prepare(pool([chats(800, prefix), prompts]), search.Settings(sample=sample))
    engine = find_engine(problem, "nanoflow")
    return {
        policy: log_in(problem, plan_policy(problem, policy), engine, problem.true_lengths)
        for policy in ("dfs", "paced")
    }


@pytest.mark.parametrize("sample", [1.0, 0.05])
def test_reads_of_a_shared_prompt_last_as_long_as_there_is_something_to_compute(
    sample: float,
) -> None:
    """Else a full cache is read at first, for longer than a step computes, and nothing later."""
    done = logs(8_000, sample)
    assert done["paced"].end < 0.97 * done["dfs"].end
    log = done["paced"]
    reads, is_early = log.count("context_tokens"), log.time("start") < log.end / 2
    assert 0.25 < reads[is_early].sum() / reads.sum() < 0.75


def test_without_a_long_prompt_the_cache_is_filled_as_ever() -> None:
    done = logs(BLOCK, 1.0)
    assert done["paced"].end < 1.01 * done["dfs"].end
