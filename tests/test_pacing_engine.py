"""Paced plans on engines and topologies: compiled runs, and what they are worth."""

from dataclasses import replace

import numpy as np
import pytest
from plain_kernels import plain_twins
from serving_worlds import core_of_plan
from test_pacing_plan import mixed, planned

from blendsim import search
from blendsim.pacing import Gains
from blendsim.plan import Plan
from blendsim.request import Workload, from_lengths
from blendsim.search import simulate_plan
from blendsim.serving.flavour import find_flavour
from blendsim.serving.knobs import Knobs
from blendsim.sim.run import simulate
from blendsim.specs import find_link
from blendsim.steplog import COUNTS, StepLog
from blendsim.synth.blend import blend
from blendsim.synth.recipes import Recipe
from blendsim.topology import COLOCATED, Topology, pools

TIGHT = 2_000_000_000  # bytes of KV: 15,000 tokens of llama-3.1-8b


def log_of(
    problem: search.Problem,
    plan: Plan,
    name: str = "nanoflow",
    topology: Topology = COLOCATED,
    budget: int | None = None,
) -> StepLog:
    workload = problem.workload
    flavour = find_flavour(name, budget)
    return simulate(
        plan,
        workload,
        workload.output_len,
        problem.prompts,
        problem.model,
        flavour,
        topology,
    )


def tokens(log: StepLog) -> np.ndarray:  # type: ignore[type-arg]
    return log.count("prefill_tokens") + log.count("decode_requests")


def test_compiled_run_is_that_of_the_plain_twins() -> None:
    problem, plan = planned(mixed(25), kv_bytes=TIGHT // 3, sample=0.1)
    log = log_of(problem, plan)
    core = core_of_plan(problem, plan)
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        assert plain_twins(patch) > 0
        while not core.is_done:
            core.step()
            core.commit()
            rows.append([core.counts()[name] for name in COUNTS])
    assert np.array_equal(log.counts, rows)


def test_every_request_ends_and_every_token_is_computed_once() -> None:
    problem, plan = planned(mixed(60))
    workload, log = problem.workload, log_of(problem, plan)
    assert log.count("preempted").sum() == 0
    assert log.count("finished").sum() == len(workload)
    assert log.count("prefill_tokens").sum() == workload.prompt_len.sum()
    assert log.count("decode_requests").sum() == (workload.output_len - 1).sum()


@pytest.mark.parametrize("most", [256, 1_000])
def test_a_paced_run_stays_below_its_most_tokens(most: int) -> None:
    problem, plan = planned(mixed(60), pacing=Gains(most_tokens=most))
    log = log_of(problem, plan)
    assert 0 < tokens(log).max() <= most


def test_a_paced_run_stays_below_the_budget_of_its_engine() -> None:
    problem, plan = planned(mixed(60), token_budget=300)
    assert tokens(log_of(problem, plan, budget=300)).max() <= 300


def test_each_rank_is_paced_by_itself() -> None:
    problem, plan = planned(mixed(60), dp=2, pacing=Gains(most_tokens=512))
    log = log_of(problem, plan)
    ended = np.bincount(log.replica, log.count("finished"))
    assert ended.tolist() == np.bincount(plan.rank).tolist()
    assert tokens(log).max() <= 512


def same_logs(one: StepLog, other: StepLog) -> None:
    assert np.array_equal(one.counts, other.counts)
    assert np.array_equal(one.times, other.times)


def test_pacing_changes_what_steps_compute() -> None:
    problem, plan = planned(mixed(60))
    paced, unpaced = (
        behind_the_sample(plan, log_of(problem, each))
        for each in (plan, replace(plan, pacing=None))
    )
    assert not np.array_equal(paced[:20], unpaced[:20])


def behind_the_sample(plan: Plan, log: StepLog) -> np.ndarray:  # type: ignore[type-arg]
    """Tokens of the steps in which others enter than sampled requests: those go in full steps
    whatever the rules.
    """
    found = tokens(log)[log.count("admitted").cumsum() > plan.is_first.sum()]
    assert len(found) > 20
    return found


@pytest.mark.parametrize("name", ["sglang", "sglang-mixed"])
def test_engine_that_cannot_pace_serves_a_paced_plan_by_dual_scan(name: str) -> None:
    problem, plan = planned(mixed(40))
    same_logs(log_of(problem, plan, name), log_of(problem, replace(plan, pacing=None), name))


@pytest.mark.parametrize(
    "topology",
    [pools("1P1D", find_link("nvlink3")), Topology(steals=True)],
    ids=["pools", "stealing"],
)
def test_topologies_of_several_lines_serve_a_paced_plan_by_dual_scan(topology: Topology) -> None:
    problem, plan = planned(mixed(40), dp=2 if topology.steals else 1)
    log = log_of(problem, plan, topology=topology)
    same_logs(log, log_of(problem, replace(plan, pacing=None), topology=topology))
    assert log.count("finished").sum() == len(problem.workload)


@pytest.mark.parametrize(
    "knobs",
    [Knobs(watermark=0.05), Knobs(prefill_schedule_interval=3)],
    ids=["watermark", "interval"],
)
def test_turned_knobs_serve_a_paced_plan_by_dual_scan(knobs: Knobs) -> None:
    problem, plan = planned(mixed(40), engine="vllm", knobs=knobs)
    told = simulate_plan(problem.workload, plan, problem.settings)
    plain = simulate_plan(problem.workload, replace(plan, pacing=None), problem.settings)
    same_logs(told.log, plain.log)


def test_vllm_as_shipped_is_paced() -> None:
    problem, plan = planned(mixed(40), engine="vllm", pacing=Gains(most_tokens=512))
    assert tokens(log_of(problem, plan, "vllm")).max() <= 512


def test_a_single_request_is_served() -> None:
    problem, plan = planned(from_lengths([5], [7]))
    log = log_of(problem, plan)
    assert log.count("finished").sum() == 1
    assert len(log.counts) == 7


@pytest.mark.parametrize("kind", [(2_000, 4), (10, 800)], ids=["dense", "light"])
def test_pools_of_one_kind_alone_are_served(kind: tuple[int, int]) -> None:
    problem, plan = planned(from_lengths([kind[0]] * 30, [kind[1]] * 30))
    assert log_of(problem, plan).count("finished").sum() == 30


@pytest.fixture(scope="module")
def papers_pool() -> Workload:
    """The paper's first workload in small: 3,000 requests of a chat, of questions and of video."""
    return blend(Recipe(1.4, 0.35, 3_000, tolerance=0.05), search.Settings().system).workload


def test_paced_is_predicted_faster_than_blend_and_dfs_on_the_papers_workload(
    papers_pool: Workload,
) -> None:
    """KV memory is cut to a tenth, so that the pool is many times what fits, as at full size."""
    settings = search.Settings(kv_bytes=6_000_000_000)
    rows = {row.policy: row for row in search.choose(papers_pool, settings).rows}
    assert rows["paced"].predicted_seconds < rows["blend"].predicted_seconds
    assert rows["paced"].predicted_seconds < rows["dfs"].predicted_seconds
    assert rows["paced"].share_of_reachable <= 1 + 1e-9  # of what no schedule can beat
