"""Host memory behind the KV cache: where evicted prefixes and preempted requests go, and come back
from.

Blocks are counted, not numbered. A block is on the GPU or on the host, not on both. A prefix node
has blocks cached on the GPU and behind them, without a gap, blocks on the host:

    |---- cached ----|---- on the host ----|---- to be computed ----|

`nodes[host_nodes + k]` is node k's counterpart, whose `cached` blocks are those on the host.
A node's blocks go to the host after those of the nodes below it, and the host forgets nodes in the
order in which they last got a block, the last block of each first. So a prefix is never forgotten
before what hangs from it, and a hit goes on from the GPU to the host. These kernels are
compiled only where there is a host.
"""

from typing import Any

import numpy as np

from blendsim.compiled import kernel
from blendsim.serving.columns import LOADED_BLOCKS, PREEMPTED_TOKENS, STORED_BLOCKS
from blendsim.serving.state import NONE, WAITING, State


@kernel
def has_host(state: State) -> bool:
    """Whether the replica has host memory for KV."""
    return len(state.host) > 0


@kernel
def hosted_blocks(state: State, k: int) -> int:
    """Blocks of node k that are on the host."""
    return int(state.nodes[state.scalars[0].host_nodes + k].cached)


@kernel
def unlink_hosted(state: State, k: int) -> None:
    """Take node k out of the host's list."""
    s = state.scalars[0]
    node = state.nodes[s.host_nodes + k]
    if node.older == NONE:
        s.oldest_hosted = node.newer
    else:
        state.nodes[s.host_nodes + node.older].newer = node.newer
    if node.newer == NONE:
        s.newest_hosted = node.older
    else:
        state.nodes[s.host_nodes + node.newer].older = node.older
    node.newer = NONE
    node.older = NONE


@kernel
def append_hosted(state: State, k: int) -> None:
    """Put node k at the young end of the host's list."""
    s = state.scalars[0]
    node = state.nodes[s.host_nodes + k]
    node.older = s.newest_hosted
    node.newer = NONE
    if s.newest_hosted == NONE:
        s.oldest_hosted = k
    else:
        state.nodes[s.host_nodes + s.newest_hosted].newer = k
    s.newest_hosted = k


@kernel
def forget_hosted(state: State, k: int, number: int) -> None:
    """`number` of node k's blocks are on the host no more."""
    s = state.scalars[0]
    node = state.nodes[s.host_nodes + k]
    node.cached -= number
    s.host_cached -= number
    s.host_free += number
    if number > 0 and node.cached == 0:
        unlink_hosted(state, k)


@kernel
def forget_oldest(state: State) -> None:
    """Forget prefixes, the oldest first, until no more is on the host than it has room for."""
    s = state.scalars[0]
    while s.host_free < 0:
        k = s.oldest_hosted
        forget_hosted(state, k, min(hosted_blocks(state, k), -s.host_free))


@kernel
def store_evicted(state: State, k: int, number: int) -> None:
    """Node k has just lost its last `number` blocks on the GPU: keep them on the host.

    Preempted requests' blocks stay whatever comes; a host full of them takes nothing. Where
    eviction knows the plan, what nobody waits for is not stored.
    """
    s = state.scalars[0]
    node = state.nodes[s.host_nodes + k]
    if s.knows_plan == 1 and state.nodes[k].waiting == 0:
        forget_hosted(state, k, node.cached)
        return
    if s.host_private == s.host_capacity:
        return
    if node.cached > 0:
        unlink_hosted(state, k)
    append_hosted(state, k)
    node.cached += number
    s.host_cached += number
    s.host_free -= number
    state.counts[STORED_BLOCKS] += number
    forget_oldest(state)


@kernel
def store_private(state: State, request: int, computed: int, number: int) -> bool:
    """Keep a preempted request's `number` private blocks, its KV up to `computed` tokens, if all of
    them find room. Where flavours leave them in the cache, they go the way of prefixes instead.
    """
    s = state.scalars[0]
    if s.own_nodes > 0 or number == 0 or number > s.host_capacity - s.host_private:
        return False
    state.requests[request].hosted = computed
    s.host_private += number
    s.host_free -= number
    state.counts[STORED_BLOCKS] += number
    forget_oldest(state)
    return True


