"""Prefix structure of a pool of prompts: one lexicographic order, common prefixes of neighbours, a
tree in columns.

The longest common prefix of two prompts is the smallest one between neighbours on the way from one
to the other, so the sorted order and its neighbours' common prefixes hold the whole tree. The same
arrays, floored to blocks, give the tree that the KV cache can use.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.request import Workload

_END = np.int64(-(2**63))  # sorts a prompt that ends before all that go on; no unit has this value


class SortedPrompts(NamedTuple):
    """Requests in lexicographic prompt order (shorter first, then row), and what each shares with
    the one before.
    """

    order: Ints  # (n,), request at sorted position i
    common: Ints  # (n,), tokens position i has in common with position i − 1; common[0] = 0


class PrefixTree(NamedTuple):
    """Inner nodes (prefixes shared by at least two requests) in preorder; node 0 is the root, the
    empty prefix.

    Leaves are sorted positions; node k covers positions first[k] … last[k] − 1. `depth` is the
    prefix's length from the root (tokens, or blocks for a block tree). A request whose prompt ends
    inside the tree hangs from its node.
    """

    parent: Ints  # (m,), parent[0] = −1 as the root has none; parents come before children
    depth: Ints  # (m,), strictly increasing along a path
    first: Ints  # (m,)
    last: Ints  # (m,)
    leaf_parent: Ints  # (n,), the deepest node of sorted position i


def sort_prompts(workload: Workload) -> SortedPrompts:
    """Sort all prompts and measure neighbours' common prefixes, in tokens. Reads each token a few
    times at most.
    """
    prompts = workload.prompts
    order = np.argsort(prompts.space, kind="stable").astype(np.int64)
    bounds = np.flatnonzero(np.diff(prompts.space[order], prepend=-1, append=-1)).astype(np.int64)
    _sort_groups(prompts.offsets, prompts.units, workload.prompt_len, order, bounds)
    common = _common_prefixes(
        prompts.offsets,
        prompts.units,
        prompts.space,
        prompts.unit_tokens,
        workload.prompt_len,
        order,
    )
    return SortedPrompts(order, common)


def subset(sorted_prompts: SortedPrompts, rows: Ints) -> SortedPrompts:
    """The same for the requests `rows` alone: what two neighbours share is the least that those
    between them share.
    """
    is_kept = np.zeros(len(sorted_prompts.order), np.bool_)
    is_kept[rows] = True
    kept = np.flatnonzero(is_kept[sorted_prompts.order])
    common = sorted_prompts.common
    if 0 < len(kept) < len(common):
        starts = np.concatenate(([0], kept[:-1] + 1))
        common = np.minimum.reduceat(common[: kept[-1] + 1], starts)
        common[0] = 0
    return SortedPrompts(sorted_prompts.order[kept], common[: len(kept)])


def build_tree(common: Ints) -> PrefixTree:
    """The tree of sorted leaves from their neighbours' common prefixes (any unit)."""
    return PrefixTree(*_build_tree(np.ascontiguousarray(common, np.int64)))


@allocating_kernel
def largest_below(values: Ints, parent: Ints, leaf_parent: Ints) -> Ints:
    """(m,), the largest of the leaves' `values` below every node of a tree, at least 0."""
    largest = np.zeros(len(parent), np.int64)
    for i in range(len(values)):
        largest[leaf_parent[i]] = max(largest[leaf_parent[i]], values[i])
    for k in range(len(parent) - 1, 0, -1):  # parents come before their children
        largest[parent[k]] = max(largest[parent[k]], largest[k])
    return largest


def common_blocks(sorted_prompts: SortedPrompts, block_tokens: int) -> Ints:
    """Neighbours' common prefixes in full blocks."""
    return sorted_prompts.common // block_tokens


def longest_shared(common: Ints) -> Ints:
    """What each sorted position shares at most with any other, in the unit of `common`: with one of
    its two neighbours.
    """
    return np.asarray(np.maximum(common, np.append(common[1:], 0)), np.int64)


def shareable_tokens(
    workload: Workload, sorted_prompts: SortedPrompts, block_tokens: int = 1
) -> int:
    """Most prompt tokens that sharing can save: every distinct prefix computed once. A block of one
    token counts what prompts have in common, whatever an engine must compute of equal ones.

    With larger blocks, only full ones are shared and the last prompt token is always computed (its
    logits give the first output token). Visiting a block's enders before its passers-by, as the
    sorted order does, loses least.
    """
    if block_tokens == 1:
        return int(sorted_prompts.common.sum())
    return int(_shared_in_order(workload, sorted_prompts, block_tokens).sum())


def shared_tokens(workload: Workload, sorted_prompts: SortedPrompts, block_tokens: int) -> Ints:
    """Prompt tokens that each request (by workload row) need not compute in the sorted order."""
    shared = np.empty(len(sorted_prompts.order), np.int64)
    shared[sorted_prompts.order] = _shared_in_order(workload, sorted_prompts, block_tokens)
    return shared


def _shared_in_order(workload: Workload, sorted_prompts: SortedPrompts, block_tokens: int) -> Ints:
    full = (workload.prompt_len[sorted_prompts.order] - 1) // block_tokens
    return np.minimum(common_blocks(sorted_prompts, block_tokens), full) * block_tokens


