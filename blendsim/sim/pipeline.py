"""A replica whose layers are in stages on different GPUs: steps follow each other through them.

A step of a micro-batch enters the first stage when that is free and the micro-batch's step before
it has left the last one, since the tokens sampled there are what it goes on from. It enters each
later stage when the stage is free and what the one before computed has arrived. Every stage takes
its share of layers of what a step of the whole model takes, the last the LM head beside them.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel
from blendsim.perf.kernels import dense_seconds
from blendsim.perf.step import StepCosts, step_seconds
from blendsim.serving.columns import (
    PREEMPTED,
    PREEMPTED_TOKENS,
    SAMPLED_TOKENS,
    keep_counts,
    step_tokens,
)
from blendsim.serving.microbatch import turn_now
from blendsim.serving.state import State
from blendsim.serving.step import StepKind, commit, has_work, schedule
from blendsim.specs import BYTES_PER_VALUE
from blendsim.system import System

SENT = 2 * BYTES_PER_VALUE  # bytes a token and hidden value: what a layer gives, and the residual


class Stages(NamedTuple):
    """A pipeline's stages, and until when they and its micro-batches are busy."""

    share: Floats  # (p,), of all layers
    send: Floats  # (2,), seconds a token takes from a stage to the next, and a message
    stage_free: Floats  # (p,), seconds
    microbatch_free: Floats  # (p,), seconds


def new_stages(system: System) -> Stages:
    """Stages that are idle from time 0 on. Each GPU of a stage sends its share of a token's values
    to its counterpart over the GPU's own link.
    """
    link = system.gpu.link
    bytes_a_token = SENT * system.model.hidden / system.tp
    return Stages(
        share=np.array(system.stage_layers) / system.model.layers,
        send=np.array([bytes_a_token / link.bandwidth, link.latency]),
        stage_free=np.zeros(system.pp),
        microbatch_free=np.zeros(system.pp),
    )


@kernel
def leaves_at(stages: Stages, microbatch: int, layers: float, head: float, tokens: int) -> float:
    """When a step leaves the last stage that takes so many seconds in all layers and in the LM
    head; notes that stages and micro-batch are busy until then.
    """
    last = len(stages.share) - 1
    at = stages.microbatch_free[microbatch]
    for stage in range(last + 1):
        at = max(at, stages.stage_free[stage]) + stages.share[stage] * layers
        if stage == last:
            at += head
        stages.stage_free[stage] = at
        if stage < last:
            at += tokens * stages.send[0] + stages.send[1]
    stages.microbatch_free[microbatch] = at
    return float(at)


@kernel
def run_pipeline(
    kind: StepKind,
    state: State,
    costs: StepCosts,
    stages: Stages,
    start: float,
    counts: Ints,
    times: Floats,
) -> int:
    """`engine.run_steps` for a pipeline, to the end of all or of the rows. A micro-batch that has
    nothing to compute is passed over; whom it threw out counts in the next row.

    A row's step begins when the one before it has left the last stage, `start` for the first, and
    lasts until it has: so rows follow each other. Its seconds of each kind of work are those of a
    GPU in the mean.
    """
    now, row, passed = start, 0, 0
    out, out_tokens = 0, 0
    number = len(stages.share)
    while row < len(counts) and has_work(kind, state):
        microbatch = turn_now(state)
        schedule(kind, state)
        step = state.counts
        tokens = step_tokens(step)
        if tokens == 0:
            out += step[PREEMPTED]
            out_tokens += step[PREEMPTED_TOKENS]
            commit(kind, state)
            passed += 1
            if passed > 2 * number:
                return -1 - row
            continue
        passed = 0
        took = step_seconds(costs, step)
        head = dense_seconds(costs.tables.head, step[SAMPLED_TOKENS])
        left = leaves_at(stages, microbatch, took.seconds - head, head, tokens)
        commit(kind, state)
        keep_counts(counts, row, step)
        counts[row, PREEMPTED] += out
        counts[row, PREEMPTED_TOKENS] += out_tokens
        out, out_tokens = 0, 0
        times[row, 0] = now
        times[row, 1] = left - now
        times[row, 2] = took.compute / number
        times[row, 3] = took.memory / number
        times[row, 4] = took.network / number
        times[row, 5] = 0.0
        now = left
        row += 1
    return row
