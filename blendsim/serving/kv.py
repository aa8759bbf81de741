"""KV blocks with prefix reuse: reference-counted prefix nodes, and which idle one is evicted first.

Blocks are counted, not numbered. A prefix node (a run of blocks shared by the same requests) is
cached from its front, is held while it has readers and idles in a list when it has none; eviction
takes the oldest idle node's last block first. A child is never idle later than its parent, so a
prefix is never evicted before what hangs from it. Where eviction knows the plan, idle nodes stand
in two lists: those without waiting readers (dead) are evicted before those with some (live). A live
node's parent is live, so that holds in both. A node gets its last waiting reader, or loses it,
only while it is held, so it never changes lists.

Blocks past the shared path belong to one
request. They are free the moment it leaves, or, where the flavour keeps them, idle as a node of the
request's own below its path: only the request itself can find them, when it comes back from a
preemption, but they stand in the line of what is evicted first.

Where some layers attend to a window of the last tokens alone, their KV lies in the same blocks. Who
runs holds a constant number of them for it, private ones, from admission until it leaves; they are
never kept.
"""

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.serving.host import forget_computed, has_host, store_evicted
from blendsim.serving.state import NONE, State


@kernel
def unlink_node(state: State, k: int) -> None:
    """Take node k out of the idle list."""
    s = state.scalars[0]
    node = state.nodes[k]
    if node.older != NONE:
        state.nodes[node.older].newer = node.newer
    elif node.waiting > 0:
        s.oldest_live = node.newer
    else:
        s.oldest_node = node.newer
    if node.newer == NONE:
        if node.waiting > 0:
            s.newest_live = node.older
        else:
            s.newest_node = node.older
    else:
        state.nodes[node.newer].older = node.older
    node.newer = NONE
    node.older = NONE


@kernel
def append_node(state: State, k: int) -> None:
    """Put node k at the young end of its idle list."""
    s = state.scalars[0]
    node = state.nodes[k]
    newest = s.newest_live if node.waiting > 0 else s.newest_node
    node.older = newest
    node.newer = NONE
    if newest != NONE:
        state.nodes[newest].newer = k
    elif node.waiting > 0:
        s.oldest_live = k
    else:
        s.oldest_node = k
    if node.waiting > 0:
        s.newest_live = k
    else:
        s.newest_node = k


@allocating_kernel
def readers_of(parent: Ints, deepest: Ints) -> Ints:
    """How many requests pass through each prefix node: `deepest` is where they hang."""
    readers = np.zeros(len(parent), np.int64)
    for k in deepest:
        readers[k] += 1
    for k in range(len(parent) - 1, 0, -1):  # in preorder: a parent comes before its children
        readers[parent[k]] += readers[k]
    return readers


@kernel
def wait_again(state: State, request: int) -> None:
    """The request, which is about to be preempted, is a waiting reader again."""
    k = state.requests[request].node
    while k > 0:
        state.nodes[k].waiting += 1
        k = state.nodes[k].parent
    if state.scalars[0].own_nodes > 0:
        state.nodes[state.scalars[0].own_nodes + request].waiting = 1


@kernel
def take_blocks(state: State, number: int) -> None:
    """Remove `number` blocks from the free ones, evicting idle prefixes when those run out, dead
    ones first.
    """
    s = state.scalars[0]
    assert number <= s.free + s.idle, "the caller has made room"
    while s.free < number:
        k = s.oldest_node if s.oldest_node != NONE else s.oldest_live
        node = state.nodes[k]
        taken = min(node.cached, number - s.free)
        node.cached -= taken
        s.idle -= taken
        s.free += taken
        if has_host(state):
            store_evicted(state, k, taken)
        if node.cached == 0:
            unlink_node(state, k)
    s.free -= number


@kernel
def hold_window(state: State) -> None:
    """Take what a request holds for layers with a window; `release` gives it back."""
    s = state.scalars[0]
    take_blocks(state, s.window_blocks)
    s.private += s.window_blocks


@kernel
def left_behind(state: State, request: int) -> int:
    """Full blocks of its own that the request left in the cache when it was preempted."""
    own = state.scalars[0].own_nodes
    return state.nodes[own + request].cached if own > 0 else 0


