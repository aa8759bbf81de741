"""Steps of models in fp8 and of models with experts: what they move, whose kernels they take."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.errors import InputError, ProfileError
from blendsim.perf.density import closed_form
from blendsim.perf.derive import expert_shape, head_shape, token_weight_bytes
from blendsim.perf.grids import Floats
from blendsim.perf.kernels import bound_by_streams
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.small import layer_bytes
from blendsim.perf.step import step_costs
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.settings import Settings
from blendsim.specs import System, find_gpu, find_model


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
    assert (fp8.small_seconds[1:] < plain.small_seconds[1:]).all()  # fewer bytes of KV to write


def test_a_gpu_whose_kernels_were_not_measured_says_so() -> None:
    with pytest.raises(ProfileError, match="no attention over KV of 1 byte"):
        model_of("llama-3.1-8b", "a100-80g", 1, "none", "fp8")
    with pytest.raises(InputError, match="a100-80g does not compute in fp8"):
        model_of("mixtral-8x7b", "a100-80g", 2, "fp8")


def test_blocks_and_tensors_stand_for_each_other_where_one_was_not_measured() -> None:
    plain, block = (model_of("llama-3.1-8b", "h100", 1, w) for w in ("fp8", "fp8-block"))
    assert np.array_equal(plain.layer_seconds, block.layer_seconds)
    assert "gemm o 4096×4096 fp8-block, by those in fp8: measured" in block.coverage.notes
    tensor, block = (model_of("qwen3-30b-a3b", "h200", 1, w) for w in ("fp8", "fp8-block"))
    assert np.array_equal(tensor.layer_seconds, block.layer_seconds)
    assert "experts 128 × 768, 8 a token fp8, by those in fp8-block: measured" in [
        note.split(",  beyond")[0].split(", beyond")[0] for note in tensor.coverage.notes
    ]


def test_a_profile_says_where_its_tables_of_other_formats_are_from() -> None:
    profile = load_profile(
        find_gpu("h100"), system("mixtral-8x7b", "h100", 2, "fp8", "fp8").model, 2
    )
    assert {"gemm_fp8", "decode_attention_fp8", "experts"} < set(profile.meta["tables"])
    plain = load_profile(find_gpu("h100"), find_model("llama-3.1-8b"))
    assert set(plain.meta["tables"]) == {
        "gemm",
        "decode_attention",
        "prefill_attention",
        "all_reduce",
    }


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
        ProfileError, match=r"b200: experts of 128 × 768, 8 a token were measured at"
    ):
        load_profile(find_gpu("b200"), find_model("qwen3-30b-a3b"), 8)


def test_experts_take_what_was_measured_of_them() -> None:
    profile = load_profile(find_gpu("h200"), find_model("mixtral-8x7b"), 2)
    assert profile.operators == ("qkv", "o", "router", "experts", "head")
    assert expert_shape(find_model("mixtral-8x7b"), 2)[1:] == (4096, 14_336, 8, 2, 2)
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


def streams_of(share: float, experts: float) -> tuple[float, float, int, float, float]:
    return 2.0, 0.5, 1, experts, share


def test_only_the_experts_that_tokens_go_through_are_read() -> None:
    for bound in (bound_by_streams, bound_by_streams.py_func):
        # 2 s of weights, 5 of KV, and of 8 s of experts those of two tokens that each take a half.
        assert bound(streams_of(0.5, 8.0), 2, 10, 0.0, 99.0) == 2.0 + 5.0 + 8.0 * 0.75
        assert bound(streams_of(0.5, 8.0), 60, 10, 0.0, 99.0) == pytest.approx(15.0)
        assert bound(streams_of(1.0, 8.0), 2, 10, 0.0, 99.0) == 15.0
        stands_for_two = (2.0, 0.5, 2, 8.0, 0.5)
        assert bound(stands_for_two, 1, 10, 0.0, 99.0) == 2.0 + 5.0 + 8.0 * 0.75


def test_every_piece_of_a_step_reads_its_own_experts() -> None:
    model = model_of("mixtral-8x7b", "h200")
    whole, halves = (step_costs(model, True, True, pieces).streams for pieces in (1, 2))
    read = [
        bound_by_streams(streams, tokens, 0, 0.0, np.inf) - streams[0]
        for streams, tokens in ((whole, 3), (halves, 6))
    ]
    assert read[1] == pytest.approx(2 * read[0])


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_many_tokens_read_all_weights(name: str) -> None:
    model = model_of(name, "h200")
    weights, per_read, parts, experts, share = model.streams
    bytes_per_second = model.system.kv_bytes_per_token / per_read
    moved = (weights + experts) * bytes_per_second
    # Norms, biases and the embedding are not streamed.
    assert moved == pytest.approx(model.system.model.weight_bytes, rel=0.02)
    assert (parts, share) == (1, model.system.model.experts_per_token / model.system.model.experts)


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
