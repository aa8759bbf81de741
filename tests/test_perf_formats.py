"""Steps of models in fp8 and of models with experts: what they move, whose kernels they take."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.arrays import Floats
from blendsim.errors import InputError, ProfileError
from blendsim.perf.atlas import read_atlas
from blendsim.perf.density import closed_form
from blendsim.perf.derive import derive_profile
from blendsim.perf.kernels import Streams, bound_by_streams
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.model_shapes import expert_shape, head_shape, token_weight_bytes
from blendsim.perf.small import layer_bytes
from blendsim.perf.step import step_costs
from blendsim.perf.store import (
    load_profile,
    profiles_directory,
    read_profile,
    write_profile,
)
from blendsim.settings import Settings
from blendsim.specs import find_gpu, find_model
from blendsim.system import System


def system(model: str, gpu: str, tp: int = 1, weights: str = "auto", kv: str = "auto") -> System:
    asked = Settings(model=model, gpu=gpu, tp=tp, quantization=weights, kv_cache_dtype=kv)
    return asked.system


def model_of(*asked: str | int) -> StepModel:
    return step_model(system(*asked), "max")  # type: ignore[arg-type]


FP8_GPUS = ["h100", "h200", "l40s", "b200"]


@pytest.mark.parametrize("gpu", FP8_GPUS)
def test_fp8_weights_take_less_time_and_no_less_than_their_bytes(gpu: str) -> None:
    plain, fp8 = (model_of("llama-3.1-8b", gpu, 1, weights) for weights in ("none", "fp8"))
    gemms = [m.layer_seconds - m.small_seconds for m in (plain, fp8)]
    assert 0.4 < gemms[1][8192] / gemms[0][8192] < 0.9
    moved = sum(list(token_weight_bytes(fp8.system.model, 1).values())[:4])
    least = fp8.system.model.layers * moved / fp8.system.gpu.bandwidth
    assert (gemms[1][1:] >= least * (1 - 1e-9)).all()
    # A directory's tables hold five digits; those of fp8 are cut from the GPU's kernels.
    assert fp8.tables.head == pytest.approx(plain.tables.head, rel=2e-4)  # it stays bf16,
    assert fp8.tables.decode == pytest.approx(plain.tables.decode, rel=2e-4)  # and so does KV


@pytest.mark.parametrize("gpu", FP8_GPUS)
def test_fp8_kv_is_read_in_less_time_and_no_faster_than_memory(gpu: str) -> None:
    plain, fp8 = (model_of("llama-3.1-8b", gpu, 1, "none", kv) for kv in ("bf16", "fp8"))
    ratio = fp8.best_seconds_per_context_token / plain.best_seconds_per_context_token
    assert 0.45 < ratio < 0.8
    rate = fp8.system.kv_bytes_per_token / fp8.best_seconds_per_context_token
    assert rate < fp8.system.gpu.bandwidth
    gemms = [m.layer_seconds - m.small_seconds for m in (plain, fp8)]
    assert gemms[1] == pytest.approx(gemms[0], rel=2e-4)
    assert fp8.small_seconds == pytest.approx(plain.small_seconds)  # attention writes KV


def test_a_gpu_whose_kernels_were_not_measured_says_so() -> None:
    with pytest.raises(ProfileError, match="a100-80g: no attention over fp8 KV measured"):
        model_of("llama-3.1-8b", "a100-80g", 1, "none", "fp8")
    with pytest.raises(InputError, match="a100-80g does not compute in fp8"):
        model_of("mixtral-8x7b", "a100-80g", 2, "fp8")


def test_gemms_by_block_are_priced_as_those_by_tensor() -> None:
    plain, block = (model_of("llama-3.1-8b", "h100", 1, w) for w in ("fp8", "fp8-block"))
    assert np.array_equal(plain.layer_seconds, block.layer_seconds)
    assert "gemm o 4096×4096 fp8-block, by those in fp8: measured" in block.coverage.notes


def test_experts_in_fp8_are_priced_by_block_and_never_the_other_way() -> None:
    """Those by block take longer where both were measured."""
    tensor, block = (model_of("qwen3-30b-a3b", "h200", 1, w) for w in ("fp8", "fp8-block"))
    assert np.array_equal(tensor.layer_seconds, block.layer_seconds)
    assert any("a token fp8, by those in fp8-block" in note for note in tensor.coverage.notes)
    tensor, block = (model_of("qwen3-30b-a3b", "b200", 1, w) for w in ("fp8", "fp8-block"))
    assert block.layer_seconds[8192] > 1.2 * tensor.layer_seconds[8192]
    asked = find_model("mixtral-8x7b").in_format("fp8-block", "auto")
    atlas = read_atlas(profiles_directory() / "b200" / "kernels")
    assert atlas.experts is not None
    by_tensor = {s: t for s, t in atlas.experts.seconds.items() if s.weights == "fp8"}
    few = replace(atlas, experts=replace(atlas.experts, seconds=by_tensor))
    with pytest.raises(ProfileError, match=r"not measured in fp8-block at --tp 2, but in fp8 at"):
        derive_profile(few, find_gpu("b200"), asked, 2)


@pytest.mark.parametrize(
    ("weights", "kv", "more"),
    [
        ("fp8", "fp8", {"gemm_fp8", "decode_attention_fp8", "prefill_attention_fp8"}),
        ("fp8", "bf16", {"gemm_fp8"}),
        ("none", "fp8", {"decode_attention_fp8", "prefill_attention_fp8"}),
        ("none", "bf16", set()),
    ],
)
def test_a_profile_names_the_tables_that_it_is_cut_from(
    weights: str, kv: str, more: set[str]
) -> None:
    plain = {"gemm", "decode_attention", "prefill_attention", "all_reduce"}
    for name, own in (("llama-3.1-8b", set()), ("mixtral-8x7b", {"experts"})):
        model = system(name, "h100", 2, weights, kv).model
        assert set(load_profile(find_gpu("h100"), model, 2).meta["tables"]) == plain | more | own


def test_a_share_of_a_matrix_that_cuts_through_blocks_is_refused() -> None:
    """As engines refuse it when they load it."""
    with pytest.raises(InputError, match="--tp 8 leaves each GPU 192 values of qwen3-235b-a22b's"):
        system("qwen3-235b-a22b", "h200", 8, "fp8-block")
    assert system("qwen3-235b-a22b", "h200", 8, "fp8").tp == 8
    assert system("qwen3-235b-a22b", "h200", 4, "fp8-block").tp == 4


def test_whole_experts_are_priced_as_measured_so() -> None:
    """All else is the same; every GPU has as many bytes of them."""
    cut = Settings(model="mixtral-8x7b", gpu="h100", tp=2)
    whole = replace(cut, expert_parallel=True)
    models = [step_model(asked.system, "max") for asked in (cut, whole)]
    assert models[0].system.kv_blocks == models[1].system.kv_blocks
    assert models[0].tables.decode == pytest.approx(models[1].tables.decode)
    assert (models[1].tables.layers[4_096:] > models[0].tables.layers[4_096:]).all()
    assert any("on 2 GPUs whole" in note for note in models[1].coverage.notes)
    assert models[1].system.model.label == "mixtral-8x7b-ep"
    assert replace(whole, tp=1, gpu="h200").spec == replace(cut, tp=1, gpu="h200").spec


def test_blocks_that_a_cut_goes_through_are_no_matter_of_whole_experts() -> None:
    asked = Settings(model="qwen3-235b-a22b", gpu="h200", tp=8, quantization="fp8-block")
    with pytest.raises(InputError, match=r"192 values of .*; use a smaller --tp, or --expert-par"):
        _ = asked.system
    assert replace(asked, expert_parallel=True).system.tp == 8


def test_whole_experts_want_experts_that_the_gpus_can_share() -> None:
    with pytest.raises(InputError, match=r"--expert-parallel: llama-3\.1-8b has no experts"):
        _ = Settings(expert_parallel=True).system
    few = replace(find_model("mixtral-8x7b"), experts=6, expert_parallel=True)
    with pytest.raises(
        InputError,
        match="4 GPUs cannot share the 6 experts of mixtral-8x7b evenly; use another --tp",
    ):
        System(few, find_gpu("h100"), 4)
    fp8 = replace(find_model("qwen3-30b-a3b").in_format("fp8", "auto"), expert_parallel=True)
    other = replace(fp8, hidden=2_816, intermediate=704)
    have = "in bf16 at --tp 1, 2, 4, 8; in bf16 at --expert-parallel --tp 2, 4, 8"
    with pytest.raises(
        ProfileError, match=f"in fp8 at --expert-parallel --tp 2, but {have}; choose one of these$"
    ):
        load_profile(find_gpu("h100"), other, 2)


@pytest.mark.parametrize(
    ("name", "weights", "kv"),
    [
        ("mixtral-8x7b", "none", "bf16"),
        ("llama-3.1-8b", "fp8", "fp8"),
        ("qwen3-30b-a3b", "fp8", "bf16"),
    ],
)
def test_a_profile_of_them_is_read_as_it_was_written(
    tmp_path: Path, name: str, weights: str, kv: str
) -> None:
    place = tmp_path / "tp2"
    model = system(name, "h100", 2, weights, kv).model
    profile = load_profile(find_gpu("h100"), model, 2)
    write_profile(profile, place)
    read = read_profile(place)
    assert read.shape == profile.shape
    assert read.operators == profile.operators
    assert read.gemm == pytest.approx(profile.gemm, rel=1e-4)
    assert read.decode.seconds == pytest.approx(profile.decode.seconds, rel=1e-4, nan_ok=True)


def test_experts_that_were_not_measured_are_named() -> None:
    mixtral = find_model("mixtral-8x7b")
    other = replace(mixtral, name="mine", experts=16)
    with pytest.raises(ProfileError, match=r"h100: no experts measured of 16 × 14336, 2 a token"):
        load_profile(find_gpu("h100"), other, 2)
    with pytest.raises(
        ProfileError, match=r"b200: experts of 128 × 768, 8 a token were not measured"
    ):
        load_profile(find_gpu("b200"), find_model("qwen3-30b-a3b"), 8)


def test_experts_take_what_was_measured_of_them() -> None:
    profile = load_profile(find_gpu("h200"), find_model("mixtral-8x7b"), 2)
    assert profile.operators == ("qkv", "o", "router", "experts", "head")
    assert expert_shape(find_model("mixtral-8x7b"), 2)[1:] == (4096, 14_336, 8, 2, 2, 1)
    router, experts = profile.gemm[:, 2], profile.gemm[:, 3]
    assert (router < experts / 3).all()
    work = 6.0 * 4096 * 14_336 * 2 / 2 * profile.tokens
    assert 0.4 < (work / experts).max() / find_gpu("h200").flops < 0.9


def test_a_layer_with_experts_has_no_activation_of_its_own() -> None:
    """Their kernel computes it."""
    mixtral = system("mixtral-8x7b", "h200", 2)
    dense = replace(
        mixtral, model=replace(mixtral.model, experts=0, experts_per_token=0), kv_bytes=1 << 30
    )
    assert len(layer_bytes(dense)) == len(layer_bytes(mixtral)) + 1


def test_a_token_is_priced_by_the_experts_that_it_goes_through() -> None:
    """Closed form: 2·P of those, at the peak of the format of the weights."""
    plain, fp8 = (system("qwen3-30b-a3b", "h100", 1, w) for w in ("none", "fp8"))
    one = np.array([100]), np.array([10])
    costs = closed_form(plain, *one)
    assert costs.seconds_per_token == pytest.approx(2 * 3.353e9 / 989.5e12, rel=1e-3)
    assert closed_form(fp8, *one).seconds_per_token == pytest.approx(costs.seconds_per_token / 2)


def test_only_the_experts_that_tokens_go_through_are_read() -> None:
    streams = Streams(2.0, 0.5, 1, np.array([0.0, 4.0, 6.0, 7.0]))
    for bound in (bound_by_streams, bound_by_streams.py_func):
        # 2 s of weights, 5 of KV, and those of experts that so many tokens read.
        assert bound(streams, 2, 10, 0.0, 99.0) == 2.0 + 5.0 + 6.0
        assert bound(streams, 60, 10, 0.0, 99.0) == 2.0 + 5.0 + 7.0
        assert bound(streams._replace(parts=3), 1, 10, 0.0, 99.0) == 2.0 + 5.0 + 7.0


def test_every_piece_of_a_step_reads_its_own_experts() -> None:
    model = model_of("mixtral-8x7b", "h200", 2)
    whole, halves = (step_costs(model, True, True, pieces).streams for pieces in (1, 2))
    read = [
        bound_by_streams(streams, tokens, 0, 0.0, np.inf) - streams[0]
        for streams, tokens in ((whole, 3), (halves, 6))
    ]
    assert read[1] == pytest.approx(2 * read[0])


@pytest.mark.parametrize(
    ("name", "gpu", "tp"),
    [
        ("qwen3-30b-a3b", "a100-80g", 1),
        ("mixtral-8x7b", "a100-80g", 2),
        ("mixtral-8x7b", "h200", 1),
    ],
)
def test_no_experts_are_read_for_longer_than_their_kernel_takes(
    name: str, gpu: str, tp: int
) -> None:
    """Measured loads are uneven, and leave more experts alone than even ones would."""
    model = model_of(name, gpu, tp)
    profile = load_profile(model.system.gpu, model.system.model, tp)
    experts = model.system.model.layers * profile.gemm[:, 3]
    assert (model.expert_stream_seconds[profile.tokens] <= experts * (1 + 1e-9)).all()
    assert (np.diff(model.expert_stream_seconds[:9]) > 0.0).all()


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_many_tokens_read_all_weights(name: str) -> None:
    model = model_of(name, "h200")
    streams = model.streams
    bytes_per_second = model.system.kv_bytes_per_token / streams.context_token
    moved = (streams.weights + streams.experts[-1]) * bytes_per_second
    # Norms, biases and the embedding are not streamed.
    assert moved == pytest.approx(model.system.model.weight_bytes, rel=0.02)


def traffic(model: StepModel, tokens: Floats) -> Floats:
    """Seconds at the memory's peak for the weights that so many tokens go through, evenly."""
    spec = model.system.model
    untouched = (1.0 - spec.experts_per_token / spec.experts) ** tokens
    experts = spec.layers * spec.experts * spec.expert_parameters * 2.0 * (1.0 - untouched)
    return experts / model.system.tp / model.system.gpu.bandwidth


@pytest.mark.parametrize("gpu", ["a100-80g", "h100", "h200", "b200"])
def test_experts_of_a_mixture_take_about_what_reading_them_does(gpu: str) -> None:
    """Up to hundreds of tokens. Skewed loads leave some unread that even ones would touch."""
    model = model_of("mixtral-8x7b", gpu, 2)
    tokens = np.array([8.0, 32.0, 128.0])
    ratio = model.layer_seconds[tokens.astype(int)] / traffic(model, tokens)
    assert (ratio > 0.9).all()
    assert (ratio < 4.0).all()


def test_heads_on_one_gpu_know_the_format_of_their_kv() -> None:
    wide, narrow = (system("llama-3.1-8b", "h200", 2, "none", kv) for kv in ("bf16", "fp8"))
    assert head_shape(wide.model, 2).kv_bytes == 2 * head_shape(narrow.model, 2).kv_bytes
