"""The demo sources' tables are what the public traces give, and samples of them look like those."""

import json
from pathlib import Path

import mmlu
import numpy as np
import pytest
from numpy.typing import NDArray

from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load
from blendsim.traces import demo_tables as tables
from blendsim.traces.length_table import OUTPUT_LEVELS, PROMPT_LEVELS, LengthTable

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the public traces are not beside the checkout"
)

CLASSES = 8


def fit_lengths(
    prompt: NDArray[np.int64], output: NDArray[np.int64], tail: tuple[float, ...]
) -> LengthTable:
    """Quantile knots of a trace, those of the tail answers that are in it; ties in prompt length
    stay in file order.
    """
    rows = np.array_split(np.argsort(prompt, kind="stable"), CLASSES)

    def knots(answers: NDArray[np.int64]) -> tuple[int, ...]:
        found = np.rint(np.quantile(answers, OUTPUT_LEVELS)).astype(int).tolist()
        seen = np.quantile(answers, tail, method="inverted_cdf").astype(int).tolist()
        return (*found[:-1], *seen, found[-1])

    return LengthTable(
        tuple(np.rint(np.quantile(prompt, PROMPT_LEVELS)).astype(int).tolist()),
        tuple(knots(output[row]) for row in rows),
        tail,
    )


def fit_reuse(trace: Workload) -> tuple[tuple[float, ...], ...]:
    """Deciles of the share of a prompt's blocks that came before it in the trace."""
    prompts, seen, share = trace.prompts, set(), []
    for i in range(len(trace)):
        units = prompts.units[prompts.offsets[i] : prompts.offsets[i + 1]].tolist()
        known = next((k for k, unit in enumerate(units) if unit not in seen), len(units))
        seen.update(units)
        share.append(known / len(units))
    rows = np.array_split(np.argsort(trace.prompt_len, kind="stable"), CLASSES)
    deciles = [np.quantile(np.array(share)[row], tables.REUSE_LEVELS) for row in rows]
    return tuple(tuple(np.round(row, 3).tolist()) for row in deciles)


def fit_subjects() -> tuple[tuple[float, ...], ...]:
    """For each MMLU subject: prefix, prompts, shortest suffix, mean, deviation, shared opening."""
    trace, prefix_len, suffix_len, subject = mmlu.read()
    ordered = sort_prompts(trace)
    before, row = ordered.order[:-1], ordered.order[1:]
    same = subject[before] == subject[row]
    opening = ordered.common[1:] - prefix_len[subject[row]]
    found = []
    for code, length in enumerate(prefix_len):
        suffix = suffix_len[subject == code]
        shared = opening[same & (subject[row] == code)].sum() / len(suffix)
        found.append(
            (
                int(length),
                len(suffix),
                int(suffix.min()),
                round(float(suffix.mean()), 1),
                round(float(suffix.std()), 1),
                round(float(shared), 1),
            )
        )
    return tuple(found)


def real(name: str) -> Workload:
    files = {
        "azure-code": "AzureLLMInferenceTrace_code.csv.gz",
        "azure-conv": "AzureLLMInferenceTrace_conv.csv.gz",
        "sharegpt": "nanoflow_sharegpt.csv.gz",
        "mooncake": "mooncake_synthetic_trace.jsonl.gz",
    }
    trace = load(str(SHARED / files[name]))
    if name != "sharegpt":
        return trace
    from blendsim.request import select

    longest = np.maximum(trace.prompt_len, trace.output_len)
    return select(trace, longest <= tables.SHAREGPT_LONGEST)


