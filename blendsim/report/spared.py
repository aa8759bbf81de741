"""The most decode reads that cascade attention can spare, whatever the schedule."""

import numpy as np

from blendsim.arrays import Ints
from blendsim.prefix import SortedPrompts, build_tree, common_blocks, largest_below, longest_shared
from blendsim.request import Workload
from blendsim.system import System


def most_spared(
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    system: System,
    most_running: int,
) -> int:
    """Context tokens, when at most `most_running` requests decode in a step.

    A prefix is read once in every step in which any of its readers decodes. There are at least as
    many such steps as its longest reader has, as its readers' steps divided by how many decode at
    once, and as their private reads divided by the KV cache without the prefix, since a step holds
    all private KV it reads. That holds for replicas together: each has a copy and steps of its own.
    """
    block = system.block_tokens
    blocks = common_blocks(prompts, block)
    tree = build_tree(blocks)
    p = workload.prompt_len[prompts.order]
    steps = output_len[prompts.order] - 1
    path = longest_shared(blocks) * block
    private = steps * (p - path) + steps * (steps + 1) // 2
    first, last = tree.first[1:], tree.last[1:]
    read = _sums(steps, first, last)
    longest = largest_below(steps, tree.parent, tree.leaf_parent)[1:]
    room = np.maximum((system.kv_blocks - tree.depth[1:]) * block, 1)
    least = np.maximum(longest, -(-read // np.minimum(last - first, most_running)))
    least = np.maximum(least, -(-_sums(private, first, last) // room))
    length = (tree.depth[1:] - tree.depth[tree.parent[1:]]) * block
    return int((length * np.maximum(read - least, 0)).sum())


def _sums(values: Ints, first: Ints, last: Ints) -> Ints:
    """Σ values[first … last − 1] of every node."""
    running = np.concatenate(([0], np.cumsum(values)))
    return np.asarray(running[last] - running[first], np.int64)
