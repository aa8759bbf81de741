"""DeepSeek-V3 and Kimi-K2: what commands tell of them, and their densities in closed form."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_model_latent import CASES, H200, LAYERS, SIZES, in_bf16, in_fp8, repeated

from blendsim.cli.remarks import memory_told
from blendsim.cli.servers import flags_assumed
from blendsim.errors import InputError
from blendsim.perf.density import closed_form
from blendsim.perf.model_shapes import latent_shape, token_weights
from blendsim.perf.store import load_profile
from blendsim.search.priced import pricing_notes
from blendsim.settings import Settings
from blendsim.specs import MODELS, find_gpu
from blendsim.system import System

# What commands tell of them


def settings_of(name: str = "deepseek-v3", gpu: str = "h200", **more: Any) -> Settings:
    return Settings(model=name, gpu=gpu, tp=8, **more)


def test_memory_told_counts_what_every_gpu_has() -> None:
    weights = in_fp8("deepseek-v3", 256) + 2 * in_bf16("deepseek-v3") + repeated("deepseek-v3", 8)
    free = int(0.90 * H200.memory_bytes * 8) - (2 << 30) * 8 - weights
    tokens = free // (16 * 8 * LAYERS * 1_152) * 16
    (told,) = memory_told(settings_of(engine="vllm"))
    assert told.startswith(
        f"a replica has {free / 1e9:,.1f} GB of KV memory, {tokens:,} tokens, beside "
        f"{weights / 1e9:,.1f} GB of weights"
    )


def test_sglang_is_given_the_share_of_all_weights_and_kv() -> None:
    """0.90 of the memory less 2 GiB a GPU, whatever weights are of it."""
    settings = replace(settings_of(engine="sglang", quantization="none"), tp=16)
    share = math.floor(100 * (0.90 - (2 << 30) / H200.memory_bytes)) / 100
    told = " ".join(flags_assumed(settings))
    assert f"--mem-fraction-static {share:.2f}" in told
    assert "--tp-size 16" in told
    assert "--quantization" not in " ".join(flags_assumed(settings_of(engine="sglang")))


def test_kv_bytes_may_fill_what_all_weights_leave_and_no_more() -> None:
    weights = in_fp8("deepseek-v3", 256) + 2 * in_bf16("deepseek-v3") + repeated("deepseek-v3", 8)
    left = H200.memory_bytes * 8 - weights
    assert settings_of(kv_bytes=left).system.kv_capacity_bytes == left
    with pytest.raises(InputError, match=f"is more than the {left} bytes that weights of"):
        settings_of(kv_bytes=left + 1).system  # noqa: B018


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("gpu", ["h200", "b200"])
def test_gemms_by_block_are_said_to_be_priced_by_others(name: str, gpu: str) -> None:
    notes = pricing_notes([settings_of(name, gpu, engine="vllm")])
    (told,) = [note for note in notes if "theirs not" in note]
    assert told.startswith(f"GEMMs in fp8-block on {gpu} are priced by those in fp8, theirs not")


def test_fp8_of_a_whole_tensor_is_priced_by_what_was_measured_by_block() -> None:
    model = MODELS["deepseek-v3"].in_format("fp8", "auto")
    profile, by_block = (load_profile(H200, each, 8) for each in (model, MODELS["deepseek-v3"]))
    latent = "projections of latent attention"
    assert profile.meta["stand_ins"] == {latent: "fp8-block", "experts": "fp8-block"}
    assert (profile.gemm == by_block.gemm).all()  # which takes its other GEMMs from those in fp8


def test_projections_that_stand_in_for_others_are_said_to() -> None:
    notes = pricing_notes([settings_of(quantization="fp8", engine="vllm")])
    assert [note.partition(" in fp8 on h200 are priced by")[0] for note in notes] == [
        "projections of latent attention",
        "experts",
    ]


# Densities


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
def test_closed_form_reads_all_of_it_on_every_gpu(name: str, gpu: str, tp: int) -> None:
    chip = find_gpu(gpu)
    p, d = 3_000, 700
    system = System(MODELS[name], chip, tp)
    costs = closed_form(system, np.array([p]), np.array([d]))
    reads = (p * d + d * d / 2) * LAYERS * 1_152
    assert costs.memory[0] == pytest.approx(reads / chip.bandwidth, rel=1e-12)
    active = in_fp8(name, 8) + in_bf16(name)
    assert costs.compute[0] == pytest.approx(2 * (p + d) * active / (chip.fp8_flops * tp))


def test_closed_form_reads_repeated_kv_heads_on_every_gpu_that_has_them() -> None:
    """Four KV heads on eight GPUs are there twice, and each GPU reads its own."""
    model = MODELS["qwen3-30b-a3b"]
    p, d = np.array([1_000]), np.array([200])
    four, eight = (closed_form(System(model, H200, tp), p, d).memory[0] for tp in (4, 8))
    assert four == pytest.approx((200_000 + 20_000) * 48 * 2 * 128 * 2 / 4.8e12)
    assert eight == four


@pytest.mark.parametrize("name", SIZES)
def test_projections_weigh_the_same_by_model_and_by_shape(name: str) -> None:
    for tp in (1, 4, 8):
        weights = token_weights(MODELS[name], tp)["projections"]
        assert weights == latent_shape(MODELS[name], tp).parameters
