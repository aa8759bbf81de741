"""Pacing's part of a fresh state: rules, and what the requests that wait compute and read."""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.pacing import LEAST_ALIKE, Pacing
from blendsim.serving.held import reads_per_held, spared_reads
from blendsim.serving.kinds import KIND
from blendsim.serving.pacing import PACE, ROWS, Pace, note_reuse
from blendsim.serving.price import Overlap
from blendsim.serving.reads import expected_reads
from blendsim.serving.state import LEFT, NONE, State

#: Lengths whose squared coefficient of variation is no more end as expected: a tenth of the mean is
#: their standard deviation. In pools of like requests it is at about so much that a forecast one by
#: one and one by kind serve equally well (paper_repro/LOG.md). Fewer than LEAST_ALIKE lengths do
#: not say that.
TIGHT = 0.01


class Paced(NamedTuple):
    """By what a plan is paced, and what it knows of its requests' lengths, in plan order."""

    pacing: Pacing
    is_visible: Bools  # planning saw the length
    source: Ints


def new_pace(state: State, readers: Ints, paced: Paced) -> Pace:
    """A fresh Pace for a fresh state whose requests have their sides; sets their `kind` and what of
    their context is `spared`. `readers` has how many of them pass through each prefix node.
    """
    requests, s, pacing = state.requests, state.scalars[0], paced.pacing
    kinds, is_hidden = _kinds(paced)
    requests.kind = np.where(is_hidden, paced.source, NONE)
    spread = np.where(is_hidden, kinds.spread[paced.source], 1.0)
    reads = expected_reads(requests.prompt, requests.estimate, spread)
    hidden_source = paced.source[is_hidden]
    kinds.waiting_reads = np.bincount(hidden_source, reads[is_hidden], minlength=len(kinds))
    record: Any = np.zeros(1, PACE).view(np.recarray)
    _set_rules(record[0], pacing, int(s.capacity) * int(s.block_tokens))
    _take_stock(record[0], state, readers, spread, reads)
    in_line = (requests.side != LEFT) & (np.arange(len(requests)) >= s.first_count)  # not sampled
    sizes, seconds = np.array(pacing.sizes, np.int64), np.array(pacing.seconds, np.float64)
    rates, gains = sizes / seconds, pacing.gains
    largest = min(gains.most_tokens, int(s.token_budget))
    return Pace(
        record=record,
        table=np.zeros((ROWS, 3), np.int64),
        sizes=sizes,
        seconds=seconds,
        efficient=int(np.argmax(rates >= gains.efficiency * rates.max())),
        weighed=max(1, int(np.searchsorted(sizes, largest, side="right"))),
        overlap=Overlap(
            np.array([(a, b, 1.0) for a, b in pacing.lines], np.float64),
            np.array([ratio for ratio, _ in pacing.measured], np.float64),
            np.array([time for _, time in pacing.measured], np.float64),
        ),
        longest=np.maximum.accumulate(np.where(in_line, requests.estimate, 0)),
        jump=np.arange(len(requests), dtype=np.int64),
        kinds=kinds,
    )


def _kinds(paced: Paced) -> tuple[Any, Bools]:
    """The records of kinds, and whose length is to be forecast by them: neither visible nor, as
    others of its kind are, about as expected.
    """
    is_visible, source, pacing = paced.is_visible, paced.source, paced.pacing
    kinds: Any = np.zeros(int(source.max(initial=0)) + 1, KIND).view(np.recarray)
    kinds.spread = 1.0
    kinds.spread[: len(pacing.spread)] = pacing.spread[: len(kinds)]
    sampled = np.maximum(1, np.bincount(source[is_visible], minlength=len(kinds)))
    kinds.prior = np.maximum(pacing.gains.trust * sampled, 1e-9)
    is_tight = (kinds.spread <= 1.0 + TIGHT) & (sampled >= LEAST_ALIKE)
    return kinds, ~(is_visible | is_tight[source])


def _set_rules(p: Any, pacing: Pacing, capacity: int) -> None:
    """Fill what the record `p` has of rules; `capacity` is in tokens."""
    gains = pacing.gains
    p.left_room = gains.left_room
    p.read_seconds, p.reuse, p.most_context = pacing.read_seconds, 1.0, np.inf
    p.most_held = gains.fill * capacity
    p.slack, p.caution, p.crowd = gains.slack, gains.caution, gains.crowd
    p.longest_fill = gains.longest_fill
    p.most_tokens, p.look_steps = gains.most_tokens, gains.look_steps


def _take_stock(p: Any, state: State, readers: Ints, spread: Floats, reads: Floats) -> None:
    """Fill what the record `p` has of waiting requests, each of which is expected to read `reads`;
    sets their `spared`. `spread` is E[d²] / E[d]² of their lengths.
    """
    requests, nodes, s = state.requests, state.nodes, state.scalars[0]
    block_tokens = int(s.block_tokens)
    capacity, window_tokens = int(s.capacity) * block_tokens, int(s.window_blocks) * block_tokens
    saved = (nodes.length[1:] * np.maximum(readers[1:] - 1, 0)).sum() * block_tokens
    p.tokens_left = float((requests.prompt + requests.estimate - 1).sum() - saved)
    p.reads_left = float(reads.sum())
    private = requests.prompt - block_tokens * requests.path_blocks
    held = expected_reads(private + window_tokens, requests.estimate, spread)
    others = spared_reads(requests, nodes, readers, held, p.most_held, block_tokens)
    requests.spared = np.rint(others - window_tokens)  # windows are held and no context to read
    is_left = requests.side == LEFT
    p.middle = np.flatnonzero(is_left).max(initial=NONE)
    hold = held[is_left]
    p.hold_left = float(hold.sum())
    p.square_left = float((hold**2 / requests.estimate[is_left]).sum())
    p.left_longest = requests.estimate[is_left].max(initial=0)
    own = (private + requests.estimate - 1).astype(np.float64)
    p.left_tokens, p.right_tokens = own[is_left].sum(), own[~is_left].sum()
    p.left_reads, p.right_reads = reads[is_left].sum(), reads[~is_left].sum()
    spared = requests.spared * requests.estimate
    p.left_spared, p.right_spared = spared[is_left].sum(), spared[~is_left].sum()
    reuse = reads_per_held(p.left_reads + p.right_reads, p.left_spared + p.right_spared)
    most_read = max(1.0, reuse, reads_per_held(p.right_reads, p.right_spared)) * capacity
    p.unit = int(most_read) // ROWS + 1
    note_reuse(p)
