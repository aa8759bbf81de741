"""A step cut into two nano-batches: nothing is lost, halves are equal, attention sees the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blendrt.attention.check import Sizes, random_world
from blendrt.attention.layout import AttentionLayout
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import TINY
from blendrt.executor.split import deal_decodes, split_step

CPU = torch.device("cpu")
SIZES = Sizes(chunks=3, chunk_tokens=40, computed_tokens=30, decodes=9, context_tokens=60)


def world_of(seed: int, block_tokens: int = 4):
    rng = np.random.default_rng(seed)
    return random_world(rng, TINY, block_tokens, CPU, torch.float32, SIZES)


@given(st.integers(0, 10_000), st.sampled_from([1, 4, 16]))
def test_each_token_is_in_one_nano_batch_and_found_again(seed, block_tokens):
    layout = world_of(seed, block_tokens).layout
    split = split_step(layout, block_tokens)
    joined = torch.cat([nano.tokens for nano in split.nanos])
    assert joined[split.places].tolist() == list(range(layout.tokens))
    for nano in split.nanos:
        assert nano.layout.slots.tolist() == layout.slots[nano.tokens].tolist()
        assert nano.layout.positions.tolist() == layout.positions[nano.tokens].tolist()
        assert nano.layout.tokens == len(nano.tokens)


@given(st.integers(0, 10_000))
def test_halves_have_equal_tokens_and_about_equal_decodes(seed):
    layout = world_of(seed).layout
    a, b = (nano.layout for nano in split_step(layout, 4).nanos)
    assert abs(a.decodes - b.decodes) <= 1
    assert abs(a.tokens - b.tokens) <= 1


@given(st.integers(0, 10_000))
def test_prefill_tokens_keep_their_order_across_the_cut(seed):
    """So a chunk that reads KV of this very step stands behind the one that writes it."""
    layout = world_of(seed).layout
    a, b = split_step(layout, 4).nanos
    chunk_tokens = [nano.tokens[: nano.layout.prefill_tokens].tolist() for nano in (a, b)]
    assert chunk_tokens[0] + chunk_tokens[1] == list(range(layout.prefill_tokens))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_decodes_are_dealt_so_that_contexts_are_balanced(contexts):
    a, b = deal_decodes(np.array(contexts))
    assert sorted([*a, *b]) == list(range(len(contexts)))
    assert a.tolist() == sorted(a)
    assert b.tolist() == sorted(b)
    sums = [sum(contexts[i] for i in half) for half in (a, b)]
    assert abs(sums[0] - sums[1]) <= max(contexts)


def attend(layout: AttentionLayout, q: torch.Tensor, pool) -> torch.Tensor:
    attention = ReferenceAttention()
    attention.plan(layout)
    cut = layout.prefill_tokens
    return torch.cat((attention.prefill(0, q[:cut], pool), attention.decode(0, q[cut:], pool)))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([1, 4, 16]))
def test_attention_of_the_halves_is_attention_of_the_step(seed, block_tokens):
    """A chunk cut in two attends to its first part's KV, a decode to all of its own."""
    world = world_of(seed, block_tokens)
    whole = attend(world.layout, world.q, world.pool)
    split = split_step(world.layout, block_tokens)
    halves = [attend(nano.layout, world.q[nano.tokens], world.pool) for nano in split.nanos]
    torch.testing.assert_close(torch.cat(halves)[split.places], whole)


def test_a_chunk_cut_in_two_has_the_pages_of_each_part():
    from blendrt.attention.layout import Rows, lay_out

    none = np.empty(0, np.int64)
    layout = lay_out(
        chunks=np.array([10]),
        computed=np.array([3]),
        chunk_pages=Rows.of([[7, 2, 5, 0]]),
        contexts=none,
        decode_pages=Rows.of([]),
        block_tokens=4,
        device=CPU,
    )
    a, b = (nano.layout for nano in split_step(layout, 4).nanos)
    found = [
        (
            part.prefill_lens.tolist(),
            part.prefill_computed.tolist(),
            part.prefill_pages.numbers.tolist(),
            part.prefill_pages.last_page_len.tolist(),
        )
        for part in (a, b)
    ]
    assert found == [([5], [3], [7, 2], [4]), ([5], [8], [7, 2, 5, 0], [1])]


@pytest.mark.parametrize("decodes", [1, 2])
def test_a_step_of_decodes_alone_is_cut_too(decodes):
    from blendrt.attention.layout import Rows, lay_out

    none = np.empty(0, np.int64)
    rows = Rows.of([[i] for i in range(decodes)])
    layout = lay_out(none, none, Rows.of([]), np.ones(decodes, np.int64), rows, 4, CPU)
    a, b = (nano.layout.decodes for nano in split_step(layout, 4).nanos)
    assert (a, b) == (1, decodes - 1)
