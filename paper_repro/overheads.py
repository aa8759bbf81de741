"""A.5, what planning and scheduling cost, measured on the machine at hand, and the warm-up's share.

Planning is timed by the wall clock, a step by the CPU's, since a step of microseconds cannot tell a
pause of its thread from work. They differ from run to run and from machine to machine. Compiled
code is run on a small pool before it is timed.
"""

from time import perf_counter, thread_time_ns

import numpy as np

from blendsim.planner.outlook import look_ahead
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload
from blendsim.search.problem import Problem, plan_policy
from blendsim.search.trial import find_engine, log_in
from blendsim.serving import batcher
from blendsim.serving.columns import RUNNING
from blendsim.serving.core import ServingCore
from paper_repro.claims import Verdict, read_claims, sign
from paper_repro.lab import Lab
from paper_repro.reading import in_per_cent
from paper_repro.table import Table

TRACE = "trace1"
WARM_UP_REQUESTS = 20_000
STEPS, QUICK_STEPS = 60_000, 10_000  # scheduled one at a time and timed
UNTIMED_STEPS = 100


def measure(lab: Lab) -> dict[str, Table]:
    """`planning`: seconds a stage; `steps`: milliseconds a step; `warm_up`: shares of the run."""
    small = lab.pool(TRACE, requests=WARM_UP_REQUESTS)
    _plan(lab, small)
    _timed_steps(lab.problem(small), UNTIMED_STEPS)
    workload = lab.pool(TRACE)
    seconds = _plan(lab, workload)
    problem = lab.problem(workload)
    planning = [{"stage": stage, "seconds": took} for stage, took in seconds.items()]
    return {
        "planning": Table.of([{**row, "requests": len(workload)} for row in planning]),
        "steps": Table.of([_timed_steps(problem, QUICK_STEPS if lab.quick else STEPS)]),
        "warm_up": Table.of([_warm_up(problem, sum(seconds.values()))]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """None of it costs more than in the paper."""
    planning, (step,), (warm_up,) = (
        tables["planning"],
        tables["steps"].records(),
        tables["warm_up"].records(),
    )
    tree = sum(row["seconds"] for row in planning.records() if row["stage"] in TREE_STAGES)
    requests = planning.column("requests")[0]
    shown = f"{tree:.1f} s for {requests:,} requests, {warm_up['planning_s']:.1f} s for the plan"
    found = [sign("overhead-tree", tree <= _limit("overhead-tree"), shown)]
    for kind in ("mean", "p99"):
        claim = f"overhead-step-{kind}"
        found.append(
            sign(
                claim,
                step[f"{kind}_ms"] <= _limit(claim),
                f"{step[f'{kind}_ms']:.3f} ms",
                f"all of scheduling a step, {step['running_mean']:.0f} requests running",
            )
        )
    share = warm_up["planning_share"] + warm_up["sampled_share"]
    shown = (
        f"{in_per_cent(share, 2)} of the run: {in_per_cent(warm_up['planning_share'], 2)} planning "
        f"on the CPU, {in_per_cent(warm_up['sampled_share'], 2)} until the sampled requests are in"
    )
    return [*found, sign("overhead-warm-up", share <= _limit("overhead-warm-up"), shown)]


TREE_STAGES = ("sort prompts", "build tree")


def _limit(claim: str) -> float:
    value = read_claims()[claim].value
    assert value is not None, f"{claim} has a number"
    return value


def _plan(lab: Lab, workload: Workload) -> dict[str, float]:
    """Seconds of planning the blended order, stage by stage."""
    settings = lab.settings()
    marks = [perf_counter()]
    prompts = sort_prompts(workload)
    marks.append(perf_counter())
    tree = pool_tree(workload, prompts)
    marks.append(perf_counter())
    look_ahead(workload, tree, settings.system, settings.sample, settings.seed)
    marks.append(perf_counter())
    problem = lab.problem(workload)
    marks.append(perf_counter())
    plan_policy(problem, "blend")
    marks.append(perf_counter())
    took = np.diff(marks).tolist()
    # `problem` did the first stages again: it is what plans are made from, not a stage.
    names = (*TREE_STAGES, "sample and estimate lengths", "", "sort layers, split, merge")
    return {name: seconds for name, seconds in zip(names, took, strict=True) if name}


def _timed_steps(problem: Problem, number: int) -> dict[str, float | int]:
    """Milliseconds of `schedule` and `commit`, step by step, from the beginning of a run."""
    plan = plan_policy(problem, "blend")
    engine = find_engine(problem, problem.settings.engine)
    core = ServingCore.from_plan(
        plan,
        problem.workload,
        problem.true_lengths,
        problem.prompts,
        problem.model.system,
        engine,
    )
    took = np.zeros(number, np.int64)
    running = np.zeros(number, np.int64)
    for step in range(number):
        begin = thread_time_ns()
        batcher.schedule(core.state)
        batcher.commit(core.state)
        took[step] = thread_time_ns() - begin
        running[step] = core.state.counts[RUNNING]
    ms = took[UNTIMED_STEPS // 2 :] / 1e6
    return {
        "steps": len(ms),
        "mean_ms": float(ms.mean()),
        "p50_ms": float(np.median(ms)),
        "p99_ms": float(np.quantile(ms, 0.99)),
        "running_mean": float(running.mean()),
    }


def _warm_up(problem: Problem, planning: float) -> dict[str, float | int]:
    """What comes before the blended order: planning, and the sampled requests."""
    plan = plan_policy(problem, "blend")
    engine = find_engine(problem, problem.settings.engine)
    log = log_in(problem, plan, engine, problem.drawn)
    sampled = int(plan.is_first.sum())
    entered = int(np.searchsorted(np.cumsum(log.count("admitted")), sampled))
    seconds = log.end
    until = float((log.time("start") + log.time("seconds"))[entered])
    return {
        "run_s": seconds,
        "planning_s": planning,
        "planning_share": planning / seconds,
        "sampled_requests": sampled,
        "sampled_s": until,
        "sampled_share": until / seconds,
    }
