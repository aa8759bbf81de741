"""Trim: cut the last prompt of a step so that the step's tokens are a multiple of a GEMM tile.

The chunk was scheduled in full. What it loses is taken back here: its tokens, the blocks they
filled and, if it had been complete, its first output. It is then the prompt in progress; it was the
last to run, so nobody has read in this step what it had shared.
"""

from blendsim.compiled import kernel
from blendsim.serving.columns import count_chunk, step_tokens
from blendsim.serving.kv import private_blocks, take_blocks
from blendsim.serving.state import State


@kernel
def trim(state: State) -> None:
    """Cut the step's last chunk to make its tokens a multiple of `dense_multiple`, if at least one
    token of the chunk is left; a step of decodes alone stays as it is.
    """
    s = state.scalars[0]
    last = s.chunks - 1
    excess = (s.decodes + step_tokens(state.counts)) % s.dense_multiple
    if last < 0 or excess == 0 or state.chunk[2, last] <= excess:
        return
    request, before, whole = state.chunk[0, last], state.chunk[1, last], state.chunk[2, last]
    kept = whole - excess
    r = state.requests[request]
    if r.computed == r.target:
        s.completed -= 1
    count_chunk(state, request, before, whole, -1)
    count_chunk(state, request, before, kept, 1)
    give_back(state, request, r.computed, before + kept)
    r.computed = before + kept
    s.prefilling = request
    state.chunk[2, last] = kept


@kernel
def give_back(state: State, request: int, computed: int, kept: int) -> None:
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
