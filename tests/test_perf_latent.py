"""Latent attention cut out of whole modules: what is put into them comes out again, and the tables
that are shipped are what the package's modules take.
"""

import csv
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from blendsim.errors import ProfileError
from blendsim.perf.atlas import Needs, read_atlas, write_atlas
from blendsim.perf.grids import AttentionGrid, HeadShape, LatentShape
from blendsim.perf.latent import LatentGrids, latent_grids
from blendsim.specs import GPUS

ROOT = Path(__file__).parents[1] / "profiles"
PACKAGE = "aiconfigurator_core"
H200 = GPUS["h200"]

#: DeepSeek-V3's sizes, as published.
HIDDEN, Q_RANK, KV_RANK, ROPE, HEAD = 7_168, 1_536, 512, 64, 128
BF16_BYTES = 2 * (KV_RANK + ROPE)  # of a token in one layer
MODULES = (("bfloat16", "bf16"), ("fp8_block", "fp8-block"))
FEW, MANY = 8, 16  # heads

BATCHES = [2**i for i in range(9)]
PROMPTS = [1, 16, 64, 256, 512, 1_024, 1_536, 2_048, 4_096, 8_192, 16_384, 32_768]
READERS = [*BATCHES, 512, 1_024]
CONTEXTS = [3, 17, 65, 1_025, 16_385]


def pair_seconds(heads: int) -> float:
    """Seconds of a query-key pair at the data sheet's peak: 128 values of the latent part and 64 of
    the position's in the first product, 128 in the second.
    """
    return heads * 2.0 * (128 + 64 + 128) / 989.5e12


def operations(heads: int) -> float:
    """FLOPs of one token in the projections: down to both ranks, up to the heads, and out."""
    up = Q_RANK * (HEAD + ROPE) + KV_RANK * 2 * HEAD
    return 2.0 * (HIDDEN * (Q_RANK + KV_RANK + ROPE) + heads * (up + HEAD * HIDDEN))


class Truth(NamedTuple):
    """What modules are made of: the seconds of their parts by heads and formats."""

    projections: Callable[[int, int, str], float]  # tokens, heads, weights
    prompts: Callable[[int, int, int, str], float]  # requests, length, heads, KV
    decodes: Callable[[int, int, int, str], float]  # requests, context, heads, KV


def projected(tokens: int, heads: int, weights: str) -> float:
    """At 60 % of the peak, after what no step is without."""
    peak = {"bfloat16": 989.5e12, "fp8_block": 1979e12}[weights]
    return 60e-6 + heads * 1e-6 + tokens * operations(heads) / (0.6 * peak)


def attended(requests: int, length: int, heads: int, kv: str) -> float:
    """Nothing up to 16 tokens, then slow as decodes are, from 1,024 on at half of the peak."""
    pairs = requests * length * (length + 1) / 2
    if length <= 16:
        return 0.0
    rate = 2.0 if length >= 1_024 else 9.0
    return rate * pairs * pair_seconds(heads) * (0.9 if kv == "fp8" else 1.0)


