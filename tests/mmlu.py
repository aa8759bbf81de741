"""The 14,042 five-shot MMLU prompts in Llama-3 tokens. They lie beside the checkout, not in it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from blendsim.arrays import Ints
from blendsim.request import Prompts, Workload, from_lengths

PATH = (
    Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mmlu_5shot_llama3_tokens.npz"
)
needs_mmlu = pytest.mark.skipif(not PATH.exists(), reason="MMLU tokens not beside the checkout")


class Mmlu(NamedTuple):
    """Prompts of a subject's prefix and a question's suffix, with 2 output tokens."""

    trace: Workload
    prefix_len: Ints  # by subject
    suffix_len: Ints  # by prompt
    subject: Ints  # of each prompt


def read() -> Mmlu:
    """All prompts, in the file's order."""
    with np.load(PATH) as file:
        raw = {name: file[name] for name in file.files}
    prefix_len, suffix_len = raw["prefix_len"].astype(np.int64), raw["suffix_len"].astype(np.int64)
    subject = raw["subject_of_prompt"].astype(np.int64)
    prefixes = np.split(raw["prefix_tokens"], np.cumsum(prefix_len)[:-1])
    suffixes = np.split(raw["suffix_tokens"], np.cumsum(suffix_len)[:-1])
    parts = [part for i, own in enumerate(suffixes) for part in (prefixes[subject[i]], own)]
    lengths = prefix_len[subject] + suffix_len
    prompts = Prompts(
        np.append(0, np.cumsum(lengths)),
        np.concatenate(parts).astype(np.int32),
        np.zeros(len(lengths), np.int32),
        np.ones(1, np.int32),
        ("tokens:llama-3",),
    )
    trace = from_lengths(lengths, np.full(len(lengths), 2), source="mmlu", prompts=prompts)
    return Mmlu(trace, prefix_len, suffix_len, subject)
