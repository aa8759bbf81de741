"""Layers that attend to a window: what a step, a request and a pool are charged for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf.calibration import Calibration
from blendsim.perf.density import closed_form, profiled, window_reads
from blendsim.perf.kernels import memory_seconds
from blendsim.perf.model import StepModel, step_model, with_calibrations
from blendsim.perf.profile import Profile
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.perf.windows import windows_of
from blendsim.prefix import sort_prompts
from blendsim.report.optimum import (
    best_times,
    bounds,
    least_work,
    reachable_program,
    step_sizes,
)
from blendsim.request import from_lengths
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

SYSTEM = System(find_model("gpt-oss-20b"), find_gpu("h100"))


def profile_of(system: System) -> Profile:
    return load_profile(system.gpu, system.model, system.tp)


def without_windows(system: System, windowed: int) -> StepModel:
    """The steps of the same kernels with all layers of one kind."""
    profile = profile_of(system)
    assert profile.windowed is not None
    grids = profile.windowed if windowed else (profile.decode, profile.prefill)
    plain = replace(profile, decode=grids[0], prefill=grids[1], windowed=None)
    model = replace(system.model, windowed_layers=0, window=0)
    return step_model(replace(system, model=model), profile=plain)


def test_steps_are_those_of_both_kinds_of_layers() -> None:
    """What half of the layers take at each, where the other parts are the same."""
    mixed = step_model(SYSTEM)
    full, windowed = (without_windows(SYSTEM, kind) for kind in (0, 1))
    assert mixed.tables.layers == pytest.approx(full.tables.layers, rel=1e-12)
    for decodes, context in ((1, 300), (64, 1_000), (200, 4_000), (512, 600)):
        step = Batch(0, 0, 0, decodes, decodes * context, decodes)
        of_kinds = [model.seconds(step)[1] for model in (full, windowed)]
        assert mixed.seconds(step)[1] == pytest.approx(sum(of_kinds) / 2, rel=0.02)
        assert of_kinds[1] < 1.5 * of_kinds[0]
    assert of_kinds[1] < 0.8 * of_kinds[0]


@pytest.mark.parametrize("decodes", [1, 32])
def test_a_window_takes_no_more_beyond_the_longest_context_measured(decodes: int) -> None:
    """Of twice the longest context the other layers read twice as much, and windows the same."""
    mixed, full = step_model(SYSTEM), without_windows(SYSTEM, 0)
    longest = int(profile_of(SYSTEM).decode.lengths[-1])
    assert SYSTEM.model.context == 2 * longest
    reads = [decodes * longest, decodes * longest * 3 // 2, decodes * longest * 2]
    more = [memory_seconds(mixed.tables, decodes, n) for n in reads]
    plain = [memory_seconds(full.tables, decodes, n) / 2 for n in reads]
    assert plain[2] == pytest.approx(2 * plain[0])
    windows = more[0] - plain[0]
    assert windows > 0
    assert [m - p for m, p in zip(more, plain, strict=True)] == pytest.approx([windows] * 3)


def test_a_long_prompt_costs_less_than_with_the_whole_context_in_every_layer() -> None:
    """A window's part of it grows with the tokens, chunked or not."""
    mixed, full = step_model(SYSTEM), without_windows(SYSTEM, 0)
    n = 8_192
    pairs = n * (n + 1) // 2
    whole = Batch(n, 1, pairs, 0, 0, 1)
    windows = mixed.tables.windows
    assert mixed.seconds(whole)[0] < full.seconds(whole)[0]
    assert windows[n] == pytest.approx(n / 1_024 * windows[1_024], rel=0.25)
    # Chunks of it take the windows' part once more than the whole does: each begins a launch.
    halves = sum(
        mixed.seconds(Batch(n // 2, 1, part, 0, 0, 0))[0]
        for part in (n // 2 * (n // 2 + 1) // 2, pairs - n // 2 * (n // 2 + 1) // 2)
    )
    assert halves == pytest.approx(mixed.seconds(whole)[0], rel=0.1)


def test_reads_of_a_window_are_counted_step_by_step() -> None:
    prompt = np.array([1, 60, 127, 128, 4_000, 100])
    reads = np.array([500, 10, 3, 7, 9, 0])
    expected = [
        sum(min(p + j, 128) for j in range(1, d + 1)) for p, d in zip(prompt, reads, strict=True)
    ]
    assert window_reads(128, prompt, reads).tolist() == expected


def test_no_step_takes_less_than_the_bounds_count_for_its_reads() -> None:
    """Whatever the decodes' contexts are: the best rates are those of the best size."""
    model = step_model(SYSTEM)
    rng = np.random.default_rng(0)
    for _ in range(300):
        contexts = rng.integers(1, rng.integers(2, 6_000), rng.integers(1, 600))
        least = contexts.sum() * model.best_seconds_per_context_token
        least += np.minimum(contexts, 128).sum() * model.best_seconds_per_window_token
        step = Batch(0, 0, 0, len(contexts), int(contexts.sum()), len(contexts))
        assert model.seconds(step)[1] >= least * (1 - 1e-9)


def test_the_least_rate_of_a_windows_token_is_one_that_a_step_has() -> None:
    """A context behind the window has no more tokens within it, and takes no less."""
    profile, contexts = profile_of(SYSTEM), np.array([64.0, 128.0, 1_024.0])
    found = windows_of(SYSTEM, profile, contexts, 256, 128)
    rates = [
        found.decode[n, at] / (n * within)
        for n in range(1, 257)
        for at, within in enumerate((64, 128, 128))
    ]
    assert found.best == pytest.approx(min(rates))


def test_prompts_count_in_windows_at_their_best_rate() -> None:
    model = step_model(SYSTEM)
    windows = model.tables.windows
    rate = model.best_seconds_per_prompt_token
    assert rate == min(windows[n] / n for n in range(1, len(windows)))
    p, d = np.array([700]), np.array([1])
    plain = replace(model, best_seconds_per_prompt_token=0.0)
    assert profiled(model, p, d).compute - profiled(plain, p, d).compute == pytest.approx(
        700 * rate
    )
    whole = from_lengths([700, 300], [1, 1])
    work = least_work(whole, whole.output_len, sort_prompts(whole), 16, 128)
    assert (work.prompts, work.tokens) == (1_000, 1_000)
    more = best_times(work, model).beside - best_times(work, plain).beside
    assert more == pytest.approx(1_000 * rate)


def test_densities_and_bounds_count_what_windows_read() -> None:
    model = step_model(SYSTEM)
    pool = from_lengths([100, 3_000], [50, 400])
    memory = profiled(model, pool.prompt_len, pool.output_len).memory
    work = least_work(pool, pool.output_len, sort_prompts(pool), 16, window=128)
    assert work.window_reads == sum(
        min(p + j, 128) for p, d in ((100, 50), (3_000, 400)) for j in range(1, d)
    )
    assert memory.sum() == pytest.approx(best_times(work, model).memory)
    assert memory.sum() > work.reads * model.best_seconds_per_context_token
    both = closed_form(SYSTEM, pool.prompt_len, pool.output_len).memory
    every = replace(SYSTEM.model, windowed_layers=0, window=0)
    whole = closed_form(replace(SYSTEM, model=every), pool.prompt_len, pool.output_len).memory
    assert (both < whole).all()
    assert (both > whole / 2).all()
    assert both[1] == pytest.approx(whole[1] / 2, rel=0.05)  # a window is little of 3,000 tokens


def test_the_longest_request_reads_its_windows_too() -> None:
    """One after another: its prompt, and of every further token a step and both kinds of reads."""
    model = step_model(SYSTEM, "sum")
    pool = from_lengths([100, 40], [3_000, 5])
    found = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048).longest
    seconds = 100 * model.best_layer_seconds_per_token
    seconds += 2_999 * (model.layer_seconds[1:].min() + model.best_head_seconds_per_token)
    contexts = [100 + k for k in range(1, 3_000)]
    seconds += sum(contexts) * model.best_seconds_per_context_token
    windows = sum(min(context, 128) for context in contexts)
    assert found == pytest.approx(seconds + windows * model.best_seconds_per_window_token)


@pytest.mark.parametrize("replicas", [1, 4])
def test_the_reachable_bound_counts_what_windows_read(replicas: int) -> None:
    """Where nothing runs side by side every read of the work is as long again in the bound."""
    model = step_model(SYSTEM, "sum")
    pool = from_lengths([100] * 40, [200] * 40)
    work = least_work(pool, pool.output_len, sort_prompts(pool), 16, window=128)
    sizes = step_sizes(model, 512, 1)
    with_windows, without = (
        reachable_program(each, 0.0, model, sizes, replicas).seconds
        for each in (work, work._replace(window_reads=0))
    )
    read = work.window_reads / replicas * model.best_seconds_per_window_token
    assert read > 0
    assert with_windows - without == pytest.approx(read, rel=1e-3)


def test_a_profile_with_windows_is_read_as_it_was_written(tmp_path: Path) -> None:
    profile = profile_of(SYSTEM)
    write_profile(profile, tmp_path / "tp1")
    again = read_profile(tmp_path / "tp1")
    assert dict(again.shape) == dict(profile.shape)
    assert profile.windowed is not None
    assert again.windowed is not None
    for ours, theirs in zip(again.windowed, profile.windowed, strict=True):
        assert ours.seconds == pytest.approx(theirs.seconds, rel=1e-5, nan_ok=True)


def test_heads_that_lie_between_measured_ones_have_windows_too() -> None:
    """Whose smallest batch is no whole request: 24 heads on 3 KV heads as the blocks of 32 on 4."""
    model = replace(SYSTEM.model, heads=24, kv_heads=3)
    tables = step_model(replace(SYSTEM, model=model)).tables
    assert len(tables.windows) > 8_192
    assert 0 < tables.windows[1_024] < step_model(SYSTEM).tables.windows[1_024]
    with pytest.raises(ProfileError, match="near 24 heads on 8 KV heads over a window of 128; gr"):
        profile_of(replace(SYSTEM, model=replace(model, kv_heads=8)))


def test_a_runtime_that_reads_faster_has_lower_bounds_for_windows_too() -> None:
    plain = step_model(SYSTEM)
    fast = with_calibrations(plain, (Calibration("vllm", 0.5, 0.0, 0.0, 0.0),))
    ratio = fast.best_seconds_per_window_token / plain.best_seconds_per_window_token
    assert ratio == pytest.approx(0.5)
    assert with_calibrations(fast, fast.calibrations).best_seconds_per_window_token == (
        fast.best_seconds_per_window_token
    )


def test_windows_that_were_not_measured_are_refused_by_name() -> None:
    wide = replace(SYSTEM.model, window=1_024)
    with pytest.raises(ProfileError, match="h100: no attention to windows of 1024 tokens measured"):
        profile_of(replace(SYSTEM, model=wide))
