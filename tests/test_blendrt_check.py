"""The executors' check against float32 finds what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blendrt.attention.check import Sizes
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import TINY
from blendrt.executor import graphs
from blendrt.executor.check import (
    HALF,
    ROUNDING,
    SEQUENTIAL,
    compare_executors,
    compare_graphs,
)
from blendrt.executor.streams import NO_PARTITION, can_partition

CPU = torch.device("cpu")
SIZES = Sizes(2, 20, 40, 12, 60, 3)
OVERLAPPED = f"overlapped, {NO_PARTITION} SMs"


class Forgetful(ReferenceAttention):
    """Leaves out the last decode."""

    def decode(self, layer, q, pool, out=None):
        answers = super().decode(layer, q, pool, out)
        answers[-1:] = 0.0
        return answers


def found(dtype: torch.dtype, attention=ReferenceAttention, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return compare_executors(TINY, 16, CPU, dtype, attention, [NO_PARTITION], rng, 3, SIZES)


def test_float32_executors_are_exact():
    assert all(error < 1e-5 for error in found(torch.float32).values())


def test_in_bfloat16_both_err_as_much_as_rounding_alone():
    errors = found(HALF)
    assert set(errors) == {ROUNDING, SEQUENTIAL, OVERLAPPED}
    assert 0.003 < errors[ROUNDING] < 0.05
    assert errors[SEQUENTIAL] == errors[ROUNDING]
    assert errors[OVERLAPPED] < 1.5 * errors[ROUNDING]


def test_one_wrong_row_shows():
    errors = found(HALF, Forgetful)
    assert errors[SEQUENTIAL] > 5 * errors[ROUNDING]
    assert errors[OVERLAPPED] > 5 * errors[ROUNDING]


def graphs_beside_kernels(dtype: torch.dtype) -> float:
    rng = np.random.default_rng(0)
    return compare_graphs(TINY, 16, CPU, dtype, ReferenceAttention, rng, 6, SIZES)


def test_a_run_by_graphs_is_the_run_without():
    assert graphs_beside_kernels(torch.float32) < 1e-5


def test_padding_that_writes_where_an_earlier_step_wrote_shows(monkeypatch: pytest.MonkeyPatch):
    def take(self, inputs, size):  # leaves the padding's slots as they were
        tokens = inputs.layout.tokens
        self.ids[:tokens].copy_(inputs.ids)
        self.positions[:tokens].copy_(inputs.layout.positions)
        self.slots[:tokens].copy_(inputs.layout.slots)

    monkeypatch.setattr(graphs._Buffers, "take", take)
    assert graphs_beside_kernels(torch.float32) > 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_overlap_errs_as_much_as_rounding_alone():
    """With plain streams, and with SMs split where they can be."""
    from blendrt.attention.flashinfer import FlashInferAttention

    device = torch.device("cuda", 0)
    config = replace(TINY, layers=4, hidden=1024, heads=8, head_dim=128)
    shares = [NO_PARTITION, 48] if can_partition(device) else [NO_PARTITION]
    errors = compare_executors(
        config,
        16,
        device,
        HALF,
        lambda: FlashInferAttention(config, 16, device, HALF),
        shares,
        np.random.default_rng(0),
    )
    assert max(errors.values()) < 1.5 * errors[ROUNDING]
