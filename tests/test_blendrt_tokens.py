"""Prompt token ids: shared where prompts are shared, arbitrary and repeatable elsewhere."""

from itertools import pairwise

import numpy as np
import pytest

from blendrt.tokens import PromptTokens
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.traces.load import load

VOCAB = 300


def listed(units: list[list[int]], size: int, lengths: list[int]) -> Workload:
    """Requests of one space with these units of `size` tokens."""
    prompts = Prompts(
        offsets=np.cumsum([0, *map(len, units)]),
        units=np.array([unit for row in units for unit in row], np.int64),
        space=np.zeros(len(units), np.int32),
        unit_tokens=np.array([size], np.int32),
        space_names=("some",),
    )
    return from_lengths(lengths, [1] * len(units), prompts=prompts)


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens two prompts have in common."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def test_token_ids_of_our_vocabulary_stay_what_they_are() -> None:
    tokens = PromptTokens(listed([[5, 299, 0]], 1, [5]), VOCAB)
    assert tokens.prompt(0)[:3].tolist() == [5, 299, 0]


def test_ids_beyond_the_vocabulary_are_mapped_into_it() -> None:
    tokens = PromptTokens(listed([[5, 128_000, -7], [5, 128_000]], 1, [3, 2]), VOCAB)
    first, second = tokens.prompt(0), tokens.prompt(1)
    assert first[:2].tolist() == second.tolist()
    assert ((first >= 0) & (first < VOCAB)).all()


def test_blocks_share_what_their_hashes_share() -> None:
    workload = listed([[7, 8, 9], [7, 8, 10], [7, 11]], 16, [45, 48, 40])
    tokens = PromptTokens(workload, VOCAB)
    prompts = [tokens.prompt(row) for row in range(3)]
    assert [len(prompt) for prompt in prompts] == [45, 48, 40]
    assert common(prompts[0], prompts[1]) == 32
    assert common(prompts[0], prompts[2]) == 16


def test_tokens_of_a_block_differ_from_each_other() -> None:
    block = PromptTokens(listed([[7]], 16, [16]), 1 << 20).prompt(0)
    assert len(set(block.tolist())) == 16


def test_blocks_of_two_hash_functions_are_not_the_same_text() -> None:
    prompts = Prompts(
        offsets=np.array([0, 1, 2]),
        units=np.array([7, 7]),
        space=np.array([0, 1], np.int32),
        unit_tokens=np.array([16, 16], np.int32),
        space_names=("a", "b"),
    )
    tokens = PromptTokens(from_lengths([16, 16], [1, 1], prompts=prompts), 1 << 20)
    assert common(tokens.prompt(0), tokens.prompt(1)) == 0


def test_unknown_tails_are_nobody_elses_and_follow_the_seed() -> None:
    workload = from_lengths([200, 200], [1, 1])
    tokens, other = PromptTokens(workload, 1 << 20, seed=1), PromptTokens(workload, 1 << 20, seed=2)
    assert common(tokens.prompt(0), tokens.prompt(1)) == 0
    assert common(tokens.prompt(0), other.prompt(0)) == 0
    assert tokens.prompt(0).tolist() == PromptTokens(workload, 1 << 20, 1).prompt(0).tolist()


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 40, 50])
def test_pieces_are_those_of_the_whole_prompt(cut: int) -> None:
    tokens = PromptTokens(listed([[7, 8, 9]], 16, [50]), VOCAB)
    pieces = [tokens.ids(0, 0, cut), tokens.ids(0, cut, 50)]
    assert np.concatenate(pieces).tolist() == tokens.prompt(0).tolist()


def test_a_demo_source_shares_what_its_workload_says() -> None:
    workload = load("demo:mmlu?n=40")
    prompts, tokens = sort_prompts(workload), PromptTokens(workload, 1 << 30)
    texts = [tokens.prompt(row) for row in prompts.order.tolist()]
    assert [common(a, b) for a, b in pairwise(texts)] == prompts.common[1:].tolist()
    assert prompts.common.any()


def test_the_first_id_beyond_the_vocabulary_is_mapped_into_it() -> None:
    first = PromptTokens(listed([[VOCAB - 1, VOCAB]], 1, [2]), VOCAB).prompt(0)
    assert first[0] == VOCAB - 1
    assert 0 <= first[1] < VOCAB
