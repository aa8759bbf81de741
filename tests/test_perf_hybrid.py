"""What steps of Qwen3.5 cost, reckoned again from its published sizes and the kernels' own tables:
gated delta nets by requests and tokens, the other layers by contexts, and the rest by tokens.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_hybrid import H200, SIZES, VOCAB, Sizes, state
from test_perf_latent_steps import ROOT, at, gemm, row_of

from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf.density import closed_form, profiled
from blendsim.perf.grids import DeltaGrid, DeltaShape
from blendsim.perf.kernels import NO_DELTAS, delta_seconds, memory_seconds
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.recurrent import delta_grids, deltas_of, read_deltas, write_deltas
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.search.thinning import divide_model
from blendsim.specs import MODELS, find_gpu
from blendsim.system import System

CASES = [("qwen3.5-27b", "h200", 1), ("qwen3.5-35b-a3b", "h200", 1), ("qwen3.5-35b-a3b", "b200", 2)]


@cache
def built(name: str, gpu: str, tp: int = 1) -> StepModel:
    return step_model(System(MODELS[name], find_gpu(gpu), tp))


def delta_row(gpu: str, sizes: Sizes, tp: int, batch: int) -> dict[str, float]:
    """Seconds of one delta net for so many requests, by tokens of each; `decode`: of one step."""
    path = ROOT / gpu / "kernels" / "delta_net.csv"
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    keys = [str(16 // tp), str(sizes.values // tp), str(batch)]
    (found,) = [line for line in lines if line[:3] == keys]
    cells = zip(header[3:], found[3:], strict=True)
    return {name: float(cell) / 1e6 for name, cell in cells if cell}


def in_layers(name: str, gpu: str, tp: int, tokens: int) -> float:
    """GEMMs and experts of all layers, none faster than its weights are read."""
    sizes = SIZES[name]
    hidden, deltas, attend = sizes.hidden, sizes.layers * 3 // 4, sizes.layers // 4
    keys, values = 2_048 // tp, sizes.values * 128 // tp
    queries, kv = sizes.heads * 256 // tp, max(1, sizes.kv_heads // tp) * 256
    shapes = [
        (deltas, 2 * keys + 2 * values, hidden),
        (deltas, max(32, 2 * sizes.values // tp), hidden),  # 32: the narrowest that was measured
        (deltas, hidden, values),
        (attend, 2 * queries + 2 * kv, hidden),
        (attend, hidden, queries),
        (sizes.layers, 2 * sizes.mlp // tp, hidden),
        (sizes.layers, hidden, sizes.mlp // tp),
    ]
    total = 0.0
    if sizes.experts:
        shapes.append((sizes.layers, sizes.experts, hidden))
        of_sizes = (hidden, sizes.mlp, sizes.experts, sizes.per_token)
        row = row_of(gpu, "experts.csv", "bf16", *of_sizes, tp, 1)
        total += sizes.layers * at(row, tokens)
    bandwidth = find_gpu(gpu).bandwidth
    for count, n, k in shapes:
        total += count * max(gemm(gpu, "gemm.csv", n, k, tokens), 2 * n * k / bandwidth)
    return total


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@pytest.mark.parametrize("tokens", [64, 2_048])
def test_layers_take_the_gemms_of_their_kind(name: str, gpu: str, tp: int, tokens: int) -> None:
    model = built(name, gpu, tp)
    found = model.layer_seconds[tokens] - model.small_seconds[tokens]
    assert found == pytest.approx(in_layers(name, gpu, tp, tokens), rel=1e-4)


def test_small_operators_are_those_of_both_kinds_of_layers() -> None:
    model, tokens = built("qwen3.5-35b-a3b", "h200"), 1_000
    hidden, shared, queries, keys, values = 2_048, 512, 4_096, 512, 4_096
    every = [4 * hidden, 4 * hidden, 3 * shared, 3 * hidden]
    attend = [*every, 3 * queries, 2 * (queries + keys), 2 * (queries + keys)]
    delta = [*every, 3 * values]
    count = 10 * len(attend) + 30 * len(delta) + 2
    moved = 2 * (10 * sum(attend) + 30 * sum(delta) + 6 * hidden)
    wanted = count * 3e-6 + tokens * moved / (0.8 * 4.8e12)
    assert model.small_seconds[tokens] == pytest.approx(wanted)


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@pytest.mark.parametrize("batch", [1, 64, 512])
def test_delta_nets_take_a_decode_the_same_at_any_context(
    name: str, gpu: str, tp: int, batch: int
) -> None:
    """The measured step, but no faster than states were moved that no cache holds."""
    model, sizes = built(name, gpu, tp), SIZES[name]
    moved = 2 * sizes.values // tp * 128 * 128 * 4
    rows = {b: delta_row(gpu, sizes, tp, b)["decode"] for b in (1, 64, 256, 512)}
    cold = min(seconds / b for b, seconds in rows.items() if b * moved >= 1 << 29)
    wanted = sizes.layers * 3 // 4 * max(rows[batch], cold * batch)
    none = {"windowed_layers": 0, "window": 0, "delta_heads": 0, "delta_key_heads": 0}
    plain = step_model(replace(model.system, model=replace(model.system.model, **none)))
    for context in (16, 1_024, 16_384, 100_000, 262_144):  # measured to 32,768 or 65,536
        whole = memory_seconds(model.tables, batch, batch * context)
        attending = memory_seconds(plain.tables, batch, batch * context)
        assert whole - attending / 4 == pytest.approx(wanted, rel=5e-3)


def test_a_state_in_the_cache_is_not_read_faster_than_memory() -> None:
    """An L40S was timed with one layer's states of 32 requests, which its cache holds."""
    model, sizes = built("qwen3.5-9b", "l40s"), SIZES["qwen3.5-9b"]
    of_32 = delta_row("l40s", sizes, 1, 32)["decode"]
    assert 32 * 2 * 32 * 128 * 128 * 4 / of_32 > 3 * 0.864e12
    least = 24 * 2 * 32 * 128 * 128 * 4 / 0.864e12
    assert model.best_seconds_per_window_token > least


