"""Kernels in fp8 and those of experts: who has which, what they may reach, and old directories."""

import itertools
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from blendsim.errors import ProfileError
from blendsim.formats import WEIGHTS
from blendsim.perf.atlas import EXCHANGE, EXPERTS, FILES, read_atlas, write_atlas
from blendsim.perf.grids import UNCACHED_BYTES, ExpertShape, HeadShape
from blendsim.perf.records import write_toml
from blendsim.perf.store import profiles_directory
from blendsim.specs import GPUS

ROOT = profiles_directory()
FP8_GPUS = [gpu.name for gpu in GPUS.values() if gpu.fp8_flops]
#: Files that kernels/ of before fp8 and experts had.
OLD = ("gemm.csv", "decode_attention.csv", "prefill_attention.csv", "all_reduce.csv", "meta.toml")


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    place = tmp_path / "h100" / "kernels"
    shutil.copytree(ROOT / "h100" / "kernels", place)
    return place


@pytest.mark.parametrize("gpu", GPUS)
def test_only_a_gpu_that_computes_in_fp8_has_kernels_in_it(gpu: str) -> None:
    atlas = read_atlas(ROOT / gpu / "kernels")
    has_fp8 = GPUS[gpu].fp8_flops > 0
    formats = ["bf16", "fp8"] if has_fp8 else ["bf16"]
    assert list(atlas.gemms) == formats + (["nvfp4"] if GPUS[gpu].fp4_flops else [])
    for grids in (atlas.decode, atlas.prefill):
        shapes = {
            bytes_: {(*s[:3], s.window) for s in grids if s.value_bytes == bytes_ and not s.latent}
            for bytes_ in (1, 2)
        }
        assert shapes[2]
        assert shapes[1] == (shapes[2] if has_fp8 else set())


def test_experts_of_hopper_are_not_fp8_but_by_block() -> None:
    """Those with a scale a tensor were timed with kernels that nobody had tuned."""
    have = {}
    for gpu in GPUS:
        experts = read_atlas(ROOT / gpu / "kernels").experts
        assert experts is not None
        have[gpu] = {shape.weights for shape in experts.seconds}
    every = set(WEIGHTS) - {"nvfp4"}
    by_block = {"bf16", "fp8-block", "mxfp4", "int4"}
    assert have == {
        "a100-80g": {"bf16"},
        "h100": by_block,
        "h200": by_block,
        "l40s": every,
        "b200": {*every, "nvfp4"},
    }


@pytest.mark.parametrize("gpu", GPUS)
def test_mixtral_and_qwen3_have_experts(gpu: str) -> None:
    """At what tp an expert's share is one that the kernels take."""
    experts = read_atlas(ROOT / gpu / "kernels").experts
    assert experts is not None
    for shape, least in (((4096, 14_336, 8, 2), {1, 2, 4, 8}), ((2048, 768, 128, 8), {1, 2})):
        for weights in {s.weights for s in experts.seconds} - {"mxfp4", "int4"}:
            have = {s.tp for s in experts.seconds if s[:5] == (weights, *shape)}
            assert have >= least, (weights, shape)