def ks_distance(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Largest gap between two empirical distribution functions."""
    at = np.union1d(a, b)
    steps = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(steps[0] - steps[1]).max())


def reads(workload: Workload) -> float:
    """Mean of p·d + d²/2, what decode attention reads."""
    p, d = workload.prompt_len.astype(float), workload.output_len.astype(float)
    return float((p * d + d * d / 2).mean())


def sharing(workload: Workload, block_tokens: int = 1) -> float:
    saved = shareable_tokens(workload, sort_prompts(workload), block_tokens)
    return float(saved / workload.prompt_len.sum())


TABLES = {
    "azure-code": tables.AZURE_CODE,
    "azure-conv": tables.AZURE_CONV,
    "sharegpt": tables.SHAREGPT,
    "mooncake": tables.MOONCAKE,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_the_trace_gives(name: str) -> None:
    trace = real(name)
    table = TABLES[name]
    assert fit_lengths(trace.prompt_len, trace.output_len, table.tail) == table


def test_the_reuse_table_is_what_the_trace_gives() -> None:
    assert fit_reuse(real("mooncake")) == tables.MOONCAKE_REUSE


def test_the_subject_table_is_what_the_prompts_give() -> None:
    assert fit_subjects() == tables.MMLU_SUBJECTS


def test_thirteen_conversations_are_left_out_of_the_sharegpt_fit() -> None:
    path = SHARED / "nanoflow_sharegpt.csv.gz"
    assert len(load(str(path))) - len(real("sharegpt")) == 13


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TABLES)
def test_a_sample_has_the_traces_means_and_shape(name: str, seed: int) -> None:
    trace, sample = real(name), load(f"demo:{name}", ReadOptions(seed=seed))
    assert sample.prompt_len.mean() == pytest.approx(trace.prompt_len.mean(), rel=0.02)
    assert sample.output_len.mean() == pytest.approx(trace.output_len.mean(), rel=0.02)
    total = (trace.prompt_len + trace.output_len).mean()
    assert (sample.prompt_len + sample.output_len).mean() == pytest.approx(total, rel=0.02)
    assert reads(sample) == pytest.approx(reads(trace), rel=0.06)
    assert ks_distance(sample.prompt_len, trace.prompt_len) < 0.025
    assert ks_distance(sample.output_len, trace.output_len) < 0.025


@pytest.mark.parametrize("n", [100, 1_000, 3_000])
def test_the_longest_answer_of_a_sharegpt_sample_is_as_long_as_of_so_many_real_ones(n: int) -> None:
    seen = np.sort(real("sharegpt").output_len)
    is_longest = np.diff((np.arange(len(seen) + 1) / len(seen)) ** n)  # of n random rows
    samples = [load(f"demo:sharegpt?n={n}", ReadOptions(seed=seed)) for seed in range(200)]
    longest = np.mean([sample.output_len.max() for sample in samples])
    assert longest == pytest.approx(float((seen * is_longest).sum()), rel=0.1)


def test_as_few_answers_of_a_sharegpt_sample_are_very_long_as_in_the_trace() -> None:
    share = (real("sharegpt").output_len > 2_500).mean()
    samples = [load("demo:sharegpt", ReadOptions(seed=seed)) for seed in range(20)]
    found = np.mean([(sample.output_len > 2_500).mean() for sample in samples])
    assert found == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_the_mooncake_sample_shares_like_the_trace(seed: int) -> None:
    sample = load("demo:mooncake", ReadOptions(seed=seed))
    assert sharing(sample) == pytest.approx(sharing(real("mooncake")), abs=0.04)


def test_the_mmlu_sample_shares_like_the_prompts() -> None:
    trace, sample = mmlu.read().trace, load("demo:mmlu")
    assert sample.prompt_len.mean() == pytest.approx(trace.prompt_len.mean(), rel=0.005)
    assert ks_distance(sample.prompt_len, trace.prompt_len) < 0.01
    assert sharing(sample) == pytest.approx(sharing(trace), abs=0.003)
    assert sharing(sample, 16) == pytest.approx(sharing(trace, 16), abs=0.003)


def test_the_real_mmlu_prompts_share_what_is_published() -> None:
    trace = mmlu.read().trace
    assert sharing(trace) == pytest.approx(0.8634, abs=0.001)
    assert sharing(trace, 16) == pytest.approx(0.8525, abs=0.001)


@pytest.mark.parametrize("name", ["burstgpt", "wildchat", "openvid"])
def test_a_model_has_the_moments_it_was_solved_to(name: str) -> None:
    model = json.loads((SHARED / "length_models.json").read_text())[name]
    sample = load(f"demo:{name}?n=20000")
    assert sample.prompt_len.mean() == pytest.approx(model["p_mean"], rel=0.01)
    assert sample.output_len.mean() == pytest.approx(model["d_mean"], rel=0.01)
    variation = sample.output_len.std() / sample.output_len.mean()
    assert variation == pytest.approx(model["d_cv"], rel=0.02)
    found = np.quantile(sample.output_len, [0.5, 0.9, 0.99])
    assert found == pytest.approx(model["d_q50_90_99"], rel=0.04)
