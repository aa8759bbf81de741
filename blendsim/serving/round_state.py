"""What an engine that works in rounds (SGLang) knows besides the serving core's state: the line of
waiting requests, what running ones may still generate, and how much of that admission reserves.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.serving.flavour import DFS_WEIGHT, LPM, Flavour
from blendsim.serving.state import DECODING, WAITING, State

CLIP = 4_096  # no request is taken to generate more than this, however much it may
FIRST_RATIO = 0.7  # share of what running requests may still generate that is reserved at first
LEAST_RATIO = 0.14  # of the first one
DECAY_STEPS = 600  # decode steps from the first ratio to the least

IN_LINE, BY_PREFIX, BY_WEIGHT = 0, 1, 2  # how the line of waiting requests is sorted
LIMITED, FIXED = 0, 1  # a request may end before its limit, or its length is forced

_INT = np.int64

ROUND = np.dtype(
    [
        # rules, constant over a run
        ("mixed", _INT),  # decodes join prefill steps
        ("order", _INT),  # IN_LINE, BY_PREFIX or BY_WEIGHT
        ("least_ratio", np.float64),
        ("decay", np.float64),
        # where the run is
        ("ratio", np.float64),  # of what limited requests may still generate, reserved
        ("full", _INT),  # nobody is tried until somebody leaves
        ("decoded", _INT),  # 1 when this step decodes
        ("pending", _INT),  # tokens this round's prompts compute
        ("promised", _INT),  # tokens this round sets aside, for now and for later
        ("head", _INT),  # where the line begins in its ring
        ("refreshes", _INT),  # passes over the line since the start, unsorted ones
        ("stamp", _INT),  # counts sorted passes
    ],
    align=True,
)

OWED = np.dtype(
    [
        ("open", _INT),  # decoding requests that may generate at most CLIP more
        ("end_sum", _INT),  # Σ of the steps at which those will have generated all they may
        ("clipped", _INT),  # the others
    ],
    align=True,
)


class Rounds(NamedTuple):
    """The state of the rounds. Arrays only, so that kernels take it as it is."""

    scalars: Any  # (1,) ROUND
    owed: Any  # (2,) OWED, LIMITED and FIXED
    falls: Ints  # (2, longest output + 2), ring by step: who stops being clipped then
    max_new: Ints  # (n,), output tokens request k may generate
    fixed: Ints  # (n,), FIXED or LIMITED
    line: Ints  # (n,), ring of waiting requests
    # scratch of the sorted orders: a column a node, and one a request
    seen: Ints  # the pass that met a node last
    weight: Ints  # waiting requests at a node and below it
    child: Ints  # its heaviest child met in this pass
    sibling: Ints  # the next lighter one
    first: Ints  # its first waiting request
    met: Ints  # nodes met in this pass
    behind: Ints  # (n,), the next waiting request at the same node


def new_rounds(state: State, limits: Ints, flavour: Flavour) -> Rounds:
    """Rounds for a fresh `state`. `limits` are output limits, 0 where a request has none: its
    length is then taken to be forced.
    """
    n = len(state.requests)
    waiting = np.asarray(state.queue)[: int(state.scalars[0].back) + 1]
    assert np.array_equal(waiting, np.arange(n)), "a request's number is its place in the plan"
    output = np.asarray(state.requests.output)
    is_dual = int(state.scalars[0].dual_scan) == 1
    has_prefixes = len(state.nodes) > 1
    sorts = flavour.queue_order in (LPM, DFS_WEIGHT) and has_prefixes and not is_dual
    scalars: Any = np.zeros(1, ROUND).view(np.recarray)
    q = scalars[0]
    q.mixed = flavour.mixed_chunk
    if sorts:
        q.order = BY_PREFIX if flavour.queue_order == LPM else BY_WEIGHT
    q.ratio = min(1.0, FIRST_RATIO * flavour.conservativeness)
    q.least_ratio = LEAST_RATIO * q.ratio
    q.decay = (q.ratio - q.least_ratio) / DECAY_STEPS
    nodes = len(state.nodes) if sorts else 0
    return Rounds(
        scalars=scalars,
        owed=np.zeros(2, OWED).view(np.recarray),
        falls=np.zeros((2, len(state.finish)), np.int64),
        max_new=np.maximum(limits, output),
        fixed=np.where(limits > 0, LIMITED, FIXED).astype(np.int64),
        line=np.arange(n, dtype=np.int64),
        seen=np.zeros(nodes, np.int64),
        weight=np.zeros(nodes, np.int64),
        child=np.zeros(nodes, np.int64),
        sibling=np.zeros(nodes, np.int64),
        first=np.zeros(nodes, np.int64),
        met=np.zeros(nodes, np.int64),
        behind=np.zeros(n if sorts else 0, np.int64),
    )


def check_rounds(state: State, rounds: Rounds) -> None:
    """Assert, between steps, that the line and the sums over running requests are what counting
    anew gives.
    """
    s, q = state.scalars[0], rounds.scalars[0]
    requests: Any = state.requests
    decoding = np.flatnonzero(requests.status == DECODING)
    generated = (
        requests.generated[decoding] + int(s.step) - np.asarray(requests.start_step)[decoding]
    )
    left = np.minimum(rounds.max_new[decoding] - generated, CLIP)
    for kind in (LIMITED, FIXED):
        owed = rounds.owed[kind]
        counted = int(owed.end_sum - owed.open * s.step + owed.clipped * CLIP)
        found = int(left[rounds.fixed[decoding] == kind].sum())
        assert found == counted, f"{found} tokens may still be generated, counted {counted}"
    # NOTE: not bounded by the least ratio: who was retracted may leave less until the next decode.
    assert 0.0 <= q.ratio <= 1.0, f"a ratio is a share, not {q.ratio}"
    waiting = np.flatnonzero(requests.status == WAITING)
    in_line = len(waiting)
    if int(s.dual_scan) == 1:
        ends = waiting[(waiting >= int(s.front)) & (waiting <= int(s.back))]
        in_line -= len(ends)
        waiting = np.setdiff1d(waiting, ends)
    line = rounds.line[(int(q.head) + np.arange(in_line)) % len(requests)]
    assert np.array_equal(np.sort(line), waiting), "everybody who waits stands in line once"
