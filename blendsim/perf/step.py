"""What a step takes in one engine: which operators it runs side by side, in how many pieces, and
which one after another.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel, kernel_where
from blendsim.perf.kernels import (
    StepTables,
    Streams,
    bound_by_streams,
    compute_seconds,
    dense_seconds,
    measured_overlap,
    memory_seconds,
    overlapped,
    prefill_seconds,
)
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import SUM, hull, overlap_lines
from blendsim.steplog import COUNTS

SHARED_READS = COUNTS.index("shared_reads")
#: Of a step's time in one piece, at most, that a measured overlap has to promise for the step to be
#: cut in two. On an H200, whose pairs promise 12 % at most, steps that were cut took 11 to 28 %
#: longer than in one piece (docs/validation.md): halves cost more than the whole, lanes that run
#: beside each other slow each other by a fifth to a quarter, and twice as much is launched.
CUT_WORTH = 0.85
_JUST = 1e-9  # relatively


class StepCosts(NamedTuple):
    """How an engine is charged for its steps."""

    tables: StepTables  # of the pieces, together; all-reduces in `layers` unless they overlap
    lines: Floats  # (k, 3), f(c, m, n) of the engine
    overlaps_network: bool
    nano_batches: int
    whole: StepTables  # of a batch in one piece, all-reduces apart
    #: Empty without cascade attention, else StepModel's `merge_seconds` alone, so that the type
    #: says whether code for it is compiled (as of serving/state.py's State).
    cascade: tuple[Any, ...] = ()
    #: Empty unless the engine overlaps, else StepModel's `streams`, with the weights once a piece.
    streams: tuple[Any, ...] = ()
    #: Empty unless the overlap was measured, else StepModel's `measured`: what was seen, of which
    #: `lines` are the convex hull. As with `cascade`, the type says which code is compiled.
    measured: tuple[Any, ...] = ()
    #: Empty unless the steps are calibrated, else Calibration's numbers: reads, step, mixed_reads,
    #: mixed_step, decode; its factors are in the tables. Told by its type as `measured` is.
    beyond: tuple[Any, ...] = ()
    #: Nano-batches are run side by side if that takes less than so much of one piece after another.
    cut_worth: float = 1.0


class StepTimes(NamedTuple):
    """Seconds of one step, and of its kinds of work if each ran alone."""

    seconds: float
    compute: float
    memory: float
    network: float


def step_costs(
    model: StepModel,
    overlaps: bool,
    overlaps_network: bool,
    nano_batches: int = 1,
    cascade: bool = False,
) -> StepCosts:
    """The costs of an engine of that kind. One that does not overlap takes the sum, whatever the
    overlap of `model` is.
    """
    own = model.charged_tables
    tables = in_pieces(own, nano_batches)
    if not (overlaps and overlaps_network):
        tables = tables._replace(layers=tables.layers_with_network)
    return StepCosts(
        tables=tables,
        lines=model.lines if overlaps else overlap_lines(SUM, model.system),
        overlaps_network=overlaps and overlaps_network,
        nano_batches=nano_batches,
        whole=own,
        cascade=(model.merge_seconds,) if cascade else (),
        streams=_streams(model, nano_batches) if overlaps else (),
        measured=model.measured if overlaps else (),
        beyond=model.calibration.numbers if model.calibration else (),
        cut_worth=cut_worth(model) if overlaps else 1.0,
    )


def _streams(model: StepModel, nano_batches: int) -> Streams:
    """Every piece reads all weights, and those of the experts that its tokens go through."""
    whole = model.streams
    experts = whole.experts
    if len(experts) and nano_batches > 1:
        experts = _in_pieces(experts, nano_batches)
    return whole._replace(weights=nano_batches * whole.weights, experts=experts)


def cut_worth(model: StepModel) -> float:
    """How much of a step's time in one piece its pieces side by side may take, for it to be cut."""
    return CUT_WORTH if model.measured else 1.0


def charged(costs: StepCosts) -> StepCosts:
    """The costs with an overlap as it is charged, of which `lines` are the hull again: where one
    was measured, steps that are not worth cutting take the sum.
    """
    if not costs.measured or costs.nano_batches == 1:
        return costs
    seen_ratios, seen_times = costs.measured
    ratios, times = _with_turns(seen_ratios, seen_times, costs.cut_worth)
    times = np.where(costs.cut_worth * (1.0 + ratios) < times, 1.0 + ratios, times)
    return costs._replace(lines=hull(ratios, times), measured=(ratios, times))


def _with_turns(ratios: Floats, times: Floats, worth: float) -> tuple[Floats, Floats]:
    """A measured overlap with two more points wherever it comes to be worth a cut, or ceases to be:
    just before, and just behind.
    """
    # From no reads at all on, and behind the last point reads alone are added.
    r, t = (np.concatenate(([start], part)) for start, part in ((0.0, ratios), (1.0, times)))
    missing = t - worth * (1.0 + r)  # below 0 where a cut is worth it
    here, there = missing[:-1], missing[1:]
    turns = np.flatnonzero(here * there < 0.0)
    at = r[turns] + (r[turns + 1] - r[turns]) * here[turns] / (here[turns] - there[turns])
    if missing[-1] < 0.0:
        at = np.append(at, r[-1] - missing[-1] / (1.0 - worth))
    added = np.concatenate((at * (1.0 - _JUST), at * (1.0 + _JUST)))
    beyond = np.maximum(added - r[-1], 0.0)
    all_ratios = np.concatenate((ratios, added))
    order = np.argsort(all_ratios, kind="stable")
    return all_ratios[order], np.concatenate((times, np.interp(added, r, t) + beyond))[order]


