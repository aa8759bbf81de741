"""What steps of DeepSeek-V3 and Kimi-K2 cost, reckoned again from their published sizes and the
kernels' own tables.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_model_latent import CASES, DOWN, EXPERT, H200, HIDDEN, LAYERS, OF_HEAD, ROOT, SIZES

from blendsim.batch import Batch
from blendsim.perf.density import profiled
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.specs import MODELS, find_gpu
from blendsim.system import System


@cache
def lines_of(gpu: str, name: str) -> list[list[str]]:
    with (ROOT / gpu / "kernels" / name).open(newline="") as handle:
        return list(csv.reader(handle))


@cache
def row_of(gpu: str, name: str, *keys: object) -> dict[int, float]:
    """Seconds by tokens, bytes or contexts, of the one row that begins with `keys`."""
    header, *lines = lines_of(gpu, name)
    wanted = [str(key) for key in keys]
    (found,) = [line for line in lines if line[: len(keys)] == wanted]
    cells = zip(header[len(keys) :], found[len(keys) :], strict=True)
    return {int(size): float(cell) / 1e6 for size, cell in cells if cell}


def at(measured: dict[int, float], size: float) -> float:
    """On the straight line between measured sizes, and beyond them at the last one's rate."""
    sizes = sorted(measured)
    if size > sizes[-1]:
        return measured[sizes[-1]] * size / sizes[-1]
    return float(np.interp(size, sizes, [measured[s] for s in sizes]))


def gemm(gpu: str, file: str, n: int, k: int, tokens: int) -> float:
    """Of (n, k), on straight lines in both between measured shapes."""
    axes = [sorted({int(line[i]) for line in lines_of(gpu, file)[1:]}) for i in (0, 1)]
    total = 0.0
    for i, share_n in around(axes[0], n):
        for j, share_k in around(axes[1], k):
            total += share_n * share_k * at(row_of(gpu, file, i, j), tokens)
    return total


def around(axis: list[int], value: int) -> list[tuple[int, float]]:
    if value in axis:
        return [(value, 1.0)]
    above = next(size for size in axis if size > value)
    below = axis[axis.index(above) - 1]
    share = (value - below) / (above - below)
    return [(below, 1 - share), (above, share)]


class Operator(NamedTuple):
    count: int
    seconds: float
    weight_bytes: int  # that one token goes through on one GPU


