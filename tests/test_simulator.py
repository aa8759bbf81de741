"""The simulator: a serving core with a clock, many steps inside one compiled call."""

from dataclasses import replace

import numpy as np
import pytest
from serving_worlds import core_of_plan

from blendsim import search
from blendsim.batch import Batch
from blendsim.perf.step import step_costs
from blendsim.plan import Plan
from blendsim.report.metrics import Place, PoolFacts, kv_use, summarise
from blendsim.request import Workload, from_lengths
from blendsim.serving.flavour import find_flavour
from blendsim.sim import engine
from blendsim.sim.engine import Replica
from blendsim.sim.run import simulate
from blendsim.steplog import COUNTS, TIMES, StepLog

NO_LINK = np.zeros(2)


def some_requests(n: int = 60) -> Workload:
    rng = np.random.default_rng(0)
    return from_lengths(rng.integers(20, 900, n), rng.integers(1, 90, n))


def planned(
    workload: Workload, policy: str = "fcfs", **settings: object
) -> tuple[search.Problem, Plan]:
    problem = search.prepare(workload, search.Settings(sample=1.0, **settings))  # type: ignore[arg-type]
    return problem, search.plan_policy(problem, policy)


def log_of(problem: search.Problem, plan: Plan, name: str = "nanoflow") -> StepLog:
    workload = problem.workload
    return simulate(
        plan, workload, workload.output_len, problem.prompts, problem.model, find_flavour(name)
    )


def test_simulated_steps_are_those_of_the_core_asked_one_by_one() -> None:
    problem, plan = planned(some_requests())
    log, core, now = log_of(problem, plan), core_of_plan(*planned(some_requests())), 0.0
    for counts, times in zip(log.counts, log.times, strict=True):
        batch = core.step()
        core.commit()
        compute, memory, seconds = problem.model.seconds(batch)
        assert list(core.counts().values()) == counts.tolist()
        assert times.tolist() == [now, seconds, compute, memory, 0.0, 0.0]
        now += seconds
    assert core.is_done


def test_plain_twin_runs_the_same_steps() -> None:
    problem, plan = planned(some_requests(9))
    core, costs = core_of_plan(problem, plan), step_costs(problem.model, True, True)
    counts, times = np.zeros((500, len(COUNTS)), np.int64), np.zeros((500, len(TIMES)))
    rows = engine.run_steps.py_func(
        core.kind, core.state, costs, 0.0, np.inf, counts, times, NO_LINK
    )
    log = log_of(problem, plan)
    assert np.array_equal(counts[:rows], log.counts)
    assert np.array_equal(times[:rows], log.times)


def test_plain_twin_stops_at_the_time_and_at_the_end_of_its_rows() -> None:
    problem, plan = planned(some_requests(9))
    core, costs = core_of_plan(problem, plan), step_costs(problem.model, True, True)
    counts, times = np.zeros((5, len(COUNTS)), np.int64), np.zeros((5, len(TIMES)))
    run = engine.run_steps.py_func
    assert run(core.kind, core.state, costs, 1.0, 1.0, counts, times, NO_LINK) == 0
    assert run(core.kind, core.state, costs, 0.0, 1e-9, counts, times, NO_LINK) == 1
    assert run(core.kind, core.state, costs, 0.0, np.inf, counts, times, NO_LINK) == 5


def test_run_in_pieces_is_the_run_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_FIRST_ROWS", 8)  # so that the log has to grow as well
    problem, plan = planned(some_requests())
    replica = Replica(core_of_plan(problem, plan), problem.model, find_flavour("nanoflow"))
    for until in (0.1, 0.1, 0.5):
        reached = replica.advance(until)
        assert reached >= until
        assert replica.times[-1, 0] < until
    replica.advance()
    log = log_of(problem, plan)
    assert np.array_equal(replica.counts, log.counts)
    assert np.array_equal(replica.times, log.times)