def in_pieces(tables: StepTables, pieces: int) -> StepTables:
    """Tables of steps whose GEMMs, small operators, all-reduces and LM head run in `pieces` as
    equal as can be, each at its own efficiency. Attention is charged as that of the whole batch.
    """
    if pieces == 1:
        return tables
    names = ("layers", "head", "network", "layers_with_network")
    cut: dict[str, Any] = {name: _in_pieces(getattr(tables, name), pieces) for name in names}
    return tables._replace(**cut)


def _in_pieces(table: Floats, pieces: int) -> Floats:
    small, larger = np.divmod(np.arange(len(table)), pieces)
    # NOTE: for the last entry alone a piece larger than all others would lie beyond the table.
    above = np.minimum(small + 1, len(table) - 1)
    return np.asarray(larger * table[above] + (pieces - larger) * table[small], np.float64)


@kernel_where("cascade", lambda costs, step, plain: plain)
def cheaper(costs: StepCosts, step: Ints, plain: StepTimes) -> StepTimes:
    """The step as it is run, `plain` or with cascade attention, whichever takes less.

    What several decodes share is read once. Their queries still meet every key, in tiles on the
    tensor cores as prompts do: a read that is spared is a query-key pair at prefill's rate instead.
    """
    shared = step[SHARED_READS]
    if shared == 0:
        return plain
    added = prefill_seconds(costs.tables, step[3], step[3], shared)
    added += dense_seconds(costs.cascade[0], step[3])
    other: StepTimes = timed(costs, step, added, step[4] - shared)
    return other if other.seconds < plain.seconds else plain


@kernel
def step_seconds(costs: StepCosts, step: Ints) -> StepTimes:
    """What a step with these counts (Batch's fields first) takes."""
    # NOTE: adding −0.0 is no instruction; adding 0.0 is one.
    plain = timed(costs, step, -0.0, step[4])
    took: StepTimes = cheaper(costs, step, plain)
    return took


@kernel_where("measured", lambda costs, c, m, n: overlapped(costs.lines, c, m, n))
def side_by_side(costs: StepCosts, compute: float, memory: float, network: float) -> float:
    """Seconds of all kinds of work together: as measured, the network after the rest, else by the
    overlap's lines.
    """
    ratios, times = costs.measured
    seconds: float = measured_overlap(ratios, times, compute, memory) + network
    return seconds


@kernel_where("beyond", lambda costs, step, memory: memory)
def reads_charged(costs: StepCosts, step: Ints, memory: float) -> float:
    """Seconds of decode reads as a calibrated runtime takes them; more where prompts are beside."""
    reads, mixed_reads = costs.beyond[0], costs.beyond[2]
    charged_as: float = reads + mixed_reads if step[0] > 0 and step[3] > 0 else reads
    return memory * charged_as


@kernel_where("beyond", lambda costs, step, added: added)
def added_charged(costs: StepCosts, step: Ints, added: float) -> float:
    """What is added to the compute of a step, with what a calibrated runtime takes for each."""
    seconds: float = costs.beyond[1] if step[0] + step[3] > 0 else 0.0
    if step[0] > 0 and step[3] > 0:
        seconds += costs.beyond[3]
    seconds += costs.beyond[4] * step[3]
    return added + seconds


@kernel_where("streams", lambda costs, step, seconds, alone, reads: seconds)
def streamed(costs: StepCosts, step: Ints, seconds: float, alone: float, reads: int) -> float:
    """Seconds of a step that overlaps, held to what its memory traffic takes."""
    tokens = step[0] + step[3]
    held: float = bound_by_streams(costs.streams, tokens, reads, seconds, alone, step[3])
    return held


@kernel
def timed(costs: StepCosts, step: Ints, added: float, reads: int) -> StepTimes:
    """The step with `reads` context tokens read by its decodes and `added` to its compute. With
    nano-batches it is run the cheaper way: side by side in pieces, or whole and one operator after
    another.
    """
    tokens = step[0] + step[3]
    added = added_charged(costs, step, added)
    memory = reads_charged(costs, step, memory_seconds(costs.tables, step[3], reads))
    compute = compute_seconds(costs.tables, step[0], step[1], step[2], step[3], step[5]) + added
    network = dense_seconds(costs.tables.network, tokens)
    if costs.overlaps_network:
        seconds = side_by_side(costs, compute, memory, network)
        seconds = streamed(costs, step, seconds, compute + memory + network, reads)
    else:
        seconds = side_by_side(costs, compute, memory, 0.0)
        seconds = streamed(costs, step, seconds, compute + memory, reads)
        compute -= network
    if costs.nano_batches > 1:
        whole = compute_seconds(costs.whole, step[0], step[1], step[2], step[3], step[5]) + added
        whole_network = dense_seconds(costs.whole.network, tokens)
        if costs.cut_worth * (whole + memory + whole_network) < seconds:
            seconds = whole + memory + whole_network
            compute = whole
            network = whole_network
    return StepTimes(seconds, compute, memory, network)
