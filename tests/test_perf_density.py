"""Densities: the paper's published numbers by its closed form, and ours by the profile."""

import csv
import gzip
from functools import cache
from pathlib import Path

import mmlu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmlu import needs_mmlu

from blendsim.batch import Batch
from blendsim.perf.density import (
    closed_form,
    left_fraction,
    memory_split,
    profiled,
    table_density,
)
from blendsim.perf.model import step_model
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
A100 = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
needs_data = pytest.mark.skipif(not DATA.exists(), reason="real traces not beside the checkout")


@cache
def a100_model():
    return step_model(A100, "table")


def lengths(file, output_share=1.0):
    with gzip.open(DATA / file, "rt", newline="") as handle:
        rows = [
            (int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(handle)
        ]
    p, d = np.array(rows, np.int64).T
    return p, d * output_share


@needs_data
@pytest.mark.parametrize(
    ("file", "density", "within"),
    [
        ("AzureLLMInferenceTrace_code.csv.gz", 27.97, 0.05),
        ("AzureLLMInferenceTrace_conv.csv.gz", 4.222, 0.01),
    ],
)
def test_azure_2023_has_the_papers_density(file, density, within):
    assert table_density(closed_form(A100, *lengths(file))) == pytest.approx(density, abs=within)


@needs_data
def test_sharegpt_has_the_papers_density():
    """Lengths in LLaMA-1 tokens; Llama-3's tokenizer needs 0.83 of them."""
    p, d = lengths("nanoflow_sharegpt.csv.gz")
    assert 2.9 < table_density(closed_form(A100, p, d * 0.83)) < 3.3


@needs_mmlu
def test_mmlu_has_the_papers_density():
    workload = mmlu.read().trace
    costs = closed_form(A100, workload.prompt_len, workload.output_len)
    saved = shareable_tokens(workload, sort_prompts(workload))
    sharing = saved / workload.prompt_len.sum()
    assert table_density(costs, sharing) == pytest.approx(54.78, abs=0.1)
    # With s as the share of compute saved, answers not counted as shared, it is 1.9 % more.
    compute = costs.compute.sum() - saved * costs.seconds_per_token
    assert compute / costs.memory.sum() == pytest.approx(55.80, abs=0.1)


def test_closed_form_is_the_papers_formula():
    p, d = 1000, 100
    costs = closed_form(A100, np.array([p]), np.array([d]))
    model = A100.model
    assert costs.compute[0] == pytest.approx(2 * (p + d) * model.parameters / 312e12)
    h_kv = model.kv_heads * model.head_dim
    assert costs.memory[0] == pytest.approx(
        (p * d + d * d / 2) * h_kv * model.layers * 4 / 2.039e12
    )
    assert costs.seconds_per_token == pytest.approx(2 * model.parameters / 312e12)


def test_density_does_not_depend_on_tensor_parallelism_in_closed_form():
    model, gpu = find_model("llama-3.1-70b"), find_gpu("a100-80g")
    p, d = np.array([512, 64]), np.array([10, 900])
    one, two = (table_density(closed_form(System(model, gpu, tp), p, d)) for tp in (4, 8))
    assert one == pytest.approx(two)


def test_sharing_takes_compute_off_and_leaves_reads():
    costs = closed_form(A100, np.array([1000, 1000]), np.array([10, 10]))
    alone, shared = table_density(costs), table_density(costs, 0.25)
    assert alone == pytest.approx(costs.compute.sum() / costs.memory.sum())
    assert shared == pytest.approx(0.75 * costs.compute.sum() / costs.memory.sum())


def test_a_pool_without_reads_is_infinitely_dense():
    costs = profiled(step_model(A100, "table"), np.array([100]), np.array([1]))
    assert table_density(costs) == float("inf")


@given(st.integers(1, 4000), st.integers(2, 400))
def test_a_request_alone_never_takes_less_than_its_profiled_costs(p, d):
    model = a100_model()
    costs = profiled(model, np.array([p]), np.array([d]))
    c, m, _ = model.seconds(Batch(p, 1, p * (p + 1) // 2, 0, 0, 1))
    for j in range(1, d):
        more_c, more_m, _ = model.seconds(Batch(0, 0, 0, 1, p + j, 1))
        c, m = c + more_c, m + more_m
    assert c >= costs.compute[0] * (1 - 1e-9)
    assert m >= costs.memory[0] * (1 - 1e-9)


def test_figure_6_splits_60_gb():
    split = memory_split(60.0, 3.73, 0.096, 1.27)
    assert split == pytest.approx((19.38, 40.62), abs=0.005)


@given(st.floats(0, 1e12), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_split_stays_within_memory_and_keeps_the_root_density(memory, left, right, root):
    split = memory_split(memory, left, right, root)
    assert 0 <= split.left <= memory
    assert split.left + split.right == pytest.approx(memory)
    if right < root < left:
        kept = split.left * left + split.right * right
        assert kept == pytest.approx(memory * root, rel=1e-6)


def test_equally_dense_ends_get_half_each():
    assert memory_split(10.0, 2.0, 2.0, 5.0) == (5.0, 5.0)
    assert left_fraction.py_func(2.0, 2.0, 5.0) == 0.5


def test_a_root_outside_the_two_ends_gives_one_side_everything():
    assert memory_split(10.0, 3.0, 1.0, 4.0) == (10.0, 0.0)
    assert memory_split(10.0, 3.0, 1.0, 0.5) == (0.0, 10.0)