@pytest.mark.parametrize("name", ["nanoflow", "vllm"])
def test_step_lasts_as_long_as_its_engine_overlaps(name: str) -> None:
    problem, plan = planned(some_requests(), overlap="max")
    log = log_of(problem, plan, name)
    batches = (Batch(*row[: len(Batch._fields)].tolist()) for row in log.counts)
    told = [problem.model.seconds(batch) for batch in batches]
    compute, memory, together = map(np.array, zip(*told, strict=True))
    assert log.time("compute_seconds") == pytest.approx(compute)
    assert log.time("memory_seconds") == pytest.approx(memory)
    taken = together if name == "nanoflow" else compute + memory
    assert log.time("seconds") == pytest.approx(taken)
    assert (taken < 0.9 * (compute + memory)).any() == (name == "nanoflow")
    assert log.time("start")[1:] == pytest.approx(np.cumsum(log.time("seconds"))[:-1])


def test_every_token_is_computed_once_where_memory_is_ample() -> None:
    workload = some_requests()
    log = log_of(*planned(workload))
    assert log.count("prefill_tokens").sum() == workload.prompt_len.sum()
    assert log.count("decode_requests").sum() == (workload.output_len - 1).sum()
    assert log.count("sampled_tokens").sum() == workload.output_len.sum()
    assert log.count("finished").sum() == len(workload)


def test_each_rank_has_a_replica_and_its_own_rows() -> None:
    problem, plan = planned(some_requests(), "blend", dp=3)
    log = log_of(problem, plan)
    ended = np.bincount(log.replica, log.count("finished"))
    assert ended.tolist() == np.bincount(plan.rank).tolist()
    ends = [float(log.times[log.replica == rank, :2].sum(axis=1).max()) for rank in range(3)]
    assert log.end == max(ends)


def test_rank_without_requests_runs_nothing() -> None:
    problem, plan = planned(some_requests(3))
    apart = replace(plan, rank=np.array([0, 0, 2], np.int32))
    assert np.unique(log_of(problem, apart).replica).tolist() == [0, 2]


# ---- what is reported of a run


def made_log(counts: dict[str, list[int]], seconds: list[float]) -> StepLog:
    """A log of one replica with these columns; the others are zero."""
    columns = [counts.get(name, [0] * len(seconds)) for name in COUNTS]
    start = np.cumsum(seconds) - seconds
    times = np.zeros((len(seconds), len(TIMES)))
    times[:, 0], times[:, 1] = start, seconds
    return StepLog(np.array(columns).T, times, np.zeros(len(seconds), np.int32), {})


def test_kv_use_is_weighted_by_time() -> None:
    log = made_log({"held_blocks": [10, 40]}, [3.0, 1.0])
    assert kv_use(log, 100) == pytest.approx((3 * 0.10 + 1 * 0.40) / 4)


def test_run_ends_with_its_last_step() -> None:
    assert made_log({}, [3.0, 1.5]).end == 4.5
    assert made_log({}, []).end == 0.0


def test_run_that_beats_a_bound_is_a_bug() -> None:
    problem, plan = planned(some_requests())
    choice = search.choose(problem.workload, search.Settings(sample=1.0, planner="fcfs"))
    log = log_of(problem, plan)
    fast, outputs = replace(log, times=log.times * 1e-3), problem.workload.output_len
    place, facts = Place("nanoflow", 2_048, 2_048, problem.model.system, 1), PoolFacts(1.0, 1.0, 0)
    with pytest.raises(AssertionError, match="less than the practical optimum"):
        summarise("fcfs", problem.workload, outputs, 1.0, fast, choice.bounds, place, facts)


@pytest.mark.parametrize("engine", ["vllm", "nanoflow", "sglang"])
def test_recomputed_tokens_are_those_through_the_layers_beyond_once(engine: str) -> None:
    """Victims' blocks are found in the cache again, as far as nobody took them."""
    pool = from_lengths([200] * 60, [400 + 7 * k for k in range(60)])
    settings = search.Settings(sample=1.0, engine=engine, kv_bytes=2_000_000_000, planner="fcfs")
    plan = search.plan_policy(search.prepare(pool, settings), "fcfs")
    done = search.simulate_plan(pool, plan, settings)
    found = int(done.log.count("hit_tokens").sum())
    once = int(pool.prompt_len.sum()) - found + int((pool.output_len - 1).sum())
    assert done.row.recomputed_tokens == done.log.tokens.sum() - once
    if engine == "vllm":  # the others foresee that the cache would overflow
        assert 0 < done.row.recomputed_tokens < done.row.preempted_tokens
