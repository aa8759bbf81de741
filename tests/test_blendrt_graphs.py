"""Graphs of small steps: the direct path's logits and KV, though rows are padded; their sizes."""

import gc
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from serving_worlds import core_of
from test_blendrt_overlap import CONFIG, DECODER, SHARED, pool_of, steps_of
from torch.multiprocessing.reductions import StorageWeakRef

from blendrt.attention.reference import ReferenceAttention
from blendrt.config import DecoderConfig
from blendrt.executor.graphs import Graphs, Work, scratch_bytes
from blendrt.executor.overlap import OverlapExecutor
from blendrt.executor.sequential import SequentialExecutor
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.pages import pool_pages
from blendsim.specs import MODELS


class Calls:
    """Work that is simply done again, and takes as long as the test says by its rows."""

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        self.launched = 0
        self._seconds = list(seconds)
        self._timed = 0

    def record(self, work: Work) -> Work:
        def launch() -> None:
            self.launched += 1
            work()

        return launch

    def seconds(self, works: Sequence[Work]) -> float:
        """What the test gives, over and over; without, ever less, so that all sizes stay."""
        self._timed += 1
        if not self._seconds:
            return 0.5**self._timed
        return self._seconds[(self._timed - 1) % len(self._seconds)]


def pools() -> tuple[KvPool, KvPool]:
    pages = pool_pages(core_of(SHARED))
    return pool_of(SHARED, pages), pool_of(SHARED, pages)


def test_logits_and_kv_are_those_of_the_direct_path_after_every_step():
    """Chunks, shared prefixes and decodes, each padded to one of three sizes."""
    mine, right = pools()
    one = SequentialExecutor(DECODER, ReferenceAttention(), right)
    graphs = Graphs(DECODER, mine, Calls(), sizes=(3, 7, 12))
    two = SequentialExecutor(DECODER, ReferenceAttention(), mine, graphs)
    sizes = set()
    for inputs in steps_of(SHARED):
        sizes.add(inputs.layout.tokens)
        torch.testing.assert_close(two.logits(inputs), one.logits(inputs), rtol=1e-4, atol=1e-5)
        # The page behind the last one is the padding's.
        torch.testing.assert_close(mine.k[:, :-1], right.k[:, :-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.v[:, :-1], right.v[:, :-1], rtol=1e-4, atol=1e-5)
    assert len(sizes - {3, 7, 12}) > 1, "some steps are padded"
    assert mine.k[:, -1].any(), "padded rows have written somewhere"
    assert not right.k[:, -1].any()


def test_a_step_is_one_launch_more_than_there_are_layers():
    pool, _ = pools()
    capture = Calls()
    executor = SequentialExecutor(
        DECODER, ReferenceAttention(), pool, Graphs(DECODER, pool, capture, sizes=(12,))
    )
    before = capture.launched
    executor.logits(steps_of(SHARED)[0])
    assert capture.launched - before == CONFIG.layers + 1


def test_a_step_larger_than_all_graphs_is_launched_directly():
    pool, _ = pools()
    capture = Calls()
    graphs = Graphs(DECODER, pool, capture, sizes=(3,))
    steps = steps_of(SHARED)
    before = capture.launched
    large = next(inputs for inputs in steps if inputs.layout.tokens > 3)
    assert graphs.begin(large) is None
    SequentialExecutor(DECODER, ReferenceAttention(), pool, graphs).logits(large)
    assert capture.launched == before


def test_a_size_no_faster_than_a_larger_one_is_left_out():
    pool, _ = pools()
    # Of 12, 9, 6 and 3 rows, in this order; 6 are slower than 9, and 3 hardly faster.
    graphs = Graphs(DECODER, pool, Calls([4.0, 2.0, 3.0, 1.99]), sizes=(3, 6, 9, 12))
    assert graphs.sizes == [9, 12]
    assert graphs.seconds == {12: 4.0, 9: 2.0, 6: 3.0, 3: 1.99}


def test_a_clock_that_rises_while_sizes_are_timed_decides_nothing():
    """Times of the first round, when the GPU was cold, do not count; of the others the least do."""
    pool, _ = pools()
    cold, warm = [9.0, 5.0, 6.0], [4.0, 3.0, 2.0]
    times = [*cold, 8.0, 3.0, 2.5, *warm, *warm, *warm, *warm]
    assert Graphs(DECODER, pool, Calls(times), sizes=(3, 6, 9)).sizes == [3, 6, 9]


def test_the_overlapped_executor_runs_whole_steps_by_graphs():
    pool, _ = pools()
    capture = Calls()
    graphs = Graphs(DECODER, pool, capture, sizes=(12,))
    executor = OverlapExecutor(DECODER, ReferenceAttention, pool, graphs=graphs)
    before = capture.launched
    executor.logits(steps_of(SHARED)[0])
    assert not executor.is_halved
    assert capture.launched - before == CONFIG.layers + 1


def test_what_graphs_read_and_write_outlives_the_functions_they_were_recorded_from():
    """CUDA's graphs know addresses: a tensor that only such a function held would be freed."""

    class Addresses(Calls):
        """Keeps of a work what a graph does."""

        def __init__(self) -> None:
            super().__init__()
            self.storages: list[StorageWeakRef] = []

        def record(self, work: Work) -> Work:
            self.storages += [StorageWeakRef(t.untyped_storage()) for t in tensors_of(work)]
            return lambda: None

    pool, _ = pools()
    capture = Addresses()
    graphs = Graphs(DECODER, pool, capture, sizes=(12,))
    gc.collect()
    assert graphs.sizes == [12]
    assert len(capture.storages) > 5
    assert not any(storage.expired() for storage in capture.storages)


def tensors_of(function: Callable[..., None]) -> Iterator[torch.Tensor]:
    """All tensors that a function closes over, and the functions in it."""
    for value in inspect.getclosurevars(function).nonlocals.values():
        if callable(value) and not isinstance(value, torch.Tensor | Decoder):
            yield from tensors_of(value)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, torch.Tensor):
                yield one


def test_scratch_is_no_less_than_an_h200_was_seen_to_need() -> None:
    """375 MB held (docs/validation.md), and what being done once leaves in torch's cache."""
    llama = DecoderConfig.from_spec(MODELS["llama-3.1-8b"])
    passed_on = 1_024 * (llama.hidden + 2 * llama.q_width + 3 * llama.intermediate) * 2
    assert 375e6 + passed_on < scratch_bytes(llama, 2) < 1e9
