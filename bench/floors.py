"""A tighter lower bound: the reachable bound's program with what every step costs at least.

The reachable bound takes the LM head and prefill attention at their best rates. But the head reads
its weights in every step that samples, and reading the KV cache takes a number of such steps; and
attention of short prompts has no long one's rate. Both are replaced by affine functions below what
the step model charges, so that sums over steps are below too. And a run has no fewer steps than its
longest answer has tokens, each of which reads the weights. No schedule beats this bound either.
"""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.perf.hull import hull_corners
from blendsim.perf.model import StepModel
from blendsim.perf.step import in_pieces
from blendsim.prefix import SortedPrompts
from blendsim.report.optimum import Work, bounds, reachable_program, step_sizes
from blendsim.request import Workload


def bound_with_floors(
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    token_budget: int,
    replicas: int = 1,
    nano_batches: int = 1,
) -> float:
    """Seconds that any schedule of the pool takes without cascade attention, at least the reachable
    bound.
    """
    limits = bounds(workload, output_len, prompts, model, token_budget, replicas, nano_batches)
    work = limits.work
    sizes = step_sizes(model, token_budget, nano_batches)
    longest = int(output_len[prompts.order].max(initial=0))
    beside = prefill_floor(work, len(prompts.order), model)
    beside += head_floor(work, longest, model, nano_batches)
    program = reachable_program(work, beside / replicas, model, sizes, replicas, longest)
    return max(limits.reachable, program.seconds)


def head_floor(work: Work, longest: int, model: StepModel, nano_batches: int) -> float:
    """Seconds of the LM head: lines a + b·s below its cost for s = 1, 2, … positions, summed over
    the steps that sample.

    A step that decodes samples and its private reads fit in the KV cache, so there are at least
    private reads / capacity of them; and a request samples once a step.
    """
    capacity = model.system.kv_blocks * model.system.block_tokens
    steps = max(work.private_reads / capacity, longest)
    head = np.minimum(model.tables.head, in_pieces(model.tables, nano_batches).head)
    # NOTE: beyond the table the cost grows at its last rate, which lines under it must not exceed.
    lines = lower_lines(np.arange(1.0, len(head)), head[1:], head[-1] / (len(head) - 1))
    return float((lines @ np.array([steps, work.sampled])).max(initial=0.0))


def prefill_floor(work: Work, requests: int, model: StepModel) -> float:
    """Seconds of prefill attention: lines α·tokens + β·pairs below what every step is charged."""
    tokens = work.tokens - work.sampled + requests  # of prompts, without what sharing saves
    return float((prefill_lines(model) @ np.array([tokens, work.pairs])).max(initial=0.0))


def prefill_lines(model: StepModel) -> Floats:
    """(k, 2) lines (α, β).

    A step of q tokens with P pairs is charged P·T(s)/((s + 1)/2), T being the profile's seconds a
    token at the reach s ≤ 2·P/q − 1. With α, β ≥ 0 and T(s) ≥ α + β·(s + 1)/2 this is at least
    P·α/((s + 1)/2) + β·P ≥ α·q + β·P. T is linear between the lengths of the profile, and a
    batch's time between its batches, so these are where T is looked at.
    """
    lengths, seconds = model.tables.prefill_lengths, model.tables.prefill
    if lengths[0] > 1.0:  # shorter reaches are extrapolated
        slope = (seconds[:, 1] - seconds[:, 0]) / (lengths[1] - lengths[0])
        below = seconds[:, :1] - (slope * (lengths[0] - 1.0))[:, None]
        lengths, seconds = np.append(1.0, lengths), np.hstack([below, seconds])
    least = seconds.min(axis=0)
    return lower_lines(0.5 * (lengths + 1.0), least, least[-1] / (0.5 * (lengths[-1] + 1.0)))


def lower_lines(x: Floats, y: Floats, steepest: float) -> Floats:
    """(k, 2) lines a + b·x with a ≥ 0 and 0 ≤ b ≤ `steepest`, none above any point (x, y): those
    through two neighbours of the points' lower hull, one through 0 and a level one.
    """
    hull = hull_corners(x, y)
    rise = np.diff(y[hull]) / np.diff(x[hull])
    tried = np.concatenate([[0.0, min(float((y / x).min()), steepest)], rise])
    tried = tried[(tried >= 0.0) & (tried <= steepest)]
    start = (y[None, :] - tried[:, None] * x[None, :]).min(axis=1)
    return np.asarray(np.column_stack([start, tried])[start >= 0.0], np.float64)
