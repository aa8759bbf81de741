"""What requests hold of the KV cache beside what they read: a shared prefix is read by each of its
readers and held once for those that run at a time, and windows are held and no context to read.
"""

from typing import Any

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel, kernel

_ROUNDS = 16  # of reckoning how many run at a time


@allocating_kernel
def _held_of_paths(parent: Ints, length: Ints, readers: Ints, at_once: float) -> Floats:
    """Blocks of its path that each request counts for, by the node it hangs from: a node's blocks
    over as many of its readers as run at a time.
    """
    held = np.zeros(len(parent))
    for k in range(1, len(parent)):  # in preorder: a parent comes before its children
        sharing = max(1.0, min(float(readers[k]), at_once))
        held[k] = held[parent[k]] + length[k] / sharing
    return held


def spared_reads(
    requests: Any, nodes: Any, readers: Ints, own: Floats, capacity: float, block_tokens: int
) -> Floats:
    """(n,), KV tokens of each request's path that it reads and others count for.

    `own` are the tokens · steps that each holds for itself, `capacity` is of the cache in tokens.
    So many run at a time as fill it: the more run, the less of its path does each count for, and
    the more run. The most there can be are taken.
    """
    parent, length = np.ascontiguousarray(nodes.parent), np.ascontiguousarray(nodes.length)
    steps = np.bincount(requests.node, requests.estimate, minlength=len(nodes))
    at_once = float(len(requests))
    for _ in range(_ROUNDS):
        held = block_tokens * _held_of_paths(parent, length, readers, at_once)
        running = capacity * steps.sum() / max(own.sum() + (held * steps).sum(), 1.0)
        if running > 0.99 * at_once:
            break
        at_once = running
    return np.asarray(block_tokens * requests.path_blocks - held[requests.node], np.float64)


@kernel
def reads_per_held(reads: float, spared: float) -> float:
    """Context tokens that are read for each that is held, by requests that read `reads` in all of
    which they do not hold `spared`.
    """
    return max(reads, 1.0) / max(reads - spared, 1.0)
