"""Cascade attention: which context tokens of a step's decodes need not be read again.

A prefix that several decoding requests share is read once for all of them: of a prefix node with r
decoding readers, (r − 1)⁺ times its tokens are not read. A prompt in progress is no reader here.
The sum changes only when a request begins or ends to decode, and a walk of its path then keeps it.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import kernel_where
from blendsim.serving.columns import SHARED_READS
from blendsim.serving.state import DECODING, State


class Cascade(NamedTuple):
    """What a State of an engine with cascade attention knows besides."""

    decoding: Ints  # (nodes,), requests that decode and whose prompt passes through the node
    spared: Ints  # (1,), Σ (decoding − 1)⁺ · length over the nodes, blocks


def new_cascade(nodes: int) -> Cascade:
    """A fresh one: nobody decodes."""
    return Cascade(np.zeros(nodes, np.int64), np.zeros(1, np.int64))


@kernel_where("cascade", lambda state, request: None)
def join_readers(state: State, request: int) -> None:
    """The request, which starts to decode, reads its path in every step from now on."""
    cascade = state.cascade[0]
    k = state.requests[request].node
    while k > 0:
        if cascade.decoding[k] > 0:
            cascade.spared[0] += state.nodes[k].length
        cascade.decoding[k] += 1
        k = state.nodes[k].parent


@kernel_where("cascade", lambda state, request: None)
def leave_readers(state: State, request: int) -> None:
    """The request decodes no more."""
    cascade = state.cascade[0]
    k = state.requests[request].node
    while k > 0:
        cascade.decoding[k] -= 1
        if cascade.decoding[k] > 0:
            cascade.spared[0] -= state.nodes[k].length
        k = state.nodes[k].parent


@kernel_where("cascade", lambda state: None)
def note_shared_reads(state: State) -> None:
    """Count the step's: all that decode, do it in this step."""
    state.counts[SHARED_READS] = state.cascade[0].spared[0] * state.scalars[0].block_tokens


def check_cascade(state: State, mine: Ints) -> None:
    """Assert that the sum is what counting anew gives for the requests `mine`."""
    cascade = state.cascade[0]
    decoding = np.zeros_like(cascade.decoding)
    at = state.requests.node[mine[state.requests.status[mine] == DECODING]]
    while (at > 0).any():
        at = at[at > 0]
        np.add.at(decoding, at, 1)
        at = state.nodes.parent[at]
    assert np.array_equal(decoding, cascade.decoding), "decoding readers of prefixes are counted"
    spared = np.maximum(decoding - 1, 0) * state.nodes.length[: len(decoding)]
    assert int(spared.sum()) == int(cascade.spared[0]), "reads that are spared are counted"
