"""Calibrated steps: what they are charged, in prices, runs, bounds and plans."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from calibration_worlds import (
    FOUR,
    OF_OURS,
    OF_TILES,
    OF_VLLM,
    SYSTEM,
    a_profile,
    calibrations,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blendsim.perf.calibration import Calibration, KernelSeconds
from blendsim.perf.kernels import dense_seconds, memory_seconds, prefill_seconds
from blendsim.perf.model import StepModel, step_model, with_calibrations
from blendsim.perf.pricing import price_steps, price_work
from blendsim.report.optimum import bounds
from blendsim.request import Workload, from_lengths
from blendsim.search import Settings, plan_policy, prepare, simulate_plan
from blendsim.search.choice import Choice, choose
from blendsim.serving.flavour import FLAVOURS, Flavour, find_flavour
from blendsim.steplog import COUNTS, StepLog
from blendsim.system import System

# Prices


@cache
def kernels(system: System) -> StepModel:
    return step_model(system, "sum")


steps = st.builds(
    lambda chunks, length, decodes, context, shared: _row(chunks, length, decodes, context, shared),
    st.integers(0, 8),
    st.integers(1, 600),
    st.integers(0, 900),
    st.integers(1, 9_000),
    st.floats(0.0, 0.95),
).filter(lambda row: row[0] + row[3] > 0)


def _row(chunks: int, length: int, decodes: int, context: int, shared: float) -> list[int]:
    """Counts of a step: of prompts alone, of decodes alone, or mixed."""
    named = {
        "prefill_tokens": chunks * length,
        "prefill_requests": chunks,
        "prefill_pairs": chunks * length * (length + 1) // 2,
        "decode_requests": decodes,
        "context_tokens": decodes * context,
        "sampled_tokens": chunks + decodes,
        "shared_reads": int(shared * decodes * context) if decodes > 1 else 0,
    }
    return [named.get(name, 0) for name in COUNTS]


def is_mixed(counts: np.ndarray) -> np.ndarray:
    tokens, decodes = (
        counts[:, COUNTS.index(name)] for name in ("prefill_tokens", "decode_requests")
    )
    return (tokens > 0) & (decodes > 0)


def alone(model: StepModel, engine: Flavour, counts: np.ndarray) -> KernelSeconds:
    """What steps take by kernels one after another, compute with its all-reduces."""
    costs = replace(engine, cascade=False).costs(model)
    memory = price_work(costs, counts).memory
    prompts, decodes = (
        counts[:, COUNTS.index(name)] for name in ("prefill_tokens", "decode_requests")
    )
    tokens = prompts + decodes
    layers = np.array([dense_seconds(model.tables.layers, n) for n in tokens])
    compute = price_steps(costs, counts) - memory
    return KernelSeconds(compute, memory, is_mixed(counts), layers, tokens, decodes)


IN_TURN = ["vllm", "vllm-planned", "sequential"]  # engines that run one operator after another


@pytest.mark.parametrize("system", [SYSTEM, FOUR], ids=["one GPU", "four"])
@pytest.mark.parametrize("engine", IN_TURN)
@settings(max_examples=40)
@given(rows=st.lists(steps, min_size=1, max_size=6), one=calibrations)
@example(rows=[_row(3, 500, 200, 3_000, 0.0)], one=OF_OURS)
@example(rows=[_row(3, 500, 200, 3_000, 0.0)], one=OF_VLLM)
@example(rows=[_row(1, n, 200, 3_000, 0.0) for n in (55, 56, 57, 824, 825)], one=OF_TILES)
@example(rows=[_row(3, 500, 200, 3_000, 0.0)], one=Calibration("vllm", 0.0, 1e-3, 0.5, 0.0))
def test_a_step_costs_what_its_calibration_says(
    engine: str, system: System, rows: list[list[int]], one: Calibration
) -> None:
    flavour, counts = find_flavour(engine), np.array(rows, np.int64)
    own = replace(one, runtime=flavour.runtime)
    model = with_calibrations(kernels(system), (own, Calibration("another", 2.0, 1.0, 2.0, 1.0)))
    priced = price_steps(flavour.costs(model), counts)
    wanted = own.seconds(alone(kernels(system), flavour, counts))
    assert priced == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("engine", IN_TURN)
@settings(max_examples=40)
@given(rows=st.lists(steps, min_size=1, max_size=6), one=calibrations)
@example(rows=[_row(0, 1, 300, 5_000, 0.9), _row(2, 400, 300, 5_000, 0.9)], one=OF_VLLM)
@example(rows=[_row(0, 1, 300, 5_000, 0.9), _row(2, 400, 300, 5_000, 0.9)], one=OF_OURS)
def test_cascade_attention_is_used_where_that_is_faster_as_calibrated(
    engine: str, rows: list[list[int]], one: Calibration
) -> None:
    plain, counts = find_flavour(engine), np.array(rows, np.int64)
    cascade, own = find_flavour(engine, cascade=True), replace(one, runtime=plain.runtime)
    bare = kernels(SYSTEM)
    model = with_calibrations(bare, (own,))
    work = alone(bare, plain, counts)
    added, read = np.zeros(len(counts)), work.memory.copy()
    for i, row in enumerate(rows):
        decodes, context, shared = (
            row[COUNTS.index(name)]
            for name in ("decode_requests", "context_tokens", "shared_reads")
        )
        if shared:
            added[i] = prefill_seconds(bare.tables, decodes, decodes, shared)
            added[i] += bare.merge_seconds[decodes]
            read[i] = memory_seconds(bare.tables, decodes, context - shared)
    shared_once = work._replace(compute=work.compute + added, memory=read)
    wanted = np.minimum(own.seconds(work), own.seconds(shared_once))
    priced = price_steps(cascade.costs(model), counts)
    assert priced == pytest.approx(wanted, rel=1e-9)
    assert (priced <= price_steps(plain.costs(model), counts) * (1 + 1e-12)).all()


@pytest.mark.parametrize("engine", [name for name, f in FLAVOURS.items() if f.runtime != "vllm"])
@settings(max_examples=25)
@given(rows=st.lists(steps, min_size=1, max_size=6), one=calibrations)
def test_a_calibration_of_vllm_leaves_other_runtimes_as_they_are(
    engine: str, rows: list[list[int]], one: Calibration
) -> None:
    flavour, counts = find_flavour(engine), np.array(rows, np.int64)
    model, bare = with_calibrations(step_model(SYSTEM), (one,)), step_model(SYSTEM)
    priced, wanted = (price_steps(flavour.costs(m), counts) for m in (model, bare))
    assert priced.tobytes() == wanted.tobytes()


# Runs


#: All run beside each other, and their reads take longer than all else.
READS = from_lengths(
    np.random.default_rng(3).integers(800, 1_200, 200),
    np.random.default_rng(4).integers(3_000, 4_000, 200),
)


#: Hardly anything is read: steps are their layers.
SHORT = from_lengths(np.full(400, 300), np.full(400, 40))


def run_of(pool: Workload, settings: Settings, policy: str = "dfs") -> tuple[StepLog, float, float]:
    """The log of a plan, its share of the optimum and its share of what is reachable."""
    plan = plan_policy(prepare(pool, settings), policy)
    done = simulate_plan(pool, plan, settings)
    return done.log, done.row.share_of_optimum, done.row.share_of_reachable


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Settings with a profile that has these calibrations."""

    def made(*found: Calibration, **values: object) -> Settings:
        root = a_profile(tmp_path_factory.mktemp("profile"), *found)
        return Settings(gpu="h200", sample=1.0, profile=root, **values)  # type: ignore[arg-type]

    return made