@pytest.mark.parametrize("gpu", FP8_GPUS)
def test_gpt_oss_has_experts_and_windows(gpu: str) -> None:
    """On all numbers of GPUs that its heads can be cut over."""
    atlas = read_atlas(ROOT / gpu / "kernels")
    assert atlas.experts is not None
    for experts in (32, 128):
        shapes = [s for s in atlas.experts.seconds if s[:4] == ("mxfp4", 2880, 2880, experts)]
        assert {s.tp for s in shapes} == {1, 2, 4, 8}
        assert {s.ep for s in shapes} == {1, 2, 4, 8}
    for grids in (atlas.decode, atlas.prefill):
        windowed = {s for s in grids if s.window}
        wanted = itertools.product((1, 2, 4, 8), (1, 2))
        assert windowed == {HeadShape(64 // tp, 8 // tp, 64, size, 128) for tp, size in wanted}


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200"])
def test_deepseek_and_kimi_have_experts_and_latent_attention(gpu: str) -> None:
    """On all numbers of GPUs, whatever their KV is kept in."""
    atlas = read_atlas(ROOT / gpu / "kernels")
    assert atlas.experts is not None
    assert atlas.projections is not None
    for weights, experts in (("fp8-block", 256), ("fp8-block", 384), ("int4", 384)):
        shapes = [s for s in atlas.experts.seconds if s[:4] == (weights, 7168, 2048, experts)]
        assert {s.tp for s in shapes} == {s.ep for s in shapes} == {1, 2, 4, 8}
    heads = [1, 2, 4, 8, 16, 32, 64, 128]
    for grids in (atlas.decode, atlas.prefill):
        latent = {s for s in grids if s.latent}
        wanted = itertools.product(heads, (1, 2))
        assert latent == {HeadShape(n, 1, 128, size, latent=576) for n, size in wanted}
    for weights in ("bf16", "fp8-block"):
        assert sorted(s.heads for s in atlas.projections.seconds if s.weights == weights) == heads


@pytest.mark.parametrize("gpu", FP8_GPUS)
def test_a_window_costs_the_same_at_any_context_behind_it(gpu: str) -> None:
    """Where attention to the whole context costs three times as much and more."""
    decode = read_atlas(ROOT / gpu / "kernels").decode
    for window, grows in ((128, False), (0, True)):
        grid = decode[HeadShape(64, 8, 64, 2, window)]
        row = grid.seconds[np.searchsorted(grid.batches, 64)]
        short, long = (row[np.searchsorted(grid.lengths, n)] for n in (1024, 8192))
        assert long > 3 * short if grows else long == pytest.approx(short, rel=0.1)


@pytest.mark.parametrize("gpu", GPUS)
def test_experts_stay_below_the_peak_of_their_format(gpu: str) -> None:
    """And more GPUs take less time each, so that `intermediate` is of all of them. A single token
    reads what its own experts weigh: those of two matrices would pass the bandwidth.
    """
    spec = GPUS[gpu]
    experts = read_atlas(ROOT / gpu / "kernels").experts
    assert experts is not None
    largest = int(np.argmax(experts.tokens == 8192))
    for shape, seconds in experts.seconds.items():
        work = 6.0 * shape.hidden * shape.intermediate * shape.per_token / shape.gpus
        peak = spec.flops_in(shape.weights)
        assert np.nanmax(work * experts.tokens / seconds) < 0.7 * peak, shape
        read = work / 2 * WEIGHTS[shape.weights]
        if read >= UNCACHED_BYTES / 2:
            assert read / seconds[0] < spec.bandwidth, shape
        whole = experts.seconds.get(shape._replace(tp=1, ep=1))
        if shape.tp == 8 and whole is not None and shape.intermediate >= 8192:
            assert seconds[largest] < whole[largest] / 3, shape


@pytest.mark.parametrize("gpu", GPUS)
def test_whole_experts_take_longer_than_shares_of_all(gpu: str) -> None:
    """The busiest GPU's: a token's experts are not spread evenly over the GPUs."""
    experts = read_atlas(ROOT / gpu / "kernels").experts
    assert experts is not None
    many = experts.tokens >= 2_048
    ratios = [
        np.median((seconds / experts.seconds[cut])[many])
        for shape, seconds in experts.seconds.items()
        if shape.ep in (2, 4) and shape.weights == "bf16"
        for cut in [shape._replace(tp=shape.ep, ep=1)]
        if cut in experts.seconds
    ]
    assert len(ratios) > 4
    assert 1.0 < np.median(ratios) < 2.0


@pytest.mark.parametrize("gpu", FP8_GPUS)
def test_gemms_in_fp8_stay_below_its_peak_and_large_ones_beat_bf16(gpu: str) -> None:
    gemms = read_atlas(ROOT / gpu / "kernels").gemms
    grid, other = gemms["fp8"], gemms["bf16"]
    assert np.array_equal(grid.tokens, other.tokens)
    work = 2.0 * grid.outputs[:, None, None] * grid.inputs[:, None] * grid.tokens
    assert np.nanmax(work / grid.seconds) < 0.9 * GPUS[gpu].fp8_flops
    wide = np.ix_(grid.outputs >= 16_384, (grid.inputs >= 2048) & (grid.inputs <= 16_384))
    ratio = (grid.seconds / other.seconds)[wide][..., grid.tokens >= 2048]
    assert np.nanmedian(ratio) < 0.75


@pytest.mark.parametrize(
    ("gpu", "most"), [("h100", 0.75), ("h200", 0.9), ("l40s", 0.6), ("b200", 0.65)]
)
def test_large_batches_read_fp8_kv_in_less_time(gpu: str, most: float) -> None:
    """Half the bytes; an H200's kernel is bound by what it computes instead."""
    decode = read_atlas(ROOT / gpu / "kernels").decode
    bf16, fp8 = (decode[HeadShape(32, 8, 128, size)] for size in (2, 1))
    at = [
        grid.seconds[np.searchsorted(grid.batches, 256), np.searchsorted(grid.lengths, 1024)]
        for grid in (fp8, bf16)
    ]
    assert 0.5 < at[0] / at[1] < most


def test_kernels_of_before_load_as_they_did(kernels: Path) -> None:
    whole = read_atlas(kernels)
    for name in set(FILES) - set(OLD):
        (kernels / name).unlink(missing_ok=True)
    meta = tomllib.loads((kernels / "meta.toml").read_text())
    for key in ("more_tables", "routing"):
        del meta[key]
    write_toml(kernels / "meta.toml", meta)
    atlas = read_atlas(kernels)
    assert list(atlas.gemms) == ["bf16"]
    assert atlas.experts is None
    # Heads of 256 values have tables of their own, which are newer, too.
    narrow = {s for s in whole.decode if s.head_dim < 256}
    assert set(atlas.decode) == {s for s in narrow if s[3:] == (2, 0, 0)}
    assert np.array_equal(atlas.gemms["bf16"].seconds, whole.gemms["bf16"].seconds, equal_nan=True)


@pytest.mark.parametrize("name", ["gemm.csv", "decode_attention.csv", "all_reduce.csv"])
def test_tables_in_bf16_have_to_be_there(kernels: Path, name: str) -> None:
    (kernels / name).unlink()
    with pytest.raises(ProfileError, match=f"{name}: missing; run `blendsim profile import`"):
        read_atlas(kernels)


def test_writing_takes_away_tables_of_what_is_no_longer_there(kernels: Path) -> None:
    write_atlas(read_atlas(ROOT / "a100-80g" / "kernels"), kernels)
    assert {path.name for path in kernels.iterdir()} == {*OLD, EXPERTS, EXCHANGE}


def test_gemms_by_block_are_read_where_someone_measured_them(kernels: Path) -> None:
    shutil.copy(kernels / "gemm_fp8.csv", kernels / "gemm_fp8_block.csv")
    atlas = read_atlas(kernels)
    assert list(atlas.gemms) == ["bf16", "fp8", "fp8-block"]
    assert np.array_equal(
        atlas.gemms["fp8-block"].seconds, atlas.gemms["fp8"].seconds, equal_nan=True
    )


def test_a_profile_says_nothing_of_tables_that_it_is_not_cut_from() -> None:
    meta = tomllib.loads((ROOT / "h100" / "llama-3.1-8b" / "tp1" / "meta.toml").read_text())
    assert set(meta["tables"]) == {"gemm", "decode_attention", "prefill_attention", "all_reduce"}
    assert "more_tables" not in meta


def test_what_bf16_cannot_reach_is_no_fault_in_fp8(kernels: Path) -> None:
    """The bf16 table passes as one of fp8; an fp8 one as bf16 is refused by its fastest cell."""
    fp8 = (kernels / "gemm_fp8.csv").read_bytes()
    shutil.copy(kernels / "gemm.csv", kernels / "gemm_fp8.csv")
    gemms = read_atlas(kernels).gemms
    assert np.array_equal(gemms["fp8"].seconds, gemms["bf16"].seconds, equal_nan=True)
    (kernels / "gemm.csv").write_bytes(fp8)
    with pytest.raises(ProfileError, match=r"gemm.csv: line \d+, column \d+: 1,6\d\d TFLOP/s of a"):
        read_atlas(kernels)


def test_experts_hold_holes_where_nothing_was_measured(kernels: Path) -> None:
    lines = (kernels / EXPERTS).read_text().splitlines()
    cells = lines[1].split(",")
    cells[9] = ""
    (kernels / EXPERTS).write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    experts = read_atlas(kernels).experts
    assert experts is not None
    shape = ExpertShape(cells[0], *map(int, cells[1:7]))
    assert np.isnan(experts.seconds[shape][2])
