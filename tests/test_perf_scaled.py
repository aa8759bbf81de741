"""Kernels of a GPU that a file describes, scaled from those of another one."""

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendsim.errors import ProfileError
from blendsim.perf.measured import IMPORTED, MEASURED, chosen_model
from blendsim.perf.model import StepModel
from blendsim.perf.model_shapes import token_weight_bytes, token_weights
from blendsim.perf.store import load_profile
from blendsim.settings import Settings
from blendsim.specs import GPUS, MODELS

FACTORS = st.floats(0.25, 8.0)
BOTH_KINDS = st.sampled_from(["a100-80g", "h200"])  # with cliffs, and without


class World(NamedTuple):
    """A model on some GPU of the tables."""

    gpu: str
    settings: dict[str, Any]


WORLDS = {
    "dense": World("h200", {}),
    "measured": World("h200", {"profile": MEASURED, "overlap": "table"}),
    "cliffs": World("a100-80g", {}),
    "on two": World("h100", {"tp": 2}),
    "fp8": World("h100", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "nvfp4": World("b200", {"quantization": "nvfp4"}),
    "experts": World("h200", {"model": "qwen3-30b-a3b", "tp": 2}),
    "windows": World("h200", {"model": "gpt-oss-20b"}),
    "latent": World("h200", {"model": "deepseek-v3", "ep": 8, "dp": 8}),
    "linear": World("b200", {"model": "qwen3.5-9b"}),
}


def model_of(world: World, **figures: Any) -> StepModel:
    """Its step costs on a GPU that is like its own but for these figures; on its own for none."""
    asked = Settings(**{"gpu": world.gpu, "profile": IMPORTED, **world.settings})
    if figures:
        spec = replace(GPUS[world.gpu], name="described", like=world.gpu, **figures)
        asked = replace(asked, gpu="described", gpu_spec=spec)
    return chosen_model(asked.system, asked.overlap, asked.profile)


def tables_of(model: StepModel) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays and rates that steps and bounds are priced by."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name in model.tables._fields:
        value = getattr(model.tables, name)
        parts = value if isinstance(value, tuple) else (value,)
        found |= {f"{name} {i}": np.asarray(part) for i, part in enumerate(parts)}
    for field in fields(model):
        value = getattr(model, field.name)
        if isinstance(value, float | np.ndarray) and field.name != "lines":
            found[field.name] = np.asarray(value)
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_figures_take_the_same_seconds_to_the_last_digit(name: str) -> None:
    own, same = model_of(WORLDS[name]), model_of(WORLDS[name], flops=GPUS[WORLDS[name].gpu].flops)
    assert same.system.gpu.name == "described"
    if own.calibrations:  # of whole steps of the GPU's own, by which bounds go
        own = chosen_without_calibrations(own)
    mine, theirs = tables_of(own), tables_of(same)
    assert [key for key in mine if not np.array_equal(mine[key], theirs[key])] == []


def chosen_without_calibrations(model: StepModel) -> StepModel:
    beside = model.best_kernel_seconds_per_context_token
    return replace(model, calibrations=(), best_seconds_per_context_token=beside)


@pytest.mark.parametrize("name", WORLDS)
def test_twice_as_much_of_everything_takes_half_but_for_launches(name: str) -> None:
    world, base = WORLDS[name], GPUS[WORLDS[name].gpu]
    link = replace(base.link, bandwidth=2 * base.link.bandwidth, latency=base.link.latency / 2)
    peaks = {key: 2 * getattr(base, key) for key in ("flops", "fp8_flops", "fp4_flops")}
    slow, fast = model_of(world), model_of(world, **peaks, bandwidth=2 * base.bandwidth, link=link)
    for key in ("head", "decode", "prefill", "network", "walk"):
        mine, halved = getattr(fast.tables, key), getattr(slow.tables, key) / 2
        np.testing.assert_allclose(mine, halved, rtol=1e-12)
    kernels = (each.tables.layers - each.small_seconds for each in (fast, slow))
    np.testing.assert_allclose(next(kernels), next(kernels) / 2, rtol=1e-9)
    launches = 2 * fast.small_seconds[1:] - slow.small_seconds[1:]
    assert (launches > 0).all()
    assert launches[-1] == pytest.approx(launches[-1_000]), "the same however many tokens"
    if slow.tables.windows.size:
        np.testing.assert_allclose(fast.tables.windows, slow.tables.windows / 2, rtol=1e-12)


def gemm_of(
    bandwidth: float, flops: float, tokens: int, operator: str, model: str = "llama-3.1-8b"
) -> float:
    spec = replace(GPUS["h200"], name="described", like="h200", bandwidth=bandwidth, flops=flops)
    profile = load_profile(spec, MODELS[model])
    row = profile.tokens.tolist().index(tokens)
    return float(profile.gemm[row, profile.operators.index(operator)])


def test_a_matrix_follows_the_memory_or_the_peak_whichever_binds_it() -> None:
    bandwidth, flops = GPUS["h200"].bandwidth, GPUS["h200"].flops
    one, many = gemm_of(bandwidth, flops, 1, "down"), gemm_of(bandwidth, flops, 8_192, "down")
    assert gemm_of(2 * bandwidth, flops, 1, "down") == pytest.approx(one / 2)
    assert gemm_of(bandwidth, 2 * flops, 1, "down") == one
    assert gemm_of(2 * bandwidth, flops, 8_192, "down") == many
    assert gemm_of(bandwidth, 2 * flops, 8_192, "down") == pytest.approx(many / 2)


def test_experts_read_what_all_tokens_reach() -> None:
    """1,024 tokens reach all of 128 experts, which takes longer than their products; 8 experts, a
    token's own, would be read in less.
    """
    bandwidth, flops = GPUS["h200"].bandwidth, GPUS["h200"].flops
    own, reads, products = (
        gemm_of(a * bandwidth, b * flops, 1_024, "experts", "qwen3-30b-a3b")
        for a, b in ((1, 1), (2, 1), (1, 2))
    )
    assert (reads, products) == (pytest.approx(own / 2), own)


def test_a_matrix_between_both_is_held_by_the_nearer_roof() -> None:
    """Of 128 tokens reads take 1.7 times the products; with 10 times the bandwidth these bind."""
    bandwidth, flops, tokens = GPUS["h200"].bandwidth, GPUS["h200"].flops, 128
    outputs, inputs = 4_096, 14_336
    moved = 2 * (outputs * inputs + tokens * (outputs + inputs))
    reads, products = moved / bandwidth, 2 * tokens * outputs * inputs / flops
    assert reads / 10 < products < reads
    now = gemm_of(10 * bandwidth, flops, tokens, "down")
    assert now == pytest.approx(gemm_of(bandwidth, flops, tokens, "down") * products / reads)


@settings(max_examples=20, deadline=None)
@given(flops=FACTORS, bandwidth=FACTORS, sms=st.integers(60, 300), gpu=BOTH_KINDS)
def test_no_kernel_passes_a_roof_that_it_did_not_pass_before(
    flops: float, bandwidth: float, sms: int, gpu: str
) -> None:
    base, model = GPUS[gpu], Settings().spec
    now = replace(
        base, name="described", like=gpu, flops=flops * base.flops,
        bandwidth=bandwidth * base.bandwidth, sm_count=sms,
    )  # fmt: skip
    before, after = load_profile(base, model), load_profile(now, model)
    counts = np.array(list(token_weights(model, 1).values()))
    moved = np.array(list(token_weight_bytes(model, 1).values()))
    operations = 2.0 * before.tokens[:, None] * counts
    read = 2.0 * 8 * 128 * 2 * before.decode.batches[:, None] * before.decode.lengths
    length = before.prefill.lengths
    pairs = before.prefill.batches[:, None] * length * (length + 1.0) / 2.0
    for work, rate, kernels in (
        (operations, "flops", [each.gemm for each in (before, after)]),
        (moved + 0.0 * operations, "bandwidth", [each.gemm for each in (before, after)]),
        (read, "bandwidth", [each.decode.seconds for each in (before, after)]),
        (4.0 * 32 * 128 * pairs, "flops", [each.prefill.seconds for each in (before, after)]),
    ):
        was_below = work / kernels[0] <= getattr(base, rate)
        assert was_below.sum() > 100
        assert (work / kernels[1])[was_below].max() <= getattr(now, rate) * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(low=FACTORS, more=st.floats(1.0, 4.0), name=st.sampled_from(sorted(WORLDS)))
def test_more_bandwidth_makes_no_kernel_slower(low: float, more: float, name: str) -> None:
    world, own = WORLDS[name], GPUS[WORLDS[name].gpu].bandwidth
    slow, fast = (model_of(world, bandwidth=low * own * each) for each in (1.0, more))
    before, after = tables_of(slow), tables_of(fast)
    assert [key for key in before if (after[key] > before[key] * (1 + 1e-12)).any()] == []


def test_cliffs_of_attention_lie_where_the_sms_put_them() -> None:
    """An A100 runs 216 blocks at once: 27 requests of 8 KV heads fill a wave, and the 28th begins
    another. With half of the SMs a wave is 13.5 requests.
    """
    world = WORLDS["cliffs"]
    own, half = (model_of(world, **figures).tables.decode for figures in ({}, {"sm_count": 54}))
    step = [(rows[14] / rows[13])[-4] for rows in (own, half)]
    assert step[1] > 1.05 * step[0]
    steps = [(rows[28] / rows[27])[-4] for rows in (own, half)]
    assert steps[0] > 1.05
    assert half[27][-4] == pytest.approx(own[27][-4]), "full waves of both"


def test_a_faster_link_shortens_all_reduces_alone() -> None:
    world, link = WORLDS["on two"], GPUS["h100"].link
    own = model_of(world)
    fast = model_of(world, link=replace(link, bandwidth=2 * link.bandwidth))
    assert np.array_equal(fast.tables.layers, own.tables.layers)
    assert fast.tables.network[-1] == pytest.approx(own.tables.network[-1] / 2)
    assert fast.tables.network[1] == own.tables.network[1], "a small one waits for the latency"


def test_by_itself_imported_kernels_are_scaled_and_the_overlap_is_the_table() -> None:
    """Overlap and whole steps were measured of an H200, and of it alone."""
    found = model_of(World("h200", {"profile": "auto"}), bandwidth=7.2e12)
    assert np.array_equal(
        found.tables.decode, model_of(WORLDS["dense"], bandwidth=7.2e12).tables.decode
    )
    assert (found.overlap, found.calibrations) == ("table", ())
    measured = model_of(World("h200", {"profile": MEASURED}), bandwidth=7.2e12)
    assert (measured.overlap, measured.calibrations, measured.measured) == ("table", (), ())
    assert not np.array_equal(measured.tables.decode, found.tables.decode)
    with pytest.raises(ProfileError, match="no overlap is measured yet for described"):
        model_of(World("h200", {"profile": MEASURED, "overlap": "fit"}), bandwidth=7.2e12)