def read(requests: int, context: int, _: int, kv: str) -> float:
    """Nothing of 3 tokens, then at 80 % of the bandwidth."""
    if context == CONTEXTS[0]:
        return 0.0
    return requests * context * (BF16_BYTES // (2 if kv == "fp8" else 1)) / (0.8 * 4.8e12)


TRUTH = Truth(projected, attended, read)


def row(heads: int, weights: str, kv: str, size: tuple[int, int, int], time: float) -> Any:
    batch, isl, step = size
    return {
        "mla_dtype": "bfloat16",
        "gemm_type": weights,
        "kv_cache_dtype": kv,
        "num_heads": heads,
        "batch_size": batch,
        "isl": isl,
        "step": step,
        "latency": 1e3 * time,  # in ms
    }


def rows_of(
    truth: Truth, noise: Callable[[], float] = lambda: 1.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Modules as the package has them: of prompts, and of decodes."""
    prompts, decodes = [], []
    for heads in (FEW, MANY):
        for weights, _ in MODULES:
            for kv in ("bfloat16", "fp8"):
                kind = heads, weights, kv
                for b in BATCHES:
                    for s in PROMPTS:
                        if b * s <= 131_072:
                            time = truth.projections(b * s, heads, weights)
                            time += truth.prompts(b, s, heads, kv)
                            prompts.append(row(*kind, (b, s, 0), time * noise()))
                for b in READERS:
                    for s in CONTEXTS:
                        time = truth.projections(b, heads, weights)
                        time += truth.decodes(b, s, heads, kv)
                        decodes.append(row(*kind, (b, 1, s - 1), time * noise()))
    return prompts, decodes


def latent_shape(heads: int, weights: str) -> LatentShape:
    return LatentShape(weights, HIDDEN, heads, HEAD, Q_RANK, KV_RANK, ROPE)


def head_shape(heads: int, kv: str = "bfloat16") -> HeadShape:
    return HeadShape(heads, 1, HEAD, 1 if kv == "fp8" else 2, 0, KV_RANK + ROPE)


def points(grid: AttentionGrid) -> Iterator[tuple[int, int, float]]:
    for i, b in enumerate(grid.batches):
        for j, s in enumerate(grid.lengths):
            if not np.isnan(grid.seconds[i, j]):
                yield int(b), int(s), float(grid.seconds[i, j])


@cache
def exact() -> LatentGrids:
    return latent_grids(H200, *rows_of(TRUTH))


# What is put in comes out


def test_projections_are_given_back_by_heads_and_weights() -> None:
    grid = exact().projections
    assert list(grid.seconds) == [latent_shape(h, w) for h in (FEW, MANY) for _, w in MODULES]
    for heads in (FEW, MANY):
        for weights, ours in MODULES:
            found = grid.seconds[latent_shape(heads, ours)]
            wanted = [projected(n, heads, weights) for n in grid.tokens.tolist()]
            assert found == pytest.approx(wanted, rel=1e-9)
    # Not of 3 · 2ⁿ tokens, which only one prompt makes: it does not say what attention took.
    assert grid.tokens.tolist() == [2**i for i in range(18)]


@pytest.mark.parametrize("kv", ["bfloat16", "fp8"])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_decode_attention_is_given_back_where_memory_allows_it(heads: int, kv: str) -> None:
    grid = exact().decode[head_shape(heads, kv)]
    assert grid.batches.tolist() == READERS
    assert grid.lengths.tolist() == CONTEXTS
    token = BF16_BYTES // (2 if kv == "fp8" else 1)
    for b, s, seconds in points(grid):
        least = b * s * token / 4.8e12
        assert seconds == pytest.approx(max(read(b, s, heads, kv), least), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("kv", ["bfloat16", "fp8"])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_attention_of_prompts_is_given_back_where_the_peak_allows_it(heads: int, kv: str) -> None:
    grid = exact().prefill[head_shape(heads, kv)]
    found = list(points(grid))
    assert [(b, s) for b, s, _ in found] == [
        (b, s) for b in BATCHES for s in PROMPTS if b * s <= 131_072
    ]
    for b, s, seconds in found:
        least = b * s * (s + 1) / 2 * pair_seconds(heads)
        wanted = max(attended(b, s, heads, kv), least)
        assert seconds == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_prompts_of_1024_tokens_are_the_first_that_say_what_is_left_without_attention() -> None:
    """Two shorter ones of as many tokens would say too little: they attend otherwise."""

    def steep(requests: int, length: int, heads: int, kv: str) -> float:
        slow = 40.0 if 16 < length < 1_024 else 2.0
        return slow * requests * length * (length + 1) / 2 * pair_seconds(heads)

    grids = latent_grids(H200, *rows_of(TRUTH._replace(prompts=steep)))
    for n, found in zip(
        grids.projections.tokens.tolist(),
        grids.projections.seconds[latent_shape(MANY, "bf16")],
        strict=True,
    ):
        least = 0.0 if n in READERS else steep(max(1, n // 16), 16, MANY, "bfloat16")
        least = 0.0 if n >= 2_048 else least
        assert found == pytest.approx(projected(n, MANY, "bfloat16") + least, rel=1e-9), n


def test_attention_is_the_mean_of_what_modules_of_both_formats_leave() -> None:
    prompts, decodes = rows_of(TRUTH)
    for one in (*prompts, *decodes):  # the modules in fp8 attend 30 % longer
        if one["gemm_type"] == "fp8_block":
            base = 1e3 * projected(
                one["batch_size"] * one["isl"], one["num_heads"], one["gemm_type"]
            )
            one["latency"] = base + 1.3 * (one["latency"] - base)
    grids = latent_grids(H200, prompts, decodes)
    for kv in ("bfloat16", "fp8"):
        for b, s, seconds in points(grids.decode[head_shape(MANY, kv)]):
            if s > CONTEXTS[0]:
                assert seconds == pytest.approx(1.15 * read(b, s, MANY, kv), rel=1e-6)
        for b, s, seconds in points(grids.prefill[head_shape(MANY, kv)]):
            if s > 16:
                assert seconds == pytest.approx(1.15 * attended(b, s, MANY, kv), rel=1e-6)


def test_projections_are_the_fastest_of_modules_with_either_kv() -> None:
    prompts, decodes = rows_of(TRUTH)
    slower = [
        one | {"latency": one["latency"] * (1.2 if one["kv_cache_dtype"] == "fp8" else 1.0)}
        for one in (*prompts, *decodes)
    ]
    grids = latent_grids(H200, slower[: len(prompts)], slower[len(prompts) :])
    for shape, seconds in exact().projections.seconds.items():
        assert grids.projections.seconds[shape] == pytest.approx(seconds, rel=1e-9)


def test_modules_that_attend_in_fp8_or_compute_in_fp4_are_left_out() -> None:
    prompts, decodes = rows_of(TRUTH)
    others: list[dict[str, Any]] = [{"mla_dtype": "fp8"}, {"gemm_type": "nvfp4"}]
    strange = [one | other | {"latency": 1e-6} for one in prompts[:50] for other in others]
    grids = latent_grids(H200, prompts + strange, decodes + strange)
    assert grids.projections.seconds.keys() == exact().projections.seconds.keys()
    for shape, seconds in exact().projections.seconds.items():
        assert (grids.projections.seconds[shape] == seconds).all()
    for ours, theirs in ((grids.decode, exact().decode), (grids.prefill, exact().prefill)):
        assert ours.keys() == theirs.keys()
        for head in ours:
            assert list(points(ours[head])) == list(points(theirs[head]))


def test_a_module_without_decodes_or_without_prompts_is_none() -> None:
    prompts, decodes = rows_of(TRUTH)
    grids = latent_grids(
        H200,
        [one for one in prompts if one["num_heads"] == FEW or one["gemm_type"] == "bfloat16"],
        [one for one in decodes if one["num_heads"] == MANY],
    )
    assert list(grids.projections.seconds) == [latent_shape(MANY, "bf16")]
    assert grids.decode.keys() == grids.prefill.keys()
    assert {shape.heads for shape in grids.decode} == {MANY}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_noise_makes_no_part_faster_than_the_data_sheet(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    grids = latent_grids(H200, *rows_of(TRUTH, lambda: float(np.exp(rng.normal(0.0, spread)))))
    for shape, grid in grids.decode.items():
        token = (KV_RANK + ROPE) * shape.value_bytes
        for b, s, seconds in points(grid):
            assert seconds >= b * s * token / 4.8e12 * (1 - 1e-12)
    for shape, grid in grids.prefill.items():
        for b, s, seconds in points(grid):
            assert seconds >= b * s * (s + 1) / 2 * pair_seconds(shape.heads) * (1 - 1e-12)
    tokens = grids.projections.tokens
    for heads in (FEW, MANY):
        for weights, ours in MODULES:
            found = grids.projections.seconds[latent_shape(heads, ours)]
            truth = np.array([projected(n, heads, weights) for n in tokens.tolist()])
            assert (np.abs(found / truth - 1) < 12 * spread).all()
            assert (found >= operations(heads) * tokens / H200.flops_in(ours)).all()


def test_one_slow_module_leaves_no_projections_faster_than_the_data_sheet() -> None:
    """As some of the package's take twice what their neighbours do."""
    prompts, decodes = rows_of(TRUTH)
    slow = next(one for one in prompts if (one["batch_size"], one["isl"]) == (64, 2_048))
    assert (slow["num_heads"], slow["gemm_type"]) == (FEW, "bfloat16")
    slow["latency"] *= 2.2
    projections = latent_grids(H200, prompts, decodes).projections
    found = projections.seconds[latent_shape(FEW, "bf16")]
    assert (found >= operations(FEW) * projections.tokens / 989.5e12).all()


# The tables that are shipped


class Table(NamedTuple):
    """A CSV as it lies there: its rows by their keys, and what its other columns are."""

    columns: list[int]
    rows: dict[tuple[str, ...], list[float]]  # seconds


@cache
def table(gpu: str, name: str, keys: int) -> Table:
    with (ROOT / gpu / "kernels" / name).open(newline="") as handle:
        header, *lines = csv.reader(handle)
    rows = {
        tuple(line[:keys]): [float(cell or "nan") / 1e6 for cell in line[keys:]] for line in lines
    }
    return Table([int(name) for name in header[keys:]], rows)


def attention(gpu: str, name: str, heads: int) -> dict[tuple[int, int], float]:
    """Seconds by requests and tokens of each."""
    found = table(gpu, name, 5)
    return {
        (int(key[4]), s): seconds
        for key, of_row in found.rows.items()
        if key[:4] == (str(heads), "1", "128", "576")
        for s, seconds in zip(found.columns, of_row, strict=True)
        if not np.isnan(seconds)
    }


#: What measured times may fall by from one number of tokens to the next, and from one number of
#: heads to the next.
DIPS = {"h100": (0.01, 0.0), "h200": (0.02, 0.0), "b200": (0.05, 0.005), "l40s": (0.12, 0.09)}


@pytest.mark.parametrize("gpu", DIPS)
def test_projections_grow_with_tokens_and_heads(gpu: str) -> None:
    found = table(gpu, "projections.csv", 7)
    sizes = ("128", "1536", "512", "64")
    heads = [str(2**i) for i in range(8)]
    assert list(found.rows) == [
        (w, "7168", h, *sizes) for w in ("bf16", "fp8-block") for h in heads
    ]
    over_tokens, over_heads = DIPS[gpu]
    for weights in ("bf16", "fp8-block"):
        grid = np.array([found.rows[weights, "7168", h, *sizes] for h in heads])
        for of_row in grid:
            times = of_row[~np.isnan(of_row)]
            assert (times[1:] >= (1 - over_tokens) * times[:-1]).all()
        growth = grid[1:] / grid[:-1]
        assert (growth[~np.isnan(growth)] >= 1 - over_heads).all()
        # In a large step a GPU with all heads computes 36 to 52 times what one has with one head
        # and what belongs to none.
        assert 5.0 < np.nanmax(grid[-1] / grid[0]) < 36.0


@pytest.mark.parametrize("gpu", DIPS)
def test_projections_are_within_what_a_gpu_computes(gpu: str) -> None:
    found = table(gpu, "projections.csv", 7)
    tokens = np.array(found.columns)
    for (weights, _, heads, *_), seconds in found.rows.items():
        peak = GPUS[gpu].flops if weights == "bf16" else GPUS[gpu].fp8_flops
        share = operations(int(heads)) * tokens / np.array(seconds) / peak
        assert 0.15 < np.nanmax(share) < 0.75


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200"])
@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
def test_large_reads_are_near_the_bandwidth(gpu: str, heads: int) -> None:
    seconds = attention(gpu, "decode_attention_latent.csv", heads)
    rate = 256 * 4_097 * BF16_BYTES / seconds[256, 4_097]
    least = 0.6 if gpu == "b200" else 0.7
    assert least * GPUS[gpu].bandwidth < rate < GPUS[gpu].bandwidth


def test_16_heads_on_an_h200_read_at_four_terabytes_a_second() -> None:
    seconds = attention("h200", "decode_attention_latent.csv", 16)[256, 4_097]
    assert seconds == 286.25e-6
    assert 256 * 4_097 * 1_152 / seconds == pytest.approx(4.22e12, rel=1e-3)


#: Times of KV in fp8 to those in bf16, over 8 GB of it (in bf16) and 16 heads. FlashMLA on an H200
#: reads no faster than on an H100, whose memory is slower.
FP8_SHARES = {"h100": (0.5, 0.6), "h200": (0.65, 0.8), "b200": (0.4, 0.5)}


@pytest.mark.parametrize("gpu", FP8_SHARES)
def test_kv_in_fp8_takes_less_where_it_is_much(gpu: str) -> None:
    plain = attention(gpu, "decode_attention_latent.csv", 16)
    fp8 = attention(gpu, "decode_attention_latent_fp8.csv", 16)
    large = [(b, s) for b, s in plain if b * s * BF16_BYTES >= 8e9 and b <= 128]
    least, most = FP8_SHARES[gpu]
    assert large
    for point in large:
        assert least < fp8[point] / plain[point] < most, point


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "l40s"])
@pytest.mark.parametrize("heads", [8, 16])
def test_prompts_are_within_the_peak_and_long_ones_near_it(gpu: str, heads: int) -> None:
    seconds = attention(gpu, "prefill_attention_latent.csv", heads)
    of_pair = 2.0 * heads * (128 + 64 + 128)
    shares = {
        (b, s): of_pair * b * s * (s + 1) / 2 / time / GPUS[gpu].flops
        for (b, s), time in seconds.items()
    }
    assert max(shares.values()) <= 1 + 1e-5  # a cell has six digits
    long = [share for (_, s), share in shares.items() if s >= 6_144]
    assert min(long) > (0.45 if gpu == "l40s" else 0.75)


