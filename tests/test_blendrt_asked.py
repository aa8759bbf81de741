"""Jobs of plans by the settings that were asked for: served as simulated, or refused."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_replays import Planned, read_job
from replay_worlds import planned, pool

from blendrt.replay.asked import asked_job
from blendsim import search
from blendsim.errors import InputError
from blendsim.live.engine import Engine
from blendsim.live.replaying import Wish, make_job
from blendsim.plan import Plan, write_plan
from blendsim.request import Workload, select, set_apart
from blendsim.search.trial import find_engine
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions
from blendsim.traces.workload_file import write_workload

RULES = Settings(
    token_budget=96, eviction="plan", output_reserved=0.125, nano_batches=2, sample=0.1
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """As it is read from a file, which is its origin."""
    place = tmp_path_factory.mktemp("pool") / "small.parquet"
    write_workload(select(pool(), np.arange(30)), place)
    return load_pool([str(place)], ReadOptions())


@pytest.fixture(scope="module")
def plan(small: Workload) -> Plan:
    return planned("dfs", "nanoflow", small)[1]


def in_the_bench(
    folder: Path, plan: Plan, workload: Workload, settings: Settings, engine: str | None = None
) -> Any:
    """The job that bench/gpu_replays.py reads from a plan made by these settings."""
    place, (of,) = folder / "small-dfs.parquet", workload.origin
    source = {"traces": [of], "read": {}, "skip_oversize": False}
    write_plan(replace(plan, meta={"settings": asdict(settings), "source": source}), place)
    return read_job(Planned("small", "dfs", place, Path(of)), engine)[0]


def in_the_command(plan: Plan, workload: Workload, settings: Settings, engine: Engine) -> Any:
    """The job that `blendsim replay` makes of it."""
    return make_job(plan, workload, settings, Wish(False, engine, None, None, None))


def test_simulator_command_and_bench_serve_by_the_same_rules(
    tmp_path: Path, plan: Plan, small: Workload
) -> None:
    problem = search.prepare(small, RULES)
    simulated = find_engine(problem, RULES.engine)
    ran = in_the_command(plan, small, RULES, Engine.BLENDRT)
    checked = in_the_bench(tmp_path, plan, small, RULES)
    assert ran.flavour == checked.flavour == simulated
    assert ran.system == checked.system == RULES.system
    for job in (ran, checked):
        assert job.output_len.tolist() == problem.true_lengths.tolist()
    assert simulated != Settings(token_budget=96).flavour()  # else it would say nothing


def test_lengths_that_no_trace_gives_are_those_that_are_simulated(
    plan: Plan, small: Workload
) -> None:
    blind = replace(small, has_output=np.zeros(len(small), np.bool_))
    drawn = search.prepare(blind, RULES).true_lengths
    assert asked_job(plan, blind, RULES).output_len.tolist() == drawn.tolist()


def test_what_is_left_of_a_batch_answers_as_it_is_simulated_to(small: Workload) -> None:
    """By the lengths of those that are answered, which are in no pool."""
    rest = set_apart(replace(small, output_limit=0 * small.output_len), np.arange(len(small)) < 20)
    blind = replace(rest, has_output=np.zeros(10, np.bool_), output_len=np.zeros(10, np.int64))
    problem = search.prepare(blind, replace(RULES, sample=1.0))
    plan = search.plan_policy(problem, "dfs")
    job = asked_job(plan, blind, problem.settings)
    assert job.output_len.tolist() == problem.true_lengths.tolist()
    assert job.prompts.order.tolist() == problem.prompts.order.tolist()
    alone = search.prepare(replace(blind, answered=None), problem.settings)
    assert job.output_len.tolist() != alone.true_lengths.tolist(), "or it says nothing"


def test_on_vllm_a_plan_for_another_engine_is_evicted_by_last_use(
    plan: Plan, small: Workload
) -> None:
    job = in_the_command(plan, small, RULES, Engine.VLLM)
    assert job.flavour == RULES.for_engine("vllm").flavour()
    assert (job.flavour.eviction, job.flavour.output_reserved) == ("lru", 0.125)


ONLY_SIMULATED = {
    "topology 1P1D": Settings(topology="1P1D"),
    "stealing between ranks": Settings(dp=2, steals=True),
    "host memory": Settings(host_memory_bytes=1 << 30),
    "knobs of vLLM’s scheduler": Settings(engine="vllm", knobs=Knobs(watermark=0.1)),
    "cascade attention": Settings(cascade=True),
}


@pytest.mark.parametrize("what", ONLY_SIMULATED)
def test_what_only_the_simulator_models_is_refused_in_a_line(
    tmp_path: Path, plan: Plan, small: Workload, what: str
) -> None:
    settings = ONLY_SIMULATED[what]
    line = f"^replay has no {what}; leave it out, or simulate a plan that has it$"
    with pytest.raises(InputError, match=line):
        in_the_bench(tmp_path, plan, small, settings)
    for engine in Engine:
        with pytest.raises(InputError, match=line):
            in_the_command(plan, small, settings, engine)
    with pytest.raises(InputError, match=f"^run has no {what}; "):
        settings.require_runnable("run")


def test_an_engine_that_runs_rounds_is_refused_unless_vllm_runs_the_plan(
    tmp_path: Path, plan: Plan, small: Workload
) -> None:
    settings = Settings(engine="sglang-lpm")
    line = (
        "^replay runs no rounds as sglang-lpm does; give --engine vllm, or plan with --engine "
        "nanoflow, vllm or sequential$"
    )
    with pytest.raises(InputError, match=line):
        in_the_bench(tmp_path, plan, small, settings)
    with pytest.raises(InputError, match=line):
        in_the_command(plan, small, settings, Engine.BLENDRT)
    job = in_the_bench(tmp_path, plan, small, settings, "vllm")  # as bench/gpu_vllm.py reads it
    assert job.flavour == in_the_command(plan, small, settings, Engine.VLLM).flavour
    assert job.flavour == Settings(engine="vllm").flavour()
