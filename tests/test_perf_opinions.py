"""The A100 and H200 profiles against measurements others made; the same numbers stand in
docs/profiles.md. One backend (vLLM) for all of them, nothing tuned to these figures.
"""

from pathlib import Path

import numpy as np
import pytest
from kernel_opinions import (
    KERNELS,
    REDUCE_FILES,
    attention_errors,
    layer_errors,
    package_errors,
    reduce_errors,
    table_1_errors,
    tables,
)

pytestmark = pytest.mark.skipif(
    not KERNELS.exists(), reason="independent kernel figures not beside the checkout"
)


def test_table_1_of_the_paper_within_12_percent():
    for batch, gemm, attention in table_1_errors():
        assert abs(gemm) < 0.12, batch
        assert abs(attention) < 0.12, batch


@pytest.mark.parametrize(("size", "tp"), [("8B", 1), ("70B", 8)])
def test_a_layer_agrees_with_vidur_within_8_percent_when_weights_stream(size, tp):
    assert layer_errors(size, tp)[0].median < 0.08


@pytest.mark.parametrize(("size", "tp"), [("8B", 1), ("70B", 8)])
def test_large_layers_are_faster_than_vidurs_by_less_than_22_percent(size, tp):
    for errors in layer_errors(size, tp)[2:]:
        assert -0.22 < errors.bias < 0.05, errors.name


def test_decode_attention_agrees_with_vidurs_rows():
    small, middle, large, every = attention_errors()
    assert len(every.values) == 43
    assert large.median < 0.08
    assert large.largest < 0.32
    assert every.median < 0.13
    assert small.bias > 0, "vLLM's kernel has the higher floor of the two"
    assert middle.median < 0.15


@pytest.mark.parametrize(("gpu", "file"), REDUCE_FILES)
def test_large_all_reduces_agree_with_vidur(gpu, file):
    large = reduce_errors(gpu, file)[-1]
    assert large.median < 0.25


@pytest.mark.parametrize(("device", "gpu"), [("a100_sxm", "a100-80g"), ("h200_sxm", "h200")])
def test_every_measured_row_of_the_source_package_is_met_to_rounding(device, gpu):
    rows = list(package_errors(device, gpu))
    exact = np.array([error for _, is_measured, error in rows if is_measured])
    assert len(exact) >= 78
    assert np.abs(exact).max() < 1e-4


@pytest.mark.parametrize(("device", "gpu"), [("a100_sxm", "a100-80g"), ("h200_sxm", "h200")])
def test_our_interpolation_and_the_packages_differ_by_a_few_percent(device, gpu):
    rows = list(package_errors(device, gpu))
    between = np.abs([error for _, is_measured, error in rows if not is_measured])
    assert np.median(between) < 0.05
    assert between.max() < 0.25


def test_the_error_tables_in_the_docs_are_these():
    docs = Path(__file__).resolve().parents[1] / "docs" / "profiles.md"
    text = docs.read_text()
    for line in tables().splitlines():
        assert line in text