@kernel
def forget_computed(state: State, request: int, upto: int) -> None:
    """Blocks of the request's path that it is about to compute up to token `upto` leave the host:
    they will be on the GPU.
    """
    full = upto // state.scalars[0].block_tokens
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        fresh = min(full - (node.depth - node.length), node.length) - node.cached
        if fresh > 0:
            forget_hosted(state, k, min(fresh, hosted_blocks(state, k)))
        k = node.parent


@kernel
def reach(state: State, request: int) -> int:
    """Blocks of the request's path that are on the GPU or on the host, from the front without a
    gap, and those it left behind itself.
    """
    r = state.requests[request]
    own = state.scalars[0].own_nodes
    blocks = r.path_blocks
    if own > 0:
        # What it left on the GPU is its own again: see hold_path.
        blocks += hosted_blocks(state, own + request)
        blocks += max(0, r.computed // state.scalars[0].block_tokens - r.path_blocks)
    k = r.node
    while k > 0:
        node = state.nodes[k]
        there = node.cached + hosted_blocks(state, k)
        if there < node.length:
            blocks = node.depth - node.length + there
        k = node.parent
    return blocks


@kernel
def fetch(state: State, request: int) -> int:
    """A request that holds its path, and starts behind what is on the GPU, starts behind what is on
    the host as well: those blocks leave the host and are booked as cached or private. Returns how
    many, for the caller to take them.

    What a preempted request stored for itself is of use only where its whole path is there.
    """
    s = state.scalars[0]
    r = state.requests[request]
    block = s.block_tokens
    there = reach(state, request)
    start = block * min(there, (r.target - 1) // block)
    loaded = 0
    if r.hosted > 0:
        number = (r.hosted + block - 1) // block - min(r.hosted // block, r.path_blocks)
        if there >= min(r.hosted // block, r.path_blocks) and r.hosted > start:
            start = r.hosted
            loaded += number
            s.private += number
        else:
            kept = max(start, block * min(r.hosted // block, r.path_blocks))
            state.counts[PREEMPTED_TOKENS] += max(0, r.hosted - kept)
        s.host_private -= number
        s.host_free += number
        r.hosted = 0
    full = start // block
    k = r.node
    while k > 0:
        node = state.nodes[k]
        moved = min(full - (node.depth - node.length), node.length) - node.cached
        if moved > 0:
            forget_hosted(state, k, moved)
            node.cached += moved
            s.shared_held += moved
            loaded += moved
        k = node.parent
    if s.own_nodes > 0:
        moved = full - max(r.path_blocks, r.computed // block)
        if moved > 0:
            forget_hosted(state, s.own_nodes + request, moved)
            s.private += moved
            loaded += moved
    r.computed = start
    state.counts[LOADED_BLOCKS] += loaded
    return loaded


def check_host(state: State) -> None:
    """Assert conservation of the host's blocks, counted anew, between steps."""
    s = state.scalars[0]
    requests: Any = state.requests
    number = int(s.host_nodes)
    nodes, hosted = state.nodes[:number], state.nodes[number:].cached
    block = int(s.block_tokens)
    stored = requests.hosted
    assert not bool(stored[requests.status != WAITING].any()), "who is not waiting is on the GPU"
    private = int((-(-stored // block) - np.minimum(stored // block, requests.path_blocks)).sum())
    assert private == int(s.host_private), f"{private} stored blocks, counted {s.host_private}"
    cached = int(hosted.sum())
    assert cached == int(s.host_cached), f"{cached} blocks on the host, counted {s.host_cached}"
    total = int(s.host_free) + private + cached
    assert total == int(s.host_capacity), (
        f"free {s.host_free} + cached {cached} + stored {private} blocks on the host = {total}, "
        f"not its capacity {s.host_capacity}"
    )
    assert int(s.host_free) >= 0, "no block of the host is given out twice"
    there = nodes.cached + hosted
    shared = nodes.length > 0
    assert bool((there[shared] <= nodes.length[shared]).all()), "a block is in one place"
    inner = np.flatnonzero((hosted > 0) & (nodes.parent > 0))
    above = nodes.parent[inner]
    assert bool((there[above] == nodes.length[above]).all()), "no gap before what is on the host"
