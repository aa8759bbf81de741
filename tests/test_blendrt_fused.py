"""Small operators: torch's own and our Triton kernels against float64, and who gets which."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fused_cases
import pytest
import torch
from torch.nn import functional

from blendrt.config import TINY
from blendrt.fused import choose, plain
from blendrt.model import Decoder
from blendrt.rope import Rotation
from blendrt.weights import random_weights

CPU = torch.device("cpu")
TESTS = Path(__file__).resolve().parent
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("dtype", fused_cases.ONCE)
def test_torchs_operators_are_right_but_for_a_few_roundings(dtype: torch.dtype) -> None:
    fused_cases.check(plain, CPU, dtype, 4.0)


def test_the_check_sees_values_in_the_wrong_slots() -> None:
    class Swapped:
        rms_norm, silu_mul = plain.rms_norm, plain.silu_mul

        @staticmethod
        def rotate_and_store(projected, turn, rows, slots, norms, out=None):  # type: ignore[no-untyped-def]
            return plain.rotate_and_store(projected, turn, rows, slots.flip(0), norms, out)

    with pytest.raises(AssertionError, match="of the largest value"):
        fused_cases.check(Swapped, CPU, torch.float32, 4.0)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernels_are_right_in_tritons_interpreter() -> None:
    places = [str(TESTS), *(place for place in sys.path if place)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, str(TESTS / "fused_cases.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "kernels agree\n"


def test_a_cpu_gets_torchs_operators() -> None:
    assert choose(CPU).operators is plain


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_where_kernels_cannot_run_torchs_are_used_and_the_reason_is_told() -> None:
    operators, failure = choose(torch.device("cuda"))
    assert operators is plain
    assert failure


@torch.inference_mode()
@pytest.mark.parametrize("has_bias", [False, True])
def test_output_and_down_add_to_the_rows_they_are_given(has_bias: bool) -> None:
    config = replace(TINY, o_bias=has_bias)
    decoder = Decoder(config, random_weights(config, 0, CPU, torch.float32))
    weights = decoder.weights.layers[1]
    x, attended = torch.randn(5, config.hidden), torch.randn(5, config.heads, config.head_dim)
    hidden = torch.randn(5, config.intermediate)
    expected = x + functional.linear(attended.flatten(1), weights.o, weights.o_bias)
    assert decoder.output(1, attended, x) is x
    torch.testing.assert_close(x, expected)
    expected += functional.linear(hidden, weights.down)
    assert decoder.down(1, hidden, x) is x
    torch.testing.assert_close(x, expected)


# On a GPU


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", fused_cases.ONCE)
def test_kernels_are_right_on_a_gpu(dtype: torch.dtype) -> None:
    device = torch.device("cuda", 0)
    operators, failure = choose(device)
    assert failure is None
    fused_cases.check(operators, device, dtype, 1.1)


@pytest.mark.gpu
@on_a_gpu
def test_slots_behind_two_to_the_31_values_are_reached() -> None:
    """As K of one layer of a pool that fills an H200 has them."""
    device = torch.device("cuda", 0)
    slots = (1 << 31) // (8 * 128) + 4
    k_rows = torch.empty((slots, 8, 128), dtype=torch.bfloat16, device=device)
    projected = torch.randn(2, 48 * 128, device=device).bfloat16()
    still = Rotation(projected.new_ones((2, 1, 64)), projected.new_zeros((2, 1, 64)))
    k_rows[:4] = 7.0
    at = torch.tensor([slots - 1, slots - 4], device=device)
    choose(device).operators.rotate_and_store(projected, still, (k_rows, k_rows), at, None)
    # One tensor is K and V here, to spare memory: what is at a place is of either.
    rows = projected.view(2, 48, 128)
    stored = k_rows[at]
    is_k, is_v = (stored == rows[:, 32:40]), (stored == rows[:, 40:])
    assert bool((is_k | is_v).all())
    assert bool((k_rows[:4] == 7.0).all())
