"""Trim: cut the last prompt of a step so that the step's tokens are a multiple of a GEMM tile.

The chunk was scheduled in full. What it loses is taken back here: its tokens, the blocks they
filled and, if it had been complete, its first output. It is then the prompt in progress; it was the
last to run, so nobody has read in this step what it had shared.
"""

from blendsim.compiled import kernel
from blendsim.serving.kv import private_blocks, take_blocks
from blendsim.serving.state import State
from blendsim.steplog import COUNTS

PREFILL_TOKENS = COUNTS.index("prefill_tokens")
PREFILL_PAIRS = COUNTS.index("prefill_pairs")
DECODE_REQUESTS = COUNTS.index("decode_requests")
CONTEXT_TOKENS = COUNTS.index("context_tokens")


@kernel
def trim(state: State) -> None:
    """Cut the step's last chunk to make its tokens a multiple of `dense_multiple`, if at least one
    token of the chunk is left; a step of decodes alone stays as it is.
    """
    s = state.scalars[0]
    last = s.chunks - 1
    tokens = s.decodes + state.counts[PREFILL_TOKENS] + state.counts[DECODE_REQUESTS]
    excess = tokens % s.dense_multiple
    if last < 0 or excess == 0 or state.chunk[2, last] <= excess:
        return
    request, before, whole = state.chunk[0, last], state.chunk[1, last], state.chunk[2, last]
    kept = whole - excess
    r = state.requests[request]
    counted = whole
    if r.computed == r.target:
        s.completed -= 1
        if r.generated > 0:  # its last token counted as a decode
            counted -= 1
            state.counts[DECODE_REQUESTS] -= 1
            state.counts[CONTEXT_TOKENS] -= r.target
    retract(state, request, r.computed, before + kept)
    r.computed = before + kept
    s.prefilling = request
    state.chunk[2, last] = kept
    state.counts[PREFILL_TOKENS] += kept - counted
    pairs = kept * before + kept * (kept + 1) // 2
    state.counts[PREFILL_PAIRS] += pairs - counted * before - counted * (counted + 1) // 2


@kernel
def retract(state: State, request: int, computed: int, kept: int) -> None:
    """Give back what the request's last chunk took to get from `kept` to `computed` tokens.

    Of the path's blocks only those go that the chunk itself had filled, `fresh_blocks` at its end.
    """
    s = state.scalars[0]
    r = state.requests[request]
    path = r.path_blocks
    lost = min(computed // s.block_tokens, path) - min(kept // s.block_tokens, path)
    lost = min(lost, s.fresh_blocks)
    freed = lost
    k = r.node
    while lost > 0:
        node = state.nodes[k]
        taken = min(node.cached, lost)
        node.cached -= taken
        s.shared_held -= taken
        lost -= taken
        k = node.parent
    private = private_blocks(state, request, kept) - private_blocks(state, request, computed)
    s.private += private
    freed -= private
    if freed >= 0:
        s.free += freed
    else:  # a path block that was stored already is the request's own again while it is filled
        take_blocks(state, -freed)
