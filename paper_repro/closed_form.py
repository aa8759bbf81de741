"""The paper's figures that need no engine, by its own formulae: densities, sharing, memory split.

`python paper_repro/closed_form.py DATA > paper_repro/expected/closed_form.csv`; the public traces
in DATA, under the names below, are not part of the project.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.perf.density import closed_form, memory_split, pool_density, table_density
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.specs import System, find_gpu, find_model
from blendsim.traces.load import load

A100 = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
TOKENS = 0.83  # Llama-3 tokens a Llama-1 token, in answers


class Check(NamedTuple):
    """One figure of the paper and ours."""

    what: str
    where: str  # in the paper
    paper: str
    ours: str


def checks(data: Path) -> Iterator[Check]:
    """Every check, from the traces in `data`."""
    code = load(str(data / "AzureLLMInferenceTrace_code.csv.gz"))
    conv = load(str(data / "AzureLLMInferenceTrace_conv.csv.gz"))
    chat = load(str(data / "nanoflow_sharegpt.csv.gz"))
    mmlu = read_mmlu(data / "mmlu_5shot_llama3_tokens.npz")
    sharing = shareable_tokens(mmlu, sort_prompts(mmlu)) / int(mmlu.prompt_len.sum())
    by_table = table_density(closed_form(A100, mmlu.prompt_len, mmlu.output_len), sharing)
    split = memory_split(60.0, 3.73, 0.096, 1.27)
    yield Check("density, Azure code", "Table 4", "33.2 (2024)", f"{density(code):.2f} (2023)")
    yield Check("density, Azure conversation", "–", "–", f"{density(conv):.3f} (2023)")
    yield Check("density, ShareGPT", "Table 4", "3.12", f"{density(chat, TOKENS):.2f}")
    yield Check("density, MMLU 5-shot", "Table 4", "54.91", f"{by_table:.2f}")
    yield Check("prompt tokens shared, MMLU 5-shot", "Table 4", "0.86", f"{sharing:.4f}")
    yield Check(
        "memory split of 60 GB", "Figure 6", "19.3 / 40.7", f"{split.left:.2f} / {split.right:.2f}"
    )


def density(workload: Workload, output_share: float = 1.0) -> float:
    """ρ of a pool that shares nothing, its outputs scaled."""
    outputs = np.rint(workload.output_len * output_share).astype(np.int64)
    return pool_density(closed_form(A100, workload.prompt_len, outputs))


def read_mmlu(path: Path) -> Workload:
    """MMLU's 5-shot prompts: the prefix of prompt i's subject, then its own suffix; 2 answers."""
    with np.load(path) as file:
        raw = {name: file[name] for name in file.files}
    subject = raw["subject_of_prompt"]
    prefixes = np.split(raw["prefix_tokens"], np.cumsum(raw["prefix_len"])[:-1])
    suffixes = np.split(raw["suffix_tokens"], np.cumsum(raw["suffix_len"])[:-1])
    rows = [part for i, own in enumerate(suffixes) for part in (prefixes[subject[i]], own)]
    lengths = (raw["prefix_len"][subject] + raw["suffix_len"]).astype(np.int64)
    n = len(lengths)
    prompts = Prompts(
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        units=np.concatenate(rows).astype(np.int32),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("llama-3",),
    )
    return from_lengths(lengths, np.full(n, 2), source="mmlu", prompts=prompts)


if __name__ == "__main__":
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(Check._fields)
    table.writerows(checks(Path(sys.argv[1])))
