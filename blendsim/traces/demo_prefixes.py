"""Prompt content for the two demo sources that share prefixes: MMLU-like token prompts and
Mooncake-like block hashes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Floats, Ints
from blendsim.request import Prompts
from blendsim.traces import demo_tables as tables
from blendsim.traces.length_table import sample_classes, strata

_VOCABULARY = 128_000
_HEADER = 12  # tokens all subjects' prompts begin with
_BLOCK = 512  # tokens of one Mooncake block


class Questions(NamedTuple):
    """Prompts of a multiple-choice test: prompt i is prefixes[subject[i]], then suffixes[i]."""

    prefixes: list[NDArray[np.int32]]  # a subject's instruction and worked examples
    suffixes: list[NDArray[np.int32]]  # (n,), the question itself
    subject: Ints  # (n,)


def mmlu_prompts(n: int, rng: np.random.Generator) -> Prompts:
    """n prompts of a 5-shot multiple-choice test: subject prefix, then a question."""
    prefixes, suffixes, subject = mmlu_questions(n, rng)
    pieces = zip(subject.tolist(), suffixes, strict=True)
    prompts = [np.concatenate((prefixes[code], question)) for code, question in pieces]
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    return Prompts(
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        units=np.concatenate(prompts),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens:demo-mmlu",),
    )


def mmlu_questions(n: int, rng: np.random.Generator) -> Questions:
    """n questions and the prefixes of their subjects.

    Questions of a subject begin like its usual opening for some tokens, so that neighbours share
    as many as the table says.
    """
    rows = np.array(tables.MMLU_SUBJECTS)
    share = np.concatenate(([0], np.cumsum(rows[:, 1]))) / rows[:, 1].sum()
    subject = np.searchsorted(share, strata(n, rng), side="right") - 1
    header = _random_tokens(_HEADER, rng)
    prefixes: list[NDArray[np.int32]] = []
    suffixes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)] * n
    for code, (prefix_len, _, least, mean, deviation, shared) in enumerate(rows.tolist()):
        members = np.flatnonzero(subject == code)
        prefixes.append(np.concatenate((header, _random_tokens(int(prefix_len) - _HEADER, rng))))
        lengths = _question_lengths(len(members), least, mean, deviation, rng)
        alike = np.minimum(lengths - 1, lengths * strata(len(members), rng) * 2 * shared / mean)
        opening = _random_tokens(int(lengths.max(initial=1)), rng)
        for row, length, same in zip(
            members, lengths, np.rint(alike).astype(np.int64), strict=True
        ):
            question = _random_tokens(int(length), rng)
            question[:same] = opening[:same]
            suffixes[row] = question
    return Questions(prefixes, suffixes, subject.astype(np.int64))


def mooncake_prompts(prompt_len: Ints, level: Floats, rng: np.random.Generator) -> Prompts:
    """Block hashes of prompts that, one after the other, begin like an earlier one for the share of
    their blocks that the table has for prompts of their length.
    """
    blocks = -(-prompt_len // _BLOCK)
    reused = sample_classes(level, np.array(tables.REUSE_LEVELS), tables.MOONCAKE_REUSE, rng)
    wanted = np.rint(reused * blocks).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(blocks))).astype(np.int64)
    units = np.arange(offsets[-1], dtype=np.int32)
    by_size: list[list[int]] = [[] for _ in range(int(blocks.max()).bit_length() + 1)]
    for row, (size, same) in enumerate(zip(blocks.tolist(), wanted.tolist(), strict=True)):
        parent = _earlier(by_size, same, blocks, rng) if same else None
        if parent is not None:
            start = int(offsets[parent])
            units[offsets[row] : offsets[row] + same] = units[start : start + same]
        by_size[size.bit_length()].append(row)
    return Prompts(
        offsets=offsets,
        units=units,
        space=np.zeros(len(prompt_len), np.int32),
        unit_tokens=np.array([_BLOCK], np.int32),
        space_names=("hashes:demo-mooncake",),
    )


def _earlier(
    by_size: list[list[int]], least: int, blocks: Ints, rng: np.random.Generator
) -> int | None:
    """A request of the nearest size class that has at least `least` blocks, or None so far."""
    for rows in by_size[least.bit_length() :]:
        for _ in range(4 if rows else 0):
            row = rows[int(rng.integers(len(rows)))]
            if blocks[row] >= least:
                return row
    return None


def _question_lengths(
    n: int, least: float, mean: float, deviation: float, rng: np.random.Generator
) -> Ints:
    """Lognormal above the shortest, with the subject's mean and deviation."""
    from scipy.special import ndtri

    excess = mean - least + 1
    variance = np.log1p((deviation / excess) ** 2)
    median = excess * np.exp(-variance / 2)
    drawn = least - 1 + median * np.exp(np.sqrt(variance) * ndtri(strata(n, rng)))
    return np.asarray(np.maximum(1, np.rint(drawn)), np.int64)


def _random_tokens(n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    return rng.integers(0, _VOCABULARY, n, dtype=np.int32)
