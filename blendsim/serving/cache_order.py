"""Sorting the line by what the KV cache holds: longest prefix match and DFS weight (SGLang's `lpm`
and `dfs-weight`). Both look at every waiting request in every pass.
"""

import numpy as np

from blendsim.compiled import allocating_kernel, kernel
from blendsim.serving.kv import cached_blocks, left_behind
from blendsim.serving.line import in_line, refresh_prefixes, touch_path, waiting_requests
from blendsim.serving.round_state import BY_PREFIX, BY_WEIGHT, Rounds
from blendsim.serving.state import NONE, State

MATCHED = 128  # with more waiting, `lpm` leaves the line as it is
SHORT_HIT = 32  # up to this many cached tokens a request is compared with others in line
SHORT_SHARED = 32  # from this many common tokens on it waits for the other


@kernel
def order_line(state: State, rounds: Rounds) -> None:
    """Sort the line for a prefill round, the way the flavour does."""
    q = rounds.scalars[0]
    waiting = waiting_requests(state)
    if waiting == 0:
        return
    if q.order == BY_WEIGHT:
        sort_by_weight(state, rounds, waiting)
    elif q.order == BY_PREFIX and waiting <= MATCHED:
        sort_by_prefix(state, rounds, waiting)
    else:
        refresh_prefixes(state, rounds)


@allocating_kernel
def sort_by_prefix(state: State, rounds: Rounds, waiting: int) -> None:
    """Longest cached prefix first; one that shares its prefix with another in line, and finds next
    to nothing cached, goes last.
    """
    q = rounds.scalars[0]
    q.stamp += 1
    keys = np.empty(waiting, np.int64)
    line = np.empty(waiting, np.int64)
    for place in range(waiting):
        request = in_line(state, rounds, place)
        r = state.requests[request]
        line[place] = request
        touch_path(state, request)
        hit = cached_blocks(state, request)
        keys[place] = -min(hit, r.target - 1)
        if hit > SHORT_HIT:
            continue
        k = r.node
        while k > 0 and rounds.seen[k] != q.stamp:
            k = state.nodes[k].parent
        if state.nodes[k].depth >= SHORT_SHARED:
            keys[place] = 1
            continue
        k = r.node
        while k > 0 and rounds.seen[k] != q.stamp:
            rounds.seen[k] = q.stamp
            k = state.nodes[k].parent
    rank = np.argsort(keys, kind="mergesort")
    for place in range(waiting):
        rounds.line[(q.head + place) % len(rounds.line)] = line[rank[place]]


@kernel
def deepest_cached(state: State, request: int) -> int:
    """The node in which the request's cached prefix ends; 0 if nothing is cached."""
    if left_behind(state, request) > 0:
        return state.scalars[0].own_nodes + request
    k = state.requests[request].node
    while k > 0 and state.nodes[k].cached == 0:
        k = state.nodes[k].parent
    return k


@kernel
def meet_nodes(state: State, rounds: Rounds, waiting: int) -> int:
    """Hang every waiting request from its deepest cached node and weigh the nodes above; returns
    how many were met, the root first.
    """
    q = rounds.scalars[0]
    q.stamp += 1
    count = 1
    rounds.met[0] = 0
    rounds.seen[0] = q.stamp
    rounds.weight[0] = 0
    rounds.child[0] = NONE
    rounds.first[0] = NONE
    for place in range(waiting):
        touch_path(state, in_line(state, rounds, place))
    for place in range(waiting - 1, -1, -1):
        request = in_line(state, rounds, place)
        at = deepest_cached(state, request)
        k = at
        while rounds.seen[k] != q.stamp:
            rounds.seen[k] = q.stamp
            rounds.weight[k] = 0
            rounds.child[k] = NONE
            rounds.first[k] = NONE
            rounds.met[count] = k
            count += 1
            k = state.nodes[k].parent
        rounds.behind[request] = rounds.first[at]
        rounds.first[at] = request
        k = at
        while k > 0:
            rounds.weight[k] += 1
            k = state.nodes[k].parent
    return count


@allocating_kernel
def sort_by_weight(state: State, rounds: Rounds, waiting: int) -> None:
    """Depth-first over the cached prefixes, those with most waiting requests first, of equals the
    first in prefix order; a node's own requests come after those below it.
    """
    q = rounds.scalars[0]
    count = meet_nodes(state, rounds, waiting)
    keys = np.empty(count, np.int64)
    for i in range(count):
        k = rounds.met[i]
        keys[i] = rounds.weight[k] * len(state.nodes) - k
    rank = np.argsort(keys)  # the lightest first: each is put before its lighter siblings
    for i in range(count):
        k = rounds.met[rank[i]]
        if k > 0:
            above = state.nodes[k].parent
            rounds.sibling[k] = rounds.child[above]
            rounds.child[above] = k
    place = 0
    k = np.int64(0)
    while True:
        if rounds.child[k] != NONE:  # below first; a child taken is off its parent's list
            below = rounds.child[k]
            rounds.child[k] = rounds.sibling[below]
            k = below
            continue
        request = rounds.first[k]
        while request != NONE:
            rounds.line[(q.head + place) % len(rounds.line)] = request
            place += 1
            request = rounds.behind[request]
        if k == 0:
            break
        k = state.nodes[k].parent
