"""Rebuilding: one step of a run as it stood, without the steps before it.

The core knows each request's context and path of shared prefixes; which pages they lay on is made
up, in random order, since memory was filled in no other. Requests that shared a prefix share its
pages.
"""

from typing import Any

import numpy as np

from blendrt.pages import PagedStep
from blendsim.arrays import Ints
from blendsim.serving.core import ServingCore


class Rebuilder:
    """Makes steps of one core, whose pool has `pages` pages, into what a batch builder takes."""

    def __init__(self, core: ServingCore, pages: int) -> None:
        nodes: Any = core.state.nodes
        self._core = core
        self._pages = pages
        self._number = np.zeros(int(core.rows.max(initial=0)) + 1, np.int64)
        self._number[core.rows] = np.arange(len(core.rows))
        # Every block of every prefix node has a name; private blocks are named after them.
        self._first_name: Ints = np.cumsum(nodes.length) - nodes.length
        self._names = int(nodes.length.sum())

    def step(self, rng: np.random.Generator) -> PagedStep:
        """The step that is scheduled now, on random pages."""
        state = self._core.state
        scheduled = self._core.scheduled()
        chunks = int(state.scalars[0].chunks)
        requests = self._number[scheduled.rows]
        end = scheduled.computed + scheduled.tokens
        names = self._block_names(requests, end)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in names])])
        distinct, place = np.unique(np.concatenate(names), return_inverse=True)
        assert len(distinct) <= self._pages, (
            f"a step reads {len(distinct)} blocks, the pool has {self._pages}"
        )
        samples = np.ones(len(requests), np.bool_)
        samples[:chunks] = end[:chunks] == state.requests["target"][requests[:chunks]]
        return PagedStep(
            requests=requests,
            computed=scheduled.computed,
            tokens=scheduled.tokens,
            samples=samples,
            chunks=chunks,
            indptr=indptr,
            indices=rng.permutation(self._pages)[: len(distinct)][place].astype(np.int32),
        )

    def _block_names(self, requests: Ints, end: Ints) -> list[Ints]:
        """A name for each block of each request; equal where a block is shared."""
        state = self._core.state
        block = int(state.scalars[0].block_tokens)
        blocks = -(-end // block)
        # Only full blocks are shared: one that is being filled belongs to whoever fills it.
        shared = np.minimum(end // block, state.requests["path_blocks"][requests])
        own = self._names + np.cumsum(blocks - shared) - (blocks - shared)
        columns = (requests, blocks, shared, own)
        names = []
        for request, count, common, first in zip(*(c.tolist() for c in columns), strict=True):
            row = np.empty(count, np.int64)
            row[common:] = np.arange(first, first + count - common)
            self._name_path(request, row[:common])
            names.append(row)
        return names

    def _name_path(self, request: int, row: Ints) -> None:
        """Fill in the names of the path's first blocks, from the deepest node up."""
        nodes = self._core.state.nodes
        k = int(self._core.state.requests[request].node)
        while k > 0:
            node = nodes[k]
            start, end = int(node.depth - node.length), min(int(node.depth), len(row))
            if start < end:
                first = int(self._first_name[k])
                row[start:end] = np.arange(first, first + end - start)
            k = int(node.parent)