def test_a_run_of_vllm_takes_the_sum_of_its_calibrated_steps(
    calibrated: Callable[..., Settings],
) -> None:
    asked = calibrated(OF_VLLM, engine="vllm")
    log, _, _ = run_of(READS, asked)
    bare = prepare(READS, calibrated()).model
    mixed = is_mixed(log.counts)
    assert 0 < mixed.sum() < len(log)
    wanted = OF_VLLM.seconds(alone(bare, find_flavour("vllm"), log.counts))
    assert log.time("seconds") == pytest.approx(wanted, rel=1e-9)
    assert log.end == pytest.approx(wanted.sum(), rel=1e-9)


@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@pytest.mark.parametrize("engine", ["nanoflow", "sequential", "vllm"])
def test_no_run_beats_its_bounds_where_a_runtime_reads_faster_than_its_kernels(
    calibrated: Callable[..., Settings], engine: str, overlap: str
) -> None:
    runtime = FLAVOURS[engine].runtime
    asked = calibrated(Calibration(runtime, 0.5), engine=engine, overlap=overlap)
    for policy in ("dfs", "fcfs"):
        log, optimum, reachable = run_of(READS, asked, policy)
        assert 0 < optimum <= reachable <= 1
    if (engine, overlap) == ("nanoflow", "max"):  # bounds of the kernels alone would not hold
        bare = prepare(READS, replace(asked, profile="imported"))
        limits = bounds(READS, bare.true_lengths, bare.prompts, bare.model, 2_048)
        assert log.end < limits.optimum