def test_tables_are_written_as_they_were_read(tmp_path: Path) -> None:
    needs = Needs(other_weights=False, kv="fp8", experts=False, kind="latent")
    write_atlas(read_atlas(ROOT / "h200" / "kernels", needs), tmp_path)
    written = [path.name for path in tmp_path.glob("*latent*")]
    assert sorted(written) == [
        f"{name}_attention_latent{kv}.csv" for name in ("decode", "prefill") for kv in ("", "_fp8")
    ]
    for name in (*written, "projections.csv"):
        assert (tmp_path / name).read_bytes() == (ROOT / "h200" / "kernels" / name).read_bytes()


def test_projections_in_another_unit_are_refused(tmp_path: Path) -> None:
    """A cell that would need 1.6 times the peak, in the row of most heads: its sizes count."""
    needs = Needs(other_weights=False, kv="bf16", experts=False, kind="latent")
    place = tmp_path / "h200" / "kernels"
    write_atlas(read_atlas(ROOT / "h200" / "kernels", needs), place)
    path = place / "projections.csv"
    lines = path.read_text().splitlines()
    row = next(line for line in lines if line.startswith("bf16,7168,128,"))
    *others, _last = row.split(",")
    changed = ",".join([*others, f"{131_072 * operations(128) / (1.6 * 989.5e12) * 1e6:.1f}"])
    path.write_text("\n".join(lines).replace(row, changed) + "\n")
    with pytest.raises(ProfileError, match=r"projections\.csv.* 1,58\d TFLOP/s of a GPU that has"):
        read_atlas(place, needs)


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "l40s"])
def test_parts_make_the_modules_they_were_cut_from(gpu: str) -> None:
    """At 16 heads a GPU: prompts of 1,024 tokens and more, and decodes behind as many."""
    pytest.importorskip("pyarrow")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip(f"{PACKAGE} is not installed")
    import pyarrow.parquet as pq

    systems = {"h100": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm", "l40s": "l40s"}
    data = Path(spec.origin).parent / "systems" / "data" / systems[gpu] / "mla" / "vllm"
    projections = table(gpu, "projections.csv", 7)
    for kind, name, within in (
        ("context", "prefill_attention_latent", 0.05),
        ("generation", "decode_attention_latent", 0.1 if gpu != "l40s" else 0.3),
    ):
        (file,) = data.glob(f"*/mla_{kind}_module_perf.parquet")
        errors = []
        for one in pq.read_table(file, filters=[("num_heads", "=", 16)]).to_pylist():
            b, s = one["batch_size"], one["isl"] + one["step"]
            if one["mla_dtype"] != "bfloat16" or one["gemm_type"] == "nvfp4" or s < 1_024:
                continue
            fp8 = "_fp8" if one["kv_cache_dtype"] == "fp8" else ""
            weights = dict(MODULES)[one["gemm_type"]]
            of_tokens = projections.rows[weights, "7168", "16", "128", "1536", "512", "64"]
            n = b * s if kind == "context" else b
            before = np.interp(n, projections.columns, of_tokens)
            made = before + attention_of(gpu, f"{name}{fp8}.csv")[b, s]
            errors.append(made / (one["latency"] * 1e-3) - 1)
        assert len(errors) > 100
        assert np.abs(errors).max() < within
        assert abs(np.mean(errors)) < 0.01


@cache
def attention_of(gpu: str, name: str) -> dict[tuple[int, int], float]:
    return attention(gpu, name, 16)