@kernel
def _match(units: NDArray[Any], a: int, b: int, limit: int) -> int:
    """Number of equal units at positions a… and b…, at most `limit`."""
    k = 0
    while k < limit and units[a + k] == units[b + k]:
        k += 1
    return k


@allocating_kernel
def _sort_groups(
    offsets: Ints, units: NDArray[Any], prompt_len: Ints, order: Ints, bounds: Ints
) -> None:
    """Sort `order` inside each [bounds[i], bounds[i+1]) by listed units, then prompt length, then
    row.

    Most-significant-unit-first with an explicit stack. A group first skips the prefix all its
    members have in common, so a long shared prefix is read once, in order, and not once per unit
    and pass.
    """
    stack = [
        (bounds[i], bounds[i + 1], np.int64(0))
        for i in range(len(bounds) - 1)
        if bounds[i + 1] - bounds[i] > 1
    ]
    while len(stack) > 0:
        low, high, depth = stack.pop()
        head = order[low]
        start = offsets[head]
        skip = offsets[head + 1] - start - depth
        for i in range(low + 1, high):
            row = order[i]
            here = offsets[row + 1] - offsets[row] - depth
            skip = _match(units, start + depth, offsets[row] + depth, min(skip, here))
            if skip == 0:
                break
        depth += skip
        size = high - low
        keys = np.empty(size, np.int64)
        for i in range(size):
            row = order[low + i]
            at = offsets[row] + depth
            keys[i] = units[at] if at < offsets[row + 1] else _END
        rank = np.argsort(keys, kind="mergesort")
        rows = order[low:high].copy()
        for i in range(size):
            order[low + i] = rows[rank[i]]
        i = 0
        while i < size:
            j = i + 1
            while j < size and keys[rank[j]] == keys[rank[i]]:
                j += 1
            if j - i > 1:
                if keys[rank[i]] == _END:
                    _sort_by_length(prompt_len, order, low + i, low + j)
                else:
                    stack.append((low + i, low + j, depth + 1))
            i = j


@allocating_kernel
def _sort_by_length(prompt_len: Ints, order: Ints, low: int, high: int) -> None:
    """Sort rows of equal listed content by prompt length, then row."""
    rows = np.sort(order[low:high])
    lengths = np.empty(high - low, np.int64)
    for i in range(high - low):
        lengths[i] = prompt_len[rows[i]]
    rank = np.argsort(lengths, kind="mergesort")
    for i in range(high - low):
        order[low + i] = rows[rank[i]]


@allocating_kernel
def _common_prefixes(
    offsets: Ints,
    units: NDArray[Any],
    space: NDArray[np.int32],
    unit_tokens: NDArray[np.int32],
    prompt_len: Ints,
    order: Ints,
) -> Ints:
    n = len(order)
    common = np.zeros(n, np.int64)
    for i in range(1, n):
        a, b = order[i - 1], order[i]
        if space[a] != space[b]:
            continue
        limit = min(offsets[a + 1] - offsets[a], offsets[b + 1] - offsets[b])
        tokens = _match(units, offsets[a], offsets[b], limit) * unit_tokens[space[a]]
        common[i] = min(tokens, min(prompt_len[a], prompt_len[b]))
    return common


@allocating_kernel
def _build_tree(common: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Nodes are the intervals of the neighbours' common prefixes, found with one stack, then
    numbered in preorder.
    """
    n = len(common)
    parent = np.empty(n + 1, np.int64)  # at most n − 1 inner nodes besides the root
    depth = np.empty(n + 1, np.int64)
    first = np.empty(n + 1, np.int64)
    last = np.empty(n + 1, np.int64)
    stack = np.empty(n + 1, np.int64)
    depth[0], first[0], last[0], parent[0] = 0, 0, n, -1
    count, top = 1, 0
    stack[0] = 0
    # Interval pass: `stack` holds open nodes with increasing depth.
    for i in range(1, n):
        left = i - 1
        while depth[stack[top]] > common[i]:
            closed = stack[top]
            top -= 1
            last[closed] = i
            left = first[closed]
        if depth[stack[top]] < common[i]:
            depth[count], first[count] = common[i], left
            top += 1
            stack[top] = count
            count += 1
    while top > 0:
        last[stack[top]] = n
        top -= 1
    # Preorder: by first position, and the shallower (wider) node before those it holds.
    by_depth = np.argsort(depth[:count], kind="mergesort")
    rank = by_depth[np.argsort(first[by_depth], kind="mergesort")]
    depth, first, last = depth[rank], first[rank], last[rank]
    leaf_parent = np.empty(n, np.int64)
    top = 0
    stack[0] = 0
    parent = parent[:count]
    position = 0
    for k in range(1, count):
        while position < first[k]:
            while last[stack[top]] <= position:
                top -= 1
            leaf_parent[position] = stack[top]
            position += 1
        while last[stack[top]] <= first[k]:
            top -= 1
        parent[k] = stack[top]
        top += 1
        stack[top] = k
    while position < n:
        while last[stack[top]] <= position:
            top -= 1
        leaf_parent[position] = stack[top]
        position += 1
    return parent, depth, first, last, leaf_parent