@pytest.mark.parametrize("engine", ["nanoflow", "sequential", "vllm"])
def test_no_run_beats_its_bounds_where_a_runtime_has_faster_layers_than_its_kernels(
    calibrated: Callable[..., Settings], engine: str
) -> None:
    of_layers = Calibration(FLAVOURS[engine].runtime, layers=((1_024, 0.4),))
    asked = calibrated(of_layers, engine=engine, token_budget=1_024)
    log, optimum, reachable = run_of(SHORT, asked)
    assert 0 < optimum <= reachable <= 1
    bare = prepare(SHORT, replace(asked, profile="imported"))
    limits = bounds(SHORT, bare.true_lengths, bare.prompts, bare.model, 1_024)
    assert log.end < limits.reachable, "bounds of the kernels alone would not hold"


def test_bounds_are_of_no_engine(calibrated: Callable[..., Settings]) -> None:
    """Neither of the one that is simulated nor, by the fastest, of one that was calibrated."""
    asked = replace(calibrated(OF_VLLM, OF_OURS), token_budget=2_048)
    found = []
    for engine in ("nanoflow", "sequential", "vllm", "vllm-planned"):
        there = replace(asked, engine=engine)
        plan = plan_policy(prepare(READS, there), "dfs")
        row = simulate_plan(READS, plan, there).row
        found.append((row.token_budget, row.optimum_seconds, row.reachable_seconds))
        assert row.share_of_reachable <= 1
    assert set(found) == {found[0]}
    bare = prepare(READS, calibrated())
    limits = bounds(READS, bare.true_lengths, bare.prompts, bare.model, 2_048)
    assert found[0][1] < limits.optimum


def test_a_runtime_slower_than_its_kernels_leaves_bounds_as_they_are(
    calibrated: Callable[..., Settings],
) -> None:
    slow, bare = (
        simulate_plan(READS, plan_policy(prepare(READS, asked), "dfs"), asked).row
        for asked in (calibrated(OF_VLLM, engine="vllm"), calibrated(engine="vllm"))
    )
    assert slow.optimum_seconds == bare.optimum_seconds
    assert slow.reachable_seconds == bare.reachable_seconds
    assert slow.reported_seconds > bare.reported_seconds


# Plans


#: The first do not decode, the others' prompts fit in two steps: in this order one step at most has
#: prompts beside decodes, in any that blends the two many have.
APART = from_lengths([4_000] * 40 + [16] * 200, [1] * 40 + [400] * 200)


def mixed_steps(choice: Choice) -> int:
    return int(is_mixed(choice.log.counts).sum())


def test_a_policy_of_few_mixed_steps_is_chosen_where_those_take_long(
    calibrated: Callable[..., Settings],
) -> None:
    plain, slow = (
        choose(APART, calibrated(*found, engine="vllm-planned", token_budget=2_048))
        for found in ([], [Calibration("vllm", mixed_step=0.5)])
    )
    assert plain.chosen.policy in ("blend", "paced")
    assert slow.chosen.policy in ("dfs", "fcfs")
    assert mixed_steps(slow) <= 1 < mixed_steps(plain)
    seconds = {row.policy: row.predicted_seconds for row in slow.rows}
    assert seconds["dfs"] < min(seconds["blend"], seconds["paced"])


def test_a_calibration_of_vllm_leaves_the_choice_for_other_engines_as_it_is(
    calibrated: Callable[..., Settings],
) -> None:
    plain, other = (
        choose(APART, calibrated(*found, engine="nanoflow", token_budget=2_048))
        for found in ([], [Calibration("vllm", 1.5, 0.0, 0.0, 0.5)])
    )
    assert other.rows == plain.rows
    assert other.plan.pacing == plain.plan.pacing


def test_a_paced_plan_is_told_how_fast_its_own_runtime_reads(
    calibrated: Callable[..., Settings],
) -> None:
    """Bounds are told the fastest of all runtimes."""

    def read_seconds(engine: str, *found: Calibration) -> float:
        plan = plan_policy(prepare(APART, calibrated(*found, engine=engine)), "paced")
        assert plan.pacing is not None
        return plan.pacing.read_seconds

    plain = read_seconds("nanoflow")
    fast, slow = Calibration("vllm", 0.5), Calibration("blendrt", 1.5)
    assert read_seconds("vllm-planned", fast, slow) == pytest.approx(0.5 * plain)
    assert read_seconds("nanoflow", fast, slow) == pytest.approx(1.5 * plain)
    assert read_seconds("nanoflow", fast) == plain
