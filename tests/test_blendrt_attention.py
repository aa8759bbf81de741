"""Attention over pages: the reference against softmax written out, FlashInfer's use against what
its documentation promises, and the check that a GPU run is judged by.
"""

import inspect
import math
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import flashinfer_stand_in
import numpy as np
import pytest
import torch
from torch import Tensor

from blendrt.attention import Attention, reference
from blendrt.attention.check import Deviation, Sizes, World, compare, random_world
from blendrt.attention.flashinfer import FlashInferAttention
from blendrt.attention.layout import PageTable, Rows, lay_out, page_table, upload_together
from blendrt.attention.reference import ReferenceAttention
from blendrt.attention.sharing import share
from blendrt.attention.support import (
    FlashInferSettings,
    check_supported,
    load_library,
    spare_loops,
)
from blendrt.config import TINY, DecoderConfig
from blendrt.kv_pool import KvPool
from blendsim.errors import InputError, Unavailable

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
BLOCK = 4
#: A head size FlashInfer has, in a model that is tiny otherwise.
SMALL = replace(TINY, heads=4, kv_heads=2, head_dim=64)
SIZES = Sizes(
    chunks=3, chunk_tokens=9, computed_tokens=13, decodes=9, context_tokens=30, shared_pages=3
)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def world(seed: int, dtype: torch.dtype = torch.float32, config: DecoderConfig = SMALL) -> World:
    return random_world(np.random.default_rng(seed), config, BLOCK, CPU, dtype, SIZES)


@pytest.mark.parametrize("place", ["a page of nobody's", "behind the end"])
def test_what_lies_beside_a_request_is_of_no_weight(place: str) -> None:
    """Pages are not wiped: whoever had them may have left what is no number."""
    pool = KvPool(TINY, 6, 16, CPU, torch.float32)
    pool.k.normal_()
    pool.v.normal_()
    q = torch.randn(3, TINY.heads, TINY.head_dim)
    pages = Rows(ints(0, 2, 3, 4), ints(1, 2, 3, 4))
    none = Rows(ints(0), ints())
    layout = lay_out(ints(), ints(), none, ints(20, 5, 16), pages, 16, CPU)
    attention = ReferenceAttention()
    attention.plan(layout)
    clean = attention.decode(0, q, pool)
    for each in (pool.k, pool.v):
        if place == "behind the end":
            each[:, 3, 7] = float("inf")
        else:
            each[:, 0] = float("nan")
    assert torch.equal(attention.decode(0, q, pool), clean)


def answer(attention: Attention, world: World) -> Tensor:
    cut = world.layout.prefill_tokens
    attention.plan(world.layout)
    parts = (
        attention.prefill(0, world.q[:cut], world.pool),
        attention.decode(0, world.q[cut:], world.pool),
    )
    return torch.cat(parts)


# Layout


def test_tokens_lie_at_their_offsets_in_their_requests_pages() -> None:
    layout = lay_out(
        chunks=ints(3, 2),
        computed=ints(3, 0),
        chunk_pages=Rows.of([[7, 2], [5]]),
        contexts=ints(4, 5),
        decode_pages=Rows.of([[9], [1, 0]]),
        block_tokens=BLOCK,
        device=CPU,
    )
    assert layout.positions.tolist() == [3, 4, 5, 0, 1, 3, 4]
    assert layout.slots.tolist() == [31, 8, 9, 20, 21, 39, 0]
    assert layout.prefill_pages.last_page_len.tolist() == [2, 2]
    assert layout.decode_pages.last_page_len.tolist() == [4, 1]
    assert layout.decode_pages.lengths(BLOCK).tolist() == [4, 5]
    assert (layout.prefill_tokens, layout.decodes, layout.tokens) == (5, 2, 7)


def test_a_page_list_that_does_not_fit_its_tokens_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="do not hold"):
        page_table(Rows.of([[1, 2]]), ints(4), BLOCK, CPU)
    with pytest.raises(AssertionError, match="without tokens"):
        page_table(Rows.of([[]]), ints(0), BLOCK, CPU)


