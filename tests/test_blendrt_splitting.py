"""How decodes' contexts are cut for a GPU's blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendrt.attention.splitting import MOST_CHUNKS, chunk_tokens

contexts = st.lists(st.integers(1, 140_000), min_size=1, max_size=2000).map(np.array)


def pieces(lengths, chunk):
    return int((-(-lengths // chunk)).sum())


def test_equal_contexts_are_left_whole():
    assert chunk_tokens(np.full(256, 1024), 33) == 0


def test_one_long_context_among_short_ones_is_cut():
    lengths = np.array([*[500] * 300, 60_000])
    chunk = chunk_tokens(lengths, 33)
    assert 0 < chunk < 60_000 / 8


def test_a_single_decode_is_cut_for_all_places():
    assert pieces(np.array([100_000]), chunk_tokens(np.array([100_000]), 33)) >= 33


@given(contexts, st.integers(1, 132))
def test_no_more_pieces_than_there_is_memory_for(lengths, slots):
    chunk = chunk_tokens(lengths, slots)
    assert chunk == 0 or pieces(lengths, chunk) <= MOST_CHUNKS


@given(contexts, st.integers(1, 132))
def test_a_piece_that_ends_late_ends_little_later_than_the_fair_share(lengths, slots):
    chunk = chunk_tokens(lengths, slots)
    if chunk and pieces(lengths, chunk // 2) <= MOST_CHUNKS:  # memory did not decide
        assert chunk <= max(1024, lengths.sum() / slots / 8)


def test_more_decodes_than_pieces_are_left_whole():
    assert chunk_tokens(np.array([*[10] * MOST_CHUNKS, 50_000]), 33) == 0


@pytest.mark.parametrize("lengths", [[], [1]])
def test_little_or_nothing_to_read_is_left_whole(lengths):
    assert chunk_tokens(np.array(lengths, dtype=np.int64), 33) == 0