def operators(
    name: str, gpu: str, tp: int, tokens: int, keys: tuple[int, int] | None = None
) -> dict[str, Operator]:
    """Of one step but for its LM head. `keys`: by how many GPUs experts are divided."""
    sizes = SIZES[name]
    heads, dense, rest = sizes.heads // tp, sizes.dense, LAYERS - sizes.dense
    fp8 = "gemm_fp8.csv"
    projections = row_of(gpu, "projections.csv", "fp8-block", HIDDEN, heads, 128, 1_536, 512, 64)
    experts = row_of(
        gpu, "experts.csv", "fp8-block", HIDDEN, 2_048, sizes.experts, 8, *(keys or (tp, 1))
    )
    wide, shared = 18_432 // tp, 2_048 // tp
    of_gemms = {
        "gate_up": (dense, fp8, 2 * wide, HIDDEN, 1),
        "down": (dense, fp8, HIDDEN, wide, 1),
        "shared gate_up": (rest, fp8, 2 * shared, HIDDEN, 1),
        "shared down": (rest, fp8, HIDDEN, shared, 1),
        "router": (rest, "gemm.csv", sizes.experts, HIDDEN, 2),
    }
    return {
        "projections": Operator(LAYERS, at(projections, tokens), DOWN + heads * OF_HEAD),
        "experts": Operator(rest, at(experts, tokens), 8 * EXPERT // tp),
        **{
            what: Operator(count, gemm(gpu, file, n, k, tokens), n * k * value_bytes)
            for what, (count, file, n, k, value_bytes) in of_gemms.items()
        },
    }


def small(name: str, tp: int, tokens: int, bandwidth: float) -> float:
    """Two norms with their residuals, the activation and, with experts, the sum of both kinds."""
    norms, dense = 2 * 4 * HIDDEN, SIZES[name].dense
    of_experts = norms + 3 * 2_048 // tp + 3 * HIDDEN
    of_dense = norms + 3 * 18_432 // tp
    values = (LAYERS - dense) * of_experts + dense * of_dense + 2 * HIDDEN + 4 * HIDDEN
    launches = (LAYERS - dense) * 4 + dense * 3 + 2
    return launches * 3e-6 + tokens * 2 * values / (0.8 * bandwidth)


def layers_by_hand(name: str, gpu: str, tp: int, tokens: int, **more: Any) -> float:
    bandwidth = find_gpu(gpu).bandwidth
    total = sum(
        one.count * max(one.seconds, one.weight_bytes / bandwidth)
        for one in operators(name, gpu, tp, tokens, **more).values()
    )
    return total + small(name, tp, tokens, bandwidth)


@cache
def steps(name: str, gpu: str, tp: int, kv: str = "auto", apart: bool = False) -> StepModel:
    model = replace(MODELS[name].in_format("auto", kv), expert_parallel=apart)
    return step_model(System(model, find_gpu(gpu), tp))


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@pytest.mark.parametrize("tokens", [1, 2, 16, 64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768])
def test_layers_take_what_their_operators_do(name: str, gpu: str, tp: int, tokens: int) -> None:
    found = float(steps(name, gpu, tp).tables.layers[tokens])
    assert found == pytest.approx(layers_by_hand(name, gpu, tp, tokens), rel=1e-9)


def test_between_measured_tokens_layers_take_a_straight_line() -> None:
    """Where GEMMs were measured, which is more often than projections were."""
    layers = steps("deepseek-v3", "h200", 8).tables.layers
    for below, above in ((2_817, 3_072), (129, 160), (4_353, 8_192)):
        middle = (below + above) // 2
        ends = [layers_by_hand("deepseek-v3", "h200", 8, n) for n in (below, above)]
        wanted = np.interp(middle, [below, above], ends)
        assert layers[middle] == pytest.approx(float(wanted), rel=1e-9)


def test_no_tokens_take_no_time() -> None:
    tables = steps("deepseek-v3", "h200", 8).tables
    assert [float(table[0]) for table in (tables.layers, tables.head, tables.network)] == [0] * 3


@pytest.mark.parametrize(
    ("name", "gpu", "tp"), [("deepseek-v3", "h200", 8), ("kimi-k2", "b200", 8)]
)
def test_no_operator_is_faster_than_its_weights_are_read(name: str, gpu: str, tp: int) -> None:
    """By a profile whose GEMMs take next to nothing."""
    system = System(MODELS[name], find_gpu(gpu), tp)
    profile = load_profile(system.gpu, system.model, tp)
    swift = step_model(system, profile=replace(profile, gemm=1e-12 * profile.gemm))
    bandwidth = system.gpu.bandwidth
    moved = sum(one.count * one.weight_bytes for one in operators(name, gpu, tp, 1).values())
    for tokens in (1, 100):
        wanted = moved / bandwidth + small(name, tp, tokens, bandwidth)
        assert swift.tables.layers[tokens] == pytest.approx(wanted, rel=1e-9)
    head = SIZES[name].vocab // tp * HIDDEN * 2
    assert swift.tables.head[1] == pytest.approx(head / bandwidth, rel=1e-9)


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
def test_head_and_network_are_those_of_every_model(name: str, gpu: str, tp: int) -> None:
    tables = steps(name, gpu, tp).tables
    header, *lines = lines_of(gpu, "all_reduce.csv")
    assert header == ["gpus", "bytes", "time_us"]
    measured = {int(size): float(us) / 1e6 for gpus, size, us in lines if gpus == str(tp)}
    for tokens in (1, 7, 512, 4_096):
        network = LAYERS * 2 * at(measured, tokens * HIDDEN * 2)
        assert tables.network[tokens] == pytest.approx(network, rel=1e-9)
        both = float(tables.layers[tokens]) + network
        assert tables.layers_with_network[tokens] == pytest.approx(both, rel=1e-9)
    for tokens in (1, 256, 4_096):
        head = gemm(gpu, "gemm.csv", SIZES[name].vocab // tp, HIDDEN, tokens)
        assert tables.head[tokens] == pytest.approx(head, rel=1e-9)


def test_what_is_measured_of_other_kernels_changes_nothing() -> None:
    """Cliffs of decodes with a block a KV head, and whether they write new KV: here projections
    do.
    """
    system = System(MODELS["deepseek-v3"], H200, 8)
    profile = load_profile(H200, system.model, 8)
    waves = {**profile.meta["waves"], "share": 0.25}
    small_operators = {**profile.meta["small_operators"], "attention_writes_kv": False}
    meta = {**profile.meta, "waves": waves, "small_operators": small_operators}
    ours = steps("deepseek-v3", "h200", 8).tables
    theirs = step_model(system, profile=replace(profile, meta=meta)).tables
    assert (ours.decode == theirs.decode).all()
    assert (ours.layers == theirs.layers).all()


@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_a_profile_says_where_its_tables_are_from(kv: str) -> None:
    profile = load_profile(H200, MODELS["deepseek-v3"].in_format("auto", kv), 8)
    of_kv = "_fp8" if kv == "fp8" else ""
    latent = {f"{name}_attention_latent{of_kv}" for name in ("decode", "prefill")}
    plain = {"gemm", "decode_attention", "prefill_attention", "all_reduce"}
    assert profile.meta["tables"].keys() == plain | latent | {"gemm_fp8", "experts", "projections"}
    assert "rows of whole modules" in profile.meta["tables"]["projections"]


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_decodes_read_what_was_measured_in_every_layer(
    name: str, gpu: str, tp: int, kv: str
) -> None:
    model = steps(name, gpu, tp, kv)
    file = f"decode_attention_latent{'_fp8' if kv == 'fp8' else ''}.csv"
    for requests in (16, 128, 256, 1_024):
        measured = row_of(gpu, file, SIZES[name].heads // tp, 1, 128, 576, requests)
        for context in (1_025, 4_097, 16_385):
            step = Batch(0, 0, 0, requests, requests * context, requests)
            _, memory, _ = model.seconds(step)
            assert memory == pytest.approx(LAYERS * measured[context], rel=1e-9)


def test_decodes_between_measured_numbers_of_requests_take_a_straight_line() -> None:
    file = "decode_attention_latent.csv"
    rows = [row_of("h200", file, 16, 1, 128, 576, b)[4_097] for b in (128, 256)]
    for requests in (129, 133, 200, 255):
        step = Batch(0, 0, 0, requests, requests * 4_097, requests)
        wanted = LAYERS * float(np.interp(requests, [128, 256], rows))
        memory = steps("deepseek-v3", "h200", 8).seconds(step)[1]
        assert memory == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
def test_a_prompt_takes_its_layers_its_attention_and_one_row_of_the_head(
    name: str, gpu: str, tp: int
) -> None:
    model = steps(name, gpu, tp)
    file = "prefill_attention_latent.csv"
    measured = row_of(gpu, file, SIZES[name].heads // tp, 1, 128, 576, 1)
    for length in (2_048, 8_192, 16_384):
        compute, memory, _ = model.seconds(Batch(length, 1, length * (length + 1) // 2, 0, 0, 1))
        head = gemm(gpu, "gemm.csv", SIZES[name].vocab // tp, HIDDEN, 1)
        wanted = layers_by_hand(name, gpu, tp, length) + head + LAYERS * measured[length]
        assert compute == pytest.approx(wanted, rel=1e-9)
        assert memory == 0.0


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_streams_count_every_operator_as_often_as_it_stands(
    name: str, gpu: str, tp: int, kv: str
) -> None:
    model = steps(name, gpu, tp, kv)
    token = 576 * (1 if kv == "fp8" else 2)
    file = f"decode_attention_latent{'_fp8' if kv == 'fp8' else ''}.csv"
    header, *lines = lines_of(gpu, file)
    reads = [
        float(cell) / 1e6 / (int(line[4]) * int(context))
        for line in lines
        if line[0] == str(SIZES[name].heads // tp)
        for context, cell in zip(header[5:], line[5:], strict=True)
        if cell and int(line[4]) * int(context) * token >= 1 << 29
    ]
    head_bytes = SIZES[name].vocab // tp * HIDDEN * 2
    bandwidth = find_gpu(gpu).bandwidth
    head = max(float(model.tables.head[1:4_097].min()), head_bytes / bandwidth)
    rate = max(token / min(reads), head_bytes / head)
    of_layers = [
        one.count * one.weight_bytes
        for what, one in operators(name, gpu, tp, 1).items()
        if what != "experts"
    ]
    wanted = (sum(of_layers) + head_bytes) / rate
    assert model.weight_stream_seconds == pytest.approx(wanted, rel=1e-9)
    assert model.kv_stream_seconds == pytest.approx(LAYERS * token / rate, rel=1e-9)
    assert model.best_seconds_per_context_token == pytest.approx(LAYERS * min(reads), rel=1e-9)
    experts, rest = SIZES[name].experts, LAYERS - SIZES[name].dense
    for n in (1, 5, 64, 4_096):
        touched = 1 - (1 - 8 / experts) ** n
        read = touched * experts * EXPERT / tp / rate
        measured = max(operators(name, gpu, tp, n)["experts"].seconds, 8 * EXPERT // tp / bandwidth)
        wanted = rest * min(read, measured)
        assert model.expert_stream_seconds[n] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("tokens", [1, 64, 1_024, 8_192])
def test_experts_that_are_whole_take_what_was_measured_so(name: str, tokens: int) -> None:
    apart = steps(name, "h200", 8, apart=True)
    found = float(apart.tables.layers[tokens])
    wanted = layers_by_hand(name, "h200", 8, tokens, keys=(1, 8))
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found != pytest.approx(layers_by_hand(name, "h200", 8, tokens), rel=1e-3)


def test_no_step_takes_less_than_the_bounds_count_for_its_reads() -> None:
    model = steps("deepseek-v3", "h200", 8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        contexts = rng.integers(1, rng.integers(2, 20_000), rng.integers(1, 900))
        step = Batch(0, 0, 0, len(contexts), int(contexts.sum()), len(contexts))
        least = contexts.sum() * model.best_seconds_per_context_token
        assert model.seconds(step)[1] >= least * (1 - 1e-9)


def test_profiled_density_reads_at_the_best_rate_of_one_gpu() -> None:
    model = steps("deepseek-v3", "h200", 8)
    p, d = np.array([500]), np.array([80])
    costs = profiled(model, p, d)
    reads = 79 * 500 + 80 * 79 / 2
    assert costs.memory[0] == pytest.approx(reads * model.best_seconds_per_context_token)
    rate = LAYERS * 1_152 / model.best_seconds_per_context_token
    assert 0.8 * 4.8e12 < rate < 4.8e12  # of one GPU: all read the same


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_a_profile_is_read_as_it_was_written(tmp_path: Path, name: str, apart: bool) -> None:
    model = replace(MODELS[name].in_format("auto", "fp8"), expert_parallel=apart)
    profile = load_profile(H200, model, 8)
    write_profile(profile, tmp_path / "tp8")
    again = read_profile(tmp_path / "tp8")
    assert dict(again.shape) == dict(profile.shape)
    assert again.operators == profile.operators
    assert again.operators == (
        "projections", "gate_up", "down", "shared_gate_up", "shared_down", "router", "experts",
        "head",
    )  # fmt: skip
    assert (again.tokens == profile.tokens).all()
    assert again.gemm == pytest.approx(profile.gemm, rel=1e-5)
    for ours, theirs in ((again.decode, profile.decode), (again.prefill, profile.prefill)):
        assert (ours.batches == theirs.batches).all()
        assert (ours.lengths == theirs.lengths).all()
        assert ours.seconds == pytest.approx(theirs.seconds, rel=1e-5, nan_ok=True)
    assert (again.notes, dict(again.meta)) == (profile.notes, dict(profile.meta))
    system = System(model, H200, 8)
    layers = [step_model(system, profile=one).tables.layers for one in (profile, again)]
    assert layers[1] == pytest.approx(layers[0], rel=1e-5)