def test_the_pool_keeps_what_is_written_to_a_slot() -> None:
    pool = KvPool(SMALL, 3, BLOCK, CPU, torch.float32)
    k, v = torch.randn(2, 2, SMALL.kv_heads, SMALL.head_dim)
    for rows, written in zip(pool.rows(1), (k, v), strict=True):
        rows[torch.tensor([9, 2])] = written
    keys, values = pool.paged(1)
    assert torch.equal(keys[2, 1], k[0])
    assert torch.equal(values[0, 2], v[1])
    assert pool.k.count_nonzero() == k.count_nonzero()


# The reference


def written_out(world: World) -> Tensor:
    """Softmax over a request's tokens, one query and one head at a time."""
    layout, pool = world.layout, world.pool
    keys, values = (rows.flatten(0, 1).double() for rows in pool.paged(0))
    answers = torch.zeros_like(world.q)

    def row(table: PageTable, i: int) -> list[int]:
        return table.indices[int(table.indptr[i]) : int(table.indptr[i + 1])].tolist()

    reaches = []
    for i, (tokens, computed) in enumerate(
        zip(layout.prefill_lens, layout.prefill_computed, strict=True)
    ):
        reaches += [
            (row(layout.prefill_pages, i), int(computed) + j + 1) for j in range(int(tokens))
        ]
    contexts = layout.decode_pages.lengths(BLOCK).tolist()
    reaches += [(row(layout.decode_pages, i), context) for i, context in enumerate(contexts)]
    for token, (pages, reach) in enumerate(reaches):
        slots = [pages[t // BLOCK] * BLOCK + t % BLOCK for t in range(reach)]
        for head in range(world.q.shape[1]):
            kv_head = head // (world.q.shape[1] // keys.shape[1])
            scores = [float(world.q[token, head].double() @ keys[s, kv_head]) for s in slots]
            weights = torch.tensor(scores, dtype=torch.float64).div(math.sqrt(64)).softmax(0)
            answers[token, head] = (weights[:, None] * values[slots, kv_head]).sum(0).float()
    return answers


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_is_softmax_written_out(seed: int) -> None:
    made = world(seed)
    torch.testing.assert_close(answer(ReferenceAttention(), made), written_out(made))


def test_decodes_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(3)
    whole = answer(ReferenceAttention(), made)
    monkeypatch.setattr(reference, "_MOST_GATHERED", 1 << 12)
    assert made.layout.decodes > 2
    torch.testing.assert_close(answer(ReferenceAttention(), made), whole)


def test_what_a_last_page_holds_beyond_its_tokens_is_not_read() -> None:
    layout = lay_out(ints(2), ints(0), Rows.of([[0]]), ints(3), Rows.of([[1]]), BLOCK, CPU)
    pool = KvPool(SMALL, 2, BLOCK, CPU, torch.float32)
    pool.k.normal_()
    pool.v.normal_()
    made = World(layout, torch.randn(3, SMALL.heads, SMALL.head_dim), pool)
    before = answer(ReferenceAttention(), made)
    pool.k[:, 0, 2:] = pool.v[:, 0, 2:] = pool.k[:, 1, 3:] = pool.v[:, 1, 3:] = 1e4
    assert torch.equal(answer(ReferenceAttention(), made), before)


# The check


def check(attention: Attention, dtype: torch.dtype, worlds: int = 12) -> Deviation:
    """The worst of several worlds."""
    rng = np.random.default_rng(0)
    found = compare(attention, SMALL, BLOCK, CPU, dtype, rng, worlds, SIZES)
    assert len(found) == worlds
    return Deviation(*(max(part) for part in zip(*found, strict=True)))


def test_the_reference_in_bfloat16_is_off_by_rounding_alone() -> None:
    worst = check(ReferenceAttention(), torch.bfloat16)
    assert 0.0005 < worst.prefill < 0.004
    assert 0.0005 < worst.decode < 0.004


def test_the_reference_in_float32_is_exact() -> None:
    assert check(ReferenceAttention(), torch.float32) == (0.0, 0.0)


class OneWrongRow(ReferenceAttention):
    """The last decode reads the first one's pages."""

    def decode(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        answers = super().decode(layer, q, pool, out)
        return torch.cat((answers[:-1], answers[:1]))


def test_one_wrong_row_among_many_shows() -> None:
    assert check(OneWrongRow(), torch.float32).decode > 0.5


# FlashInfer, by a stand-in that does what its documentation promises


def flash(settings: FlashInferSettings = FlashInferSettings(), **shape: int) -> FlashInferAttention:
    config = replace(SMALL, **shape)
    return FlashInferAttention(config, BLOCK, CPU, torch.bfloat16, settings, flashinfer_stand_in)


@pytest.mark.parametrize("cascade", [0, 2, 3])
def test_flashinfer_is_told_the_right_things(cascade: int) -> None:
    settings = FlashInferSettings(cascade_members=cascade, cascade_pages=2)
    worst = check(flash(settings), torch.bfloat16)
    assert max(worst) < 0.004


def test_cascade_is_used_where_enough_is_shared() -> None:
    attention = flash(FlashInferSettings(cascade_members=2, cascade_pages=2))
    layout = lay_out(
        ints(),
        ints(),
        Rows.of([]),
        ints(9, 3, 10),
        Rows.of([[0, 1, 2], [6], [0, 1, 3]]),
        BLOCK,
        CPU,
    )
    attention.plan(layout)
    cascade = attention._turns[0].cascade
    assert [level.plans for level in cascade.levels] == [1, 1]
    assert attention._turns[0].decode.plans == 1  # the one that shares nothing
    attention.plan(
        lay_out(ints(), ints(), Rows.of([]), ints(3, 3), Rows.of([[0], [1]]), BLOCK, CPU)
    )
    assert attention._turns[0].cascade.levels[0].plans == 0


def test_two_sets_of_wrappers_take_turns() -> None:
    attention = flash()
    layout = world(1, torch.bfloat16).layout
    seen = []
    for _ in range(4):
        attention.plan(layout)
        seen.append(attention._turns[0])
    assert seen[0] is seen[2]
    assert seen[1] is seen[3]
    assert seen[0] is not seen[1]


def test_a_batch_without_prefills_or_decodes_plans_nothing_for_them() -> None:
    attention = flash()
    attention.plan(lay_out(ints(2), ints(0), Rows.of([[0]]), ints(), Rows.of([]), BLOCK, CPU))
    assert (attention._turns[0].prefill.plans, attention._turns[0].decode.plans) == (1, 0)
    nothing = torch.zeros(0, 4, 64, dtype=torch.bfloat16)
    assert attention.decode(0, nothing, KvPool(SMALL, 1, BLOCK, CPU, torch.bfloat16)).shape == (
        0,
        4,
        64,
    )


def test_tensor_cores_decode_where_four_heads_or_more_share_one() -> None:
    assert not flash()._turns[0].decode.use_tensor_cores
    assert flash(heads=8)._turns[0].decode.use_tensor_cores
    assert flash(FlashInferSettings(tensor_cores=True))._turns[0].decode.use_tensor_cores


@pytest.mark.parametrize(
    ("shape", "dtype", "settings", "message"),
    [
        ({"head_dim": 16}, torch.bfloat16, FlashInferSettings(), "heads of 16 dimensions"),
        ({}, torch.float32, FlashInferSettings(), r"no kernels for torch\.float32"),
        (
            {"heads": 14},
            torch.bfloat16,
            FlashInferSettings(tensor_cores=False),
            "7 heads a KV head",
        ),
    ],
)
def test_what_flashinfer_has_no_kernels_for_is_said_at_once(
    shape: dict[str, int], dtype: torch.dtype, settings: FlashInferSettings, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        FlashInferAttention(
            replace(SMALL, **shape), BLOCK, CPU, dtype, settings, flashinfer_stand_in
        )


@pytest.mark.parametrize(
    ("capability", "prefill", "said"),
    [
        ((7, 5), "fa2", "needs compute capability 8.0 or more and an old GPU has 7.5"),
        ((8, 0), "fa3", "for compute capability 9.0 alone and an old GPU has 8.0; choose fa2"),
        ((10, 0), "fa3", "for compute capability 9.0 alone"),
    ],
)
def test_a_gpu_of_another_architecture_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], prefill: Any, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    settings = FlashInferSettings(prefill=prefill)
    with pytest.raises(InputError, match=said):
        check_supported(replace(TINY, head_dim=128), GPU, torch.bfloat16, settings)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_supported(replace(TINY, head_dim=128), GPU, torch.bfloat16, settings)


@pytest.mark.parametrize(
    "name",
    [
        "BatchPrefillWithPagedKVCacheWrapper",
        "BatchDecodeWithPagedKVCacheWrapper",
        "MultiLevelCascadeAttentionWrapper",
    ],
)
def test_flashinfer_itself_takes_what_the_stand_in_takes(name: str) -> None:
    """Same names in the same places, for all that is given by place; it needs no GPU."""
    library = pytest.importorskip("flashinfer", reason="needs flashinfer-python")
    for method in ("__init__", "plan", "run"):
        mine = inspect.signature(getattr(getattr(flashinfer_stand_in, name), method)).parameters
        real = inspect.signature(getattr(getattr(library, name), method)).parameters
        by_place = [p for p in mine.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for at, (one, other) in enumerate(zip(by_place, real.values(), strict=False)):
            is_ours = one.name in ("self", "workspace", "paged", "levels")  # shorter names
            assert is_ours or one.name == other.name, (method, at, one.name, other.name)
        by_name = {p.name for p in mine.values() if p.kind is p.KEYWORD_ONLY}
        assert by_name <= set(real), method


def test_a_kernel_nobody_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = flash()

    def missing(*_: Any, **__: Any) -> None:
        raise flashinfer_stand_in.MissingJITCacheError("no module")

    for turn in attention._turns:
        monkeypatch.setattr(turn.decode, "plan", missing)
    with pytest.raises(Unavailable, match="no compiled kernel for head size 64"):
        attention.plan(world(2, torch.bfloat16).layout)


def test_without_a_gpu_or_flashinfer_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="use the reference"):
        FlashInferAttention(SMALL, BLOCK, CPU, torch.bfloat16)
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(Unavailable, match=r"pip install 'blendsim\[gpu\]'"):
        FlashInferAttention(SMALL, BLOCK, torch.device("cuda"), torch.bfloat16)


# Sharing


def table(*rows: list[int], tokens: list[int]) -> PageTable:
    return page_table(Rows.of(rows), ints(*tokens), BLOCK, CPU)


def listed(table: PageTable) -> list[list[int]]:
    return [row.tolist() for row in np.split(table.numbers.numpy(), table.indptr.numpy()[1:-1])]


def test_groups_are_those_with_the_same_leading_pages() -> None:
    decodes = table([5, 1, 2], [8], [5, 1, 3, 4], [6, 9], [6, 7], tokens=[9, 2, 16, 5, 8])
    found = share(decodes, BLOCK, least_members=2, least_pages=1)
    assert found.members.tolist() == [0, 2, 3, 4]
    assert found.group_indptr.tolist() == [0, 2, 4]
    assert listed(found.shared) == [[5, 1], [6]]
    assert found.shared.last_page_len.tolist() == [4, 4]
    assert listed(found.own) == [[2], [3, 4], [9], [7]]
    assert found.own.last_page_len.tolist() == [1, 4, 1, 4]
    assert found.lone.tolist() == [1]
    assert listed(found.alone) == [[8]]
    assert found.alone.last_page_len.tolist() == [2]


def test_a_page_common_to_all_does_not_hide_the_groups_below_it() -> None:
    decodes = table([5, 1, 2], [5, 7, 8], [5, 1, 3], [5, 7, 9], tokens=[9, 9, 9, 9])
    found = share(decodes, BLOCK, least_members=2, least_pages=2)
    assert listed(found.shared) == [[5, 1], [5, 7]]
    assert found.members.tolist() == [0, 2, 1, 3]


def test_a_member_keeps_its_last_page_to_itself() -> None:
    found = share(table([5, 1], [5, 1], tokens=[8, 8]), BLOCK, least_members=2, least_pages=1)
    assert listed(found.shared) == [[5]]
    assert listed(found.own) == [[1], [1]]


@pytest.mark.parametrize(("members", "pages"), [(3, 1), (2, 3)])
def test_small_groups_and_short_prefixes_stay_alone(members: int, pages: int) -> None:
    decodes = table([5, 1, 2, 0], [5, 1, 3, 4], tokens=[16, 16])
    found = share(decodes, BLOCK, members, pages)
    assert len(found.members) == len(found.shared) == 0
    assert listed(found.alone) == [[5, 1, 2, 0], [5, 1, 3, 4]]


def test_a_page_at_one_depth_alone_is_no_common_prefix() -> None:
    found = share(table([5, 1, 2], [6, 1, 3], tokens=[12, 12]), BLOCK, 2, 2)
    assert len(found.members) == 0


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("prefill", ["fa2", "fa3"])
@pytest.mark.parametrize("cascade", [0, 4])
def test_flashinfer_on_a_gpu_is_within_one_percent(prefill: Any, cascade: int) -> None:
    pytest.importorskip("flashinfer", reason="needs flashinfer-python")
    device = torch.device("cuda")
    config = replace(TINY, heads=32, kv_heads=8, head_dim=128)
    settings = FlashInferSettings(prefill=prefill, cascade_members=cascade)
    attention = FlashInferAttention(config, 16, device, torch.bfloat16, settings)
    rng = np.random.default_rng(0)
    for found in compare(attention, config, 16, device, torch.bfloat16, rng):
        assert max(found) < 0.01


def test_a_module_that_is_spared_loops_has_the_same_maxima() -> None:
    module: Any = ModuleType("planner")
    spare_loops(module)
    lengths = torch.tensor([4, 9, 2], dtype=torch.int32)
    found, expected = module.max(lengths), max(lengths)
    assert (found.item(), found.dtype, found.shape) == (9, expected.dtype, expected.shape)
    assert module.max(3, 5) == 5
    assert module.max([2, 7]) == 7
    assert module.max([], default=1) == 1


def test_what_is_uploaded_together_comes_as_it_was_and_aligned() -> None:
    arrays = [
        np.arange(3),
        np.arange(5, dtype=np.int32) - 2,
        np.zeros(0, np.int32),
        np.arange(7) - (1 << 40),
    ]
    sent = upload_together(arrays, CPU)
    for array, tensor in zip(arrays, sent, strict=True):
        assert tensor.numpy().dtype == array.dtype
        assert tensor.tolist() == array.tolist()
        assert tensor.storage_offset() * tensor.element_size() % 16 == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in sent}) == 1


def test_the_library_is_loaded_with_its_loops_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("flashinfer", "flashinfer.decode", "flashinfer.prefill")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert load_library(torch.device("cuda")) is sys.modules["flashinfer"]
    for name in names[1:]:
        largest = vars(sys.modules[name])["max"](torch.tensor([3, 9, 4]))
        assert (largest.item(), largest.ndim) == (9, 0)
    monkeypatch.setitem(sys.modules, "flashinfer.prefill", None)  # as where it cannot be imported
    with pytest.raises(Unavailable, match="FlashInfer cannot be imported"):
        load_library(torch.device("cuda"))
