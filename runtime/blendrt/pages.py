"""Numbers for the serving core's blocks: which page of the KV pool holds which tokens of whom.

The core counts blocks; attention kernels need their places. `Pager.follow` is called once after
every `core.step()`. It frees what left, lets each prefix node and each request have as many pages
as the core counts, and lists every scheduled request's pages in the order of its tokens. A node's
pages are shared by all that read it, all others have one owner.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Bools, Ints
from blendsim.serving.core import ServingCore
from blendsim.serving.state import DECODING, PREFILLING

_FIRST_SEATS = 64
_NO_SEAT = -1


class PagedStep(NamedTuple):
    """What one step computes and where its KV lies; prefill chunks first, then decodes.

    A request's pages hold its tokens 0 … computed + tokens − 1, the ones computed now included.
    """

    requests: Ints  # (m,) numbers in the core
    computed: Ints  # (m,) tokens whose KV is there
    tokens: Ints  # (m,) tokens computed now, 1 for a decode
    samples: Bools  # (m,) whether the last of them yields an output token
    chunks: int  # how many of the m are prefill chunks
    indptr: Ints  # (m + 1,) request i's pages are indices[indptr[i]:indptr[i + 1]]
    indices: NDArray[np.int32]


class Pager:
    """The pages of one serving core's running requests and cached prefixes."""

    def __init__(self, core: ServingCore) -> None:
        requests: Any = core.state.requests
        self._core = core
        self._block = int(core.state.scalars[0].block_tokens)
        longest = int((requests.prompt + requests.output).max(initial=1))
        # Views of the core's records: a record array takes microseconds to tell of a field.
        fields = requests.view(np.ndarray)
        self._status: Ints = fields["status"]
        self._target: Ints = fields["target"]
        self._start_context: Ints = fields["start_context"]
        self._start_step: Ints = fields["start_step"]
        scalars = core.state.scalars.view(np.ndarray)
        self._step: Ints = scalars["step"]
        self._chunks: Ints = scalars["chunks"]
        self._blocks: list[Ints] = [scalars[name] for name in ("shared_held", "private", "idle")]
        self.pages = pool_pages(core)
        self._free = list(range(self.pages - 1, -1, -1))  # the lowest number is taken first
        self._nodes: dict[int, list[int]] = {}  # pages of each prefix node, from its front
        self._running = np.empty(0, np.int64)  # requests that have a row, in order of entering
        self._seat = np.full(len(requests), _NO_SEAT)  # their rows in the columns below
        self._empty: list[int] = []
        self._table = np.empty((0, -(-longest // self._block)), np.int32)
        self._filled = np.empty(0, np.int64)  # pages of the row
        self._shared = np.empty(0, np.int64)  # of those, how many belong to prefix nodes

    def follow(self) -> PagedStep:
        """Take over what `core.step()` decided. Call it between `step()` and `commit()`."""
        self._dismiss()
        chunk = self._core.state.chunk[:, : int(self._chunks[0])]
        self._admit(chunk)
        decoding = self._running[self._status[self._running] == DECODING]
        done = self._start_context[decoding] + (self._step[0] - 1) - self._start_step[decoding]
        self._open_decode_pages(decoding, done)
        if self.in_use != self._counted():
            self._reclaim()
        is_complete = chunk[1] + chunk[2] == self._target[chunk[0]]
        who = np.concatenate([chunk[0], decoding])
        indptr, indices = self._gather(who)
        return PagedStep(
            requests=who,
            computed=np.concatenate([chunk[1], done]),
            tokens=np.concatenate([chunk[2], np.ones(len(decoding), np.int64)]),
            samples=np.concatenate([is_complete, np.ones(len(decoding), np.bool_)]),
            chunks=chunk.shape[1],
            indptr=indptr,
            indices=indices,
        )

    @property
    def in_use(self) -> int:
        """Pages that hold something."""
        return self.pages - len(self._free)

    def check(self) -> None:
        """Assert, after `follow()`, that pages in use are the core's blocks, each with one owner
        beside the readers of its node.
        """
        counted = self._counted()
        assert self.in_use == counted, f"{self.in_use} pages are in use, {counted} blocks"
        owned = list(self._free)
        for node, pages in self._nodes.items():
            cached = int(self._core.state.nodes[node].cached)
            assert len(pages) == cached, f"node {node} has {len(pages)} pages, {cached} blocks"
            owned += pages
        for seat in self._seat[self._running].tolist():
            owned += self._table[seat, self._shared[seat] : self._filled[seat]].tolist()
        assert sorted(owned) == list(range(self.pages)), "every page has one owner or is free"

    def _counted(self) -> int:
        return sum(int(number[0]) for number in self._blocks)

    def _dismiss(self) -> None:
        """Requests that have pages but run no more leave: finished, or preempted in this step."""
        status = self._status[self._running]
        runs = (status == DECODING) | (status == PREFILLING)
        if runs.all():
            return
        for request in self._running[~runs].tolist():
            self._leave(request)
        self._running = self._running[runs]

    def _admit(self, chunk: Ints) -> None:
        """Pages for the step's chunks, (3, chunks); whoever has its first one enters."""
        entered = []
        for request, before, tokens in chunk.T.tolist():
            if self._seat[request] == _NO_SEAT:
                self._enter(request, before // self._block)
                entered.append(request)
            self._extend(request, before + tokens)
        if entered:
            self._running = np.concatenate([self._running, np.array(entered, np.int64)])

    def _path(self, request: int) -> list[tuple[int, int, int]]:
        """(node, its first block, its end) from the root down to the request's deepest node."""
        nodes, path = self._core.state.nodes, []
        k = int(self._core.state.requests[request].node)
        while k > 0:
            end = int(nodes[k].depth)
            path.append((k, end - int(nodes[k].length), end))
            k = int(nodes[k].parent)
        return path[::-1]

    def _own_node(self, request: int) -> int:
        """The node of what the request leaves behind; 0 where nothing stays."""
        own = int(self._core.state.scalars[0].own_nodes)
        return own + request if own > 0 else 0

    def _enter(self, request: int, hit: int) -> None:
        """A row for a request that starts behind `hit` cached blocks."""
        if not self._empty:
            self._grow()
        seat = self._seat[request] = self._empty.pop()
        cached: list[int] = []
        for node, start, end in self._path(request):
            if start < hit:
                cached += self._nodes[node][: min(hit, end) - start]
        self._shared[seat] = len(cached)
        left = self._nodes.pop(self._own_node(request), [])
        mine = hit - len(cached)
        self._free += left[mine:]
        cached += left[:mine]
        assert len(cached) == hit, f"request {request} hits {hit} blocks, {len(cached)} have pages"
        self._filled[seat] = hit
        self._table[seat, :hit] = cached

    def _extend(self, request: int, upto: int) -> None:
        """Pages for the request's tokens up to `upto`; path blocks that get full become shared."""
        seat = int(self._seat[request])
        row, filled = self._table[seat], int(self._filled[seat])
        path_blocks = int(self._core.state.requests[request].path_blocks)
        first, full = int(self._shared[seat]), min(upto // self._block, path_blocks)
        if first < full:
            self._share(request, row, filled, first, full)
            self._shared[seat] = full
        self._filled[seat] = -(-upto // self._block)
        for j in range(max(filled, full), int(self._filled[seat])):
            row[j] = self._take()

    def _share(
        self, request: int, row: NDArray[np.int32], filled: int, first: int, full: int
    ) -> None:
        """Make blocks `first` … `full` − 1 of the row pages of the path's nodes; those below
        `filled` have one of the request's own.
        """
        for node, start, end in self._path(request):
            if end <= first or start >= full:
                continue
            pages = self._nodes.setdefault(node, [])
            for j in range(max(first, start), min(full, end)):
                if j - start == len(pages):
                    pages.append(int(row[j]) if j < filled else self._take())
                elif j < filled:
                    # NOTE: begun in a page of its own although it is cached: a prompt's last token
                    # is computed anew. The page goes back and the cached one takes the same tokens.
                    self._free.append(int(row[j]))
                row[j] = pages[j - start]

    def _open_decode_pages(self, decoding: Ints, computed: Ints) -> None:
        """A new page for every decode whose token begins a block."""
        seats, block = self._seat[decoding], computed // self._block
        opens = np.flatnonzero(self._filled[seats] == block)
        pages = [self._take() for _ in range(len(opens))]
        self._table[seats[opens], block[opens]] = pages
        self._filled[seats[opens]] += 1

    def _leave(self, request: int) -> None:
        """Free the request's own pages, but for those the core keeps cached as a node of its own.
        The path's pages stay with their nodes.
        """
        seat = int(self._seat[request])
        self._seat[request] = _NO_SEAT
        own = self._table[seat, self._shared[seat] : self._filled[seat]].tolist()
        node = self._own_node(request)
        kept = int(self._core.state.nodes[node].cached) if node else 0
        if kept:
            self._nodes[node] = own[:kept]
        self._free += own[kept:]
        self._empty.append(seat)

    def _take(self) -> int:
        if not self._free:
            self._reclaim()
        assert self._free, "the core gives out no more blocks than there are"
        return self._free.pop()

    def _reclaim(self) -> None:
        """Free the pages of evicted blocks: the ends of nodes that are cached less than before.

        Called only when pages are missed. A block evicted and computed again within one step keeps
        its page: it is the same prefix, so the same content.
        """
        numbers = np.fromiter(self._nodes, np.int64, len(self._nodes))
        held = np.fromiter(map(len, self._nodes.values()), np.int64, len(self._nodes))
        kept = self._core.state.nodes["cached"][numbers]
        shrunk = kept < held
        for node, count in zip(numbers[shrunk].tolist(), kept[shrunk].tolist(), strict=True):
            pages = self._nodes[node] if count else self._nodes.pop(node)
            self._free += pages[count:]
            del pages[count:]

    def _grow(self) -> None:
        """Twice as many rows."""
        old = len(self._filled)
        more = max(old, _FIRST_SEATS)
        self._table = np.concatenate(
            [self._table, np.empty((more, self._table.shape[1]), np.int32)]
        )
        self._filled = np.concatenate([self._filled, np.zeros(more, np.int64)])
        self._shared = np.concatenate([self._shared, np.zeros(more, np.int64)])
        self._empty = list(range(old + more - 1, old - 1, -1))

    def _gather(self, requests: Ints) -> tuple[Ints, NDArray[np.int32]]:
        """indptr and indices of these requests' pages."""
        seats = self._seat[requests]
        count = self._filled[seats]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
        places = np.repeat(seats * self._table.shape[1] - indptr[:-1], count)
        places += np.arange(indptr[-1])
        return indptr, self._table.reshape(-1)[places]


def pool_pages(core: ServingCore) -> int:
    """Pages that can ever be in use: the core's capacity, or less where all its requests need
    less.
    """
    s = core.state.scalars[0]
    requests: Any = core.state.requests
    tokens = requests.prompt + requests.output
    return min(int(s.capacity), int((-(-tokens // int(s.block_tokens))).sum()))
