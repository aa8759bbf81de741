"""Steps of few tokens: they read all weights for them, and where that takes more of a run than the
pool's compute or its decode reads would, neither of these is what its time goes to.
"""

import numpy as np

from blendsim.perf.model import StepModel
from blendsim.report.advice import ALONE
from blendsim.report.optimum import Bounds
from blendsim.report.tables import seconds as told
from blendsim.steplog import NOT_COUNTED, StepLog
from blendsim.wording import counted

FULL = 0.7  # of KV memory, in the mean over time


def beyond_best(log: StepLog, model: StepModel, token_budget: int) -> float:
    """Seconds that a replica's steps take in the mean of all for their tokens to go through the
    layers, alone, beyond what as many take at the best rate within the budget:
    Σ c(n) − n·min c(k)/k. In a pipeline those of a stage.
    """
    tokens, table = log.tokens, model.layer_seconds
    full = table[1 : token_budget + 1]
    best = float((full / np.arange(1, len(full) + 1)).min())
    beyond = np.maximum(table[np.minimum(tokens, len(table) - 1)] - tokens * best, 0.0)
    return float(beyond.sum()) / max(len(np.unique(log.replica)), 1) / model.system.pp


def with_small_steps(
    advice: list[str],
    log: StepLog,
    limits: Bounds,
    model: StepModel,
    token_budget: int,
    kv_use: float | None = None,
) -> list[str]:
    """The sentences of `advice.of_pool`, the last two, and of what else stands before them; that on
    what bounds the pool with one more where the run's time goes to small steps instead.

    That is where what they take beyond the best rate is more than all of the pool's compute, of its
    reads, and of its all-reduces. Where one request bounds the run, its steps are small for it, and
    it is what is told. `kv_use` is the share of KV memory in use, mean over time: where that is
    full, it is why steps are small.
    """
    is_counted = {"prefill_tokens", "decode_requests"}.isdisjoint(log.meta.get(NOT_COUNTED, []))
    run = log.end
    if not is_counted or limits.longest > ALONE * run:
        return advice
    beyond = beyond_best(log, model, token_budget)
    if beyond <= max(limits.compute, limits.memory, limits.network):
        return advice
    *before, bound, last = advice
    few = counted(_typical(log), "token")
    bound += (
        f" Small steps take more of this run's {told(run)} s than compute or reads: half of it "
        f"goes to steps of {few} or fewer, and the weights, read for so few, take "
        f"{told(beyond)} s more, alone, than for the same tokens in full steps."
    )
    if kv_use is not None and kv_use > FULL:
        bound += (
            " KV memory keeps more requests from running at a time: more GPUs a replica, or fp8 "
            "for KV or weights, leave more of it."
        )
    return [*before, bound, last]


def _typical(log: StepLog) -> int:
    """Tokens of the step in which half of the steps' time is over, the smallest first."""
    tokens, seconds = log.tokens, log.time("seconds")
    order = np.argsort(tokens, kind="stable")
    so_far = np.cumsum(seconds[order])
    return int(tokens[order][np.searchsorted(so_far, 0.5 * so_far[-1])])