def test_prompts_take_what_chunks_of_their_number_and_length_do() -> None:
    model, sizes = built("qwen3.5-35b-a3b", "h200"), SIZES["qwen3.5-35b-a3b"]
    deltas = model.tables.deltas
    for function in (delta_seconds, delta_seconds.py_func):
        for batch, length in ((1, 8_192), (4, 1_024), (16, 512)):
            wanted = 30 * delta_row("h200", sizes, 1, batch)[str(length)]
            assert function(deltas, batch * length, batch) == pytest.approx(wanted)
        low, high = (30 * delta_row("h200", sizes, 1, b)["512"] for b in (2, 4))
        assert function(deltas, 3 * 512, 3) == pytest.approx((low + high) / 2)
        last = 30 * delta_row("h200", sizes, 1, 64)["512"]
        assert function(deltas, 128 * 512, 128) == pytest.approx(2 * last)
        longest = 30 * delta_row("h200", sizes, 1, 1)["32768"]
        assert function(deltas, 65_536, 1) == pytest.approx(2 * longest)


def test_a_step_is_the_sum_of_its_parts() -> None:
    model = built("qwen3.5-35b-a3b", "h200")
    step = Batch(2_048, 4, 4 * 512 * 513 // 2, 64, 64 * 1_000, 68)
    compute, memory, _ = model.seconds(step)
    without = replace(model, tables=model.tables._replace(deltas=NO_DELTAS))
    assert compute - without.seconds(step)[0] == pytest.approx(
        delta_seconds(model.tables.deltas, 2_048, 4)
    )
    assert memory == pytest.approx(memory_seconds(model.tables, 64, 64_000))


def test_states_count_among_what_kernels_side_by_side_share() -> None:
    model, sizes = built("qwen3.5-35b-a3b", "h200"), SIZES["qwen3.5-35b-a3b"]
    rate = model.streams.context_token and 20_480 / model.streams.context_token
    assert model.streams.decode == pytest.approx(2 * state(sizes) / rate)
    assert rate < 4.8e12
    halves = built("qwen3.5-35b-a3b", "b200", 2)
    assert halves.streams.decode == pytest.approx(
        state(sizes) * halves.streams.context_token / 10_240
    )
    assert built("qwen3.5-35b-a3b", "h200").streams.decode > 0.0
    assert step_model(System(MODELS["gpt-oss-20b"], H200)).streams.decode == 0.0


def test_densities_read_the_state_once_a_step_and_the_context_in_a_quarter_of_layers() -> None:
    model, sizes = built("qwen3.5-35b-a3b", "h200"), SIZES["qwen3.5-35b-a3b"]
    p, d = np.array([1_000]), np.array([100])
    paper = closed_form(model.system, p, d)
    reads = (1_000 * 100 + 100 * 100 / 2) * 20_480 + 100 * 2 * state(sizes)
    assert paper.memory == pytest.approx(reads / 4.8e12)
    ours = profiled(model, p, d)
    context = 99 * 1_000 + 100 * 99 / 2
    wanted = context * model.best_seconds_per_context_token
    assert ours.memory == pytest.approx(wanted + 99 * model.best_seconds_per_window_token)
    compute = 1_099 * model.best_layer_seconds_per_token + 100 * model.best_head_seconds_per_token
    compute += 500_500 * model.best_prefill_seconds_per_pair
    compute += 1_000 * model.best_seconds_per_prompt_token
    assert ours.compute == pytest.approx(compute)
    saved = model.best_layer_seconds_per_token + model.best_seconds_per_prompt_token
    assert ours.seconds_per_token == saved


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
@given(tokens=st.integers(1, 70_000), requests=st.integers(1, 300))
@settings(max_examples=300)
def test_no_prompt_takes_less_than_the_bounds_count_for_it(
    name: str, gpu: str, tp: int, tokens: int, requests: int
) -> None:
    model, tokens = built(name, gpu, tp), max(tokens, requests)
    least = tokens * model.best_seconds_per_prompt_token
    assert delta_seconds(model.tables.deltas, tokens, requests) >= least * (1 - 1e-9)
    for batch in (1, 4, 16, 64):
        for length, seconds in delta_row(gpu, SIZES[name], tp, batch).items():
            if length != "decode":
                rate = SIZES[name].layers * 3 // 4 * seconds / (int(length) * batch)
                assert model.best_seconds_per_prompt_token <= rate * (1 + 1e-9)


@pytest.mark.parametrize(("name", "gpu", "tp"), CASES)
def test_the_least_rate_of_prompts_is_one_that_a_step_has(name: str, gpu: str, tp: int) -> None:
    model = built(name, gpu, tp)
    rates = [
        delta_seconds(model.tables.deltas, length * batch, batch) / (length * batch)
        for batch in range(1, 129)
        for length in (1, 64, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
    ]
    assert min(rates) == pytest.approx(model.best_seconds_per_prompt_token)


def test_a_part_of_the_machine_takes_as_long_for_a_part_of_the_requests() -> None:
    model = built("qwen3.5-35b-a3b", "h200")
    part = divide_model(model, 4)
    whole, own = (
        Batch(8_192, 16, 2_101_248, 64, 64_000, 80),
        Batch(2_048, 4, 525_312, 16, 16_000, 20),
    )
    assert part.seconds(own)[:2] == pytest.approx(model.seconds(whole)[:2], rel=1e-3)
    assert part.streams.decode * 16 == pytest.approx(model.streams.decode * 64)


def test_a_profile_of_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    profile = load_profile(H200, MODELS["qwen3.5-27b"], 2)
    write_profile(profile, tmp_path)
    again = read_profile(tmp_path)
    assert (again.delta is None, profile.delta is None) == (False, False)
    for name in ("batches", "lengths", "decode", "prompts"):
        assert getattr(again.delta, name) == pytest.approx(
            getattr(profile.delta, name), rel=1e-5, nan_ok=True
        )
    assert again.shape == profile.shape
    assert (again.windowed, again.operators[:5]) == (
        None, ("qkv", "o", "delta_in", "delta_gates", "delta_out")
    )  # fmt: skip
    (tmp_path / "delta_net.csv").unlink()
    with pytest.raises(ProfileError, match=r"delta_net.csv: no heads of qwen3.5-27b on 2 GPU"):
        read_profile(tmp_path)


# Tables


def kernel(name: str, batch: int, length: int, ms: float, **more: int) -> dict[str, object]:
    phase = "context" if length else "generation"
    heads = {"num_k_heads": 2, "num_v_heads": 4} | more
    sizes = {"batch_size": batch, "seq_len": length or 1, "phase": phase, "latency": ms}
    return {"kernel_source": name, **sizes, **heads}


def test_a_point_is_the_sum_of_both_kernels_and_a_hole_where_one_is_missing() -> None:
    """Widths of models are none of a kernel's, so that what was measured for two is their mean."""
    rows = [
        kernel("update", 1, 0, 1.0), kernel("update", 1, 0, 3.0), kernel("packed", 1, 0, 5.0),
        kernel("conv", 1, 64, 2.0), kernel("chunk", 1, 64, 4.0),
        kernel("conv", 1, 128, 3.0), kernel("chunk", 1, 128, 6.0),
        kernel("update", 2, 0, 2.0), kernel("packed", 2, 0, 8.0),
        kernel("conv", 2, 64, 3.0), kernel("conv", 2, 128, 4.0), kernel("chunk", 2, 128, 9.0),
        kernel("update", 1, 0, 9.0, num_k_heads=4),  # as many of keys as of values
        kernel("update", 1, 0, 9.0, num_k_heads=1),
    ]  # fmt: skip
    ((shape, grid),) = delta_grids(rows).items()
    assert shape == DeltaShape(2, 4)
    assert grid.decode == pytest.approx([7e-3, 10e-3])
    assert grid.prompts.ravel() == pytest.approx([6e-3, 9e-3, np.nan, 13e-3], nan_ok=True)
    assert (grid.batches.tolist(), grid.lengths.tolist()) == ([1, 2], [64, 128])


def test_a_hole_in_prompts_is_filled_at_the_rate_of_the_smaller_batch() -> None:
    profile = load_profile(find_gpu("l40s"), MODELS["qwen3.5-9b"], 1)
    assert profile.delta is not None
    i, j = np.argwhere(np.isnan(profile.delta.prompts))[0]
    filled = built("qwen3.5-9b", "l40s").tables.deltas.seconds
    assert filled[i, j] == pytest.approx(2 * filled[i - 1, j])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("2,4,1,", "2,4,1,0.001"), "line 2, column 4: states moved at .* are the times in"),
        (("2,4,1,", "2,4,1,5,0.000001"), "line 2, column 5: .* TFLOP/s"),
        (("2,4,1,", "2,4,1,"), "a hole at the smallest batch"),
        (("2,4,1,", "2,4,1,-1"), "column 4: -1 µs is no time above 0"),
    ],
)
def test_tables_that_cannot_be_are_refused(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    grids = read_deltas(ROOT / "h200" / "kernels" / "delta_net.csv", H200)
    path = tmp_path / "delta_net.csv"
    write_deltas(path, grids)
    header, first, *rest = path.read_text().splitlines()
    begins, given = change
    cells, new = first.split(","), given.split(",")
    assert first.startswith(begins)
    path.write_text("\n".join([header, ",".join(new + cells[len(new) :]), *rest]) + "\n")
    with pytest.raises(ProfileError, match=message):
        read_deltas(path, H200)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = ROOT / "h200" / "kernels" / "delta_net.csv"
    write_deltas(tmp_path / "again.csv", read_deltas(path, H200))
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    assert read_deltas(tmp_path / "none.csv", H200) == {}


def test_the_head_is_as_wide_as_the_vocabulary() -> None:
    model = built("qwen3.5-35b-a3b", "h200")
    tokens = 64
    widest = row_of("h200", "gemm.csv", 65_536, 2_048)
    assert model.tables.head[tokens] == pytest.approx(at(widest, tokens) * VOCAB / 65_536, rel=1e-4)


@pytest.mark.parametrize("tp", [1, 2])
def test_states_that_were_measured_in_the_cache_alone_move_at_the_bandwidth(tp: int) -> None:
    """Every decode reads its state and writes it, however fast the kernel was."""
    system = System(MODELS["qwen3.5-35b-a3b"], find_gpu("h200"), tp)
    batches, lengths = np.array([1.0, 2.0]), np.array([16.0, 32.0])
    grid = DeltaGrid(batches, np.full(2, 1e-9), lengths, np.ones((2, 2)))
    found = deltas_of(system, grid, 5)
    moved = 2 * system.model.state_bytes / tp
    each = moved / system.gpu.bandwidth
    assert found.decode == pytest.approx([n * each for n in range(6)])
    assert found.best == pytest.approx(each)
    assert found.rate == pytest.approx(system.gpu.bandwidth)


def test_no_short_prompt_has_a_lower_rate_than_the_least() -> None:
    """Times that grow faster than tokens: on their line a token alone takes least."""
    system = System(MODELS["qwen3.5-35b-a3b"], find_gpu("h200"))
    batches, lengths = np.array([1.0, 2.0]), np.array([16.0, 32.0])
    grid = DeltaGrid(batches, np.ones(2), lengths, np.array([[8.0, 16.4], [16.0, 32.8]]))
    found = deltas_of(system, grid, 2)
    rates = [float(delta_seconds(found.prompts, n, 1)) / n for n in range(1, 65)]
    assert found.best_of_prompts == pytest.approx(min(rates))
    assert rates[0] < 0.5 * rates[15]