@kernel
def cached_blocks(state: State, request: int) -> int:
    """Blocks of the request's path that are in the cache, from the front without a gap, and those
    it left behind itself.
    """
    k = state.requests[request].node
    hit = state.requests[request].path_blocks + left_behind(state, request)
    while k > 0:
        node = state.nodes[k]
        if node.cached < node.length:
            hit = node.depth - node.length + node.cached
        k = node.parent
    return hit


@kernel
def idle_path_blocks(state: State, request: int) -> int:
    """Cached blocks on the request's path, and of its own, that nobody holds: they stop being
    evictable when it enters.
    """
    k = state.requests[request].node
    idle = left_behind(state, request)
    while k > 0:
        node = state.nodes[k]
        if node.readers == 0:
            idle += node.cached
        k = node.parent
    return idle


@kernel
def unheld_path_length(state: State, request: int) -> int:
    """Whole length of the nodes on the request's path that nobody holds."""
    k = state.requests[request].node
    length = 0
    while k > 0:
        node = state.nodes[k]
        if node.readers == 0:
            length += node.length
        k = node.parent
    return length


@kernel
def hold_path(state: State, request: int) -> None:
    """Make the request a reader of its whole path, and the holder of what it left behind."""
    s = state.scalars[0]
    left = left_behind(state, request)
    if left > 0:
        unlink_node(state, s.own_nodes + request)
        state.nodes[s.own_nodes + request].cached = 0
        s.idle -= left
        s.private += left
    if s.knows_plan == 1 and s.own_nodes > 0:
        state.nodes[s.own_nodes + request].waiting = 0
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        if node.readers == 0:
            s.shared_length += node.length
            if node.cached > 0:
                unlink_node(state, k)
                s.idle -= node.cached
                s.shared_held += node.cached
        node.readers += 1
        if s.knows_plan == 1:
            node.waiting -= 1
        k = node.parent


@kernel
def leave_path(state: State, request: int) -> None:
    """The request reads its path no more; nodes without readers become idle, deepest first."""
    s = state.scalars[0]
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        node.readers -= 1
        if node.readers == 0:
            s.shared_length -= node.length
            if node.cached > 0:
                append_node(state, k)
                s.shared_held -= node.cached
                s.idle += node.cached
        k = node.parent


@kernel
def private_blocks(state: State, request: int, tokens: int) -> int:
    """Blocks that are the request's own when `tokens` of it are computed.

    Only full blocks on the shared path are shared: a path block still being filled is private until
    it is full.
    """
    block = state.scalars[0].block_tokens
    return (tokens + block - 1) // block - min(tokens // block, state.requests[request].path_blocks)


@kernel
def missing_blocks(state: State, request: int, computed: int, upto: int) -> int:
    """New blocks needed to extend the request's KV from `computed` to `upto` tokens.

    A path block that is cached already is not needed again: what was recomputed of it, for the
    prompt's last token, is given back when the block is full, so this may be negative.
    """
    full = upto // state.scalars[0].block_tokens
    number = private_blocks(state, request, upto) - private_blocks(state, request, computed)
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        start = node.depth - node.length
        if full > start:
            number += max(0, min(full - start, node.length) - node.cached)
        k = node.parent
    return number


@kernel
def extend(state: State, request: int, computed: int, upto: int) -> None:
    """Take the blocks `missing_blocks` counts and record them where they belong."""
    s = state.scalars[0]
    if has_host(state):
        forget_computed(state, request, upto)
    take_blocks(state, missing_blocks(state, request, computed, upto))
    s.private += private_blocks(state, request, upto) - private_blocks(state, request, computed)
    full = upto // s.block_tokens
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        start = node.depth - node.length
        if full > start:
            fresh = max(0, min(full - start, node.length) - node.cached)
            node.cached += fresh
            s.shared_held += fresh
        k = node.parent


@kernel
def release(state: State, request: int, computed: int, held: int) -> None:
    """Give back all blocks of a request with `computed` tokens of KV in blocks for `held`: private
    ones become free, or idle where the flavour keeps full ones, its window free and its path idle.
    """
    s = state.scalars[0]
    private = private_blocks(state, request, held) + s.window_blocks
    s.private -= private
    s.free += private
    kept = computed // s.block_tokens - state.requests[request].path_blocks
    if s.own_nodes > 0 and kept > 0:
        state.nodes[s.own_nodes + request].cached = kept
        append_node(state, s.own_nodes + request)
        s.free -= kept
        s.idle += kept
    leave_path(state, request)
