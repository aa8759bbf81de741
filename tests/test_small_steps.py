"""What is told where a run's time goes to steps of few tokens, and where it is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from blendsim import search
from blendsim.report.advice import ALONE, advise
from blendsim.report.small_steps import beyond_best, with_small_steps
from blendsim.request import Workload, from_lengths
from blendsim.steplog import NOT_COUNTED
from blendsim.traces import load_pool

BUDGET = 2_048
SAID = "Small steps take more of this run's"
#: Few requests of long answers: a dozen decodes a step.
FEW = from_lengths([200] * 12, [4_000] * 12)
MANY = from_lengths([900, 40] * 300, [20, 400] * 300)


def chosen(pool: Workload, **asked: object) -> tuple[search.Problem, search.Choice]:
    """A choice with the advice that there is without a word on small steps."""
    problem = search.prepare(pool, search.Settings(**{"sample": 1.0, "planner": "dfs", **asked}))
    choice = search.choose_for(problem)
    plain = advise(choice.rows, choice.chosen, choice.bounds, problem.model)
    return problem, choice._replace(advice=plain)


def test_what_steps_take_beyond_the_best_rate_is_summed_step_by_step() -> None:
    problem, choice = chosen(FEW)
    model, log = problem.model, choice.log
    best = min(model.layer_seconds[n] / n for n in range(1, BUDGET + 1))
    assert best > model.best_layer_seconds_per_token  # which takes larger steps than these
    expected = 0.0
    for step in log.counts[:, [0, 3]].tolist():
        n = sum(step)
        expected += model.layer_seconds[n] - n * best
    assert beyond_best(log, model, BUDGET) == pytest.approx(expected)
    several = replace(log, replica=np.arange(len(log), dtype=np.int32) % 4)
    assert beyond_best(several, model, BUDGET) == pytest.approx(expected / 4)


def test_small_steps_are_told_where_they_take_more_than_compute_and_reads() -> None:
    """Twelve decodes read a mixture's experts nearly as a hundred would."""
    problem, choice = chosen(FEW, model="gpt-oss-20b", gpu="h100")
    beyond = beyond_best(choice.log, problem.model, BUDGET)
    limits = choice.bounds._replace(longest=0.0)
    assert beyond > max(limits.compute, limits.memory)
    told = with_small_steps(choice.advice, choice.log, limits, problem.model, BUDGET)
    assert told[-2].startswith(choice.advice[-2] + " " + SAID)
    assert "half of it goes to steps of 12 tokens or fewer, and the weights, read for" in told[-2]
    assert [told[0], told[-1]] == [choice.advice[0], choice.advice[-1]]
    full = with_small_steps(choice.advice, choice.log, limits, problem.model, BUDGET, 0.71)
    assert full[-2].startswith(f"{told[-2]} KV memory keeps more requests from running at a time: ")
    assert told == with_small_steps(choice.advice, choice.log, limits, problem.model, BUDGET, 0.69)
    reads = limits._replace(memory=1.01 * beyond)
    assert (
        with_small_steps(choice.advice, choice.log, reads, problem.model, BUDGET) == choice.advice
    )


def test_an_ordinary_pool_is_told_nothing_of_small_steps() -> None:
    problem, choice = chosen(MANY)
    told = with_small_steps(choice.advice, choice.log, choice.bounds, problem.model, BUDGET)
    assert told == choice.advice


def test_where_one_request_bounds_the_run_or_tokens_are_not_counted_nothing_is_told() -> None:
    problem, choice = chosen(FEW)
    run_time = choice.chosen.reported_seconds
    one = choice.bounds._replace(longest=1.01 * ALONE * run_time)
    assert with_small_steps(choice.advice, choice.log, one, problem.model, BUDGET) == choice.advice
    lacking = replace(choice.log, meta={NOT_COUNTED: ["prefill_tokens"]})
    none = choice.bounds._replace(longest=0.0)
    assert with_small_steps(choice.advice, lacking, none, problem.model, BUDGET) == choice.advice
    assert with_small_steps(choice.advice, choice.log, none, problem.model, BUDGET) != choice.advice


def test_plan_report_and_python_tell_it_alike(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    rows = [f"{100 + k},{900 + 90 * k}" for k in range(30)]
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows) + "\n")
    asked = ("--trace", trace, "--model", "gpt-oss-20b", "--gpu", "h100", "--sample", 1)
    plan, log = tmp_path / "plan.parquet", tmp_path / "steps.parquet"
    said = " ".join(run("plan", *asked, "--planner", "dfs", "-o", plan).split())
    assert SAID in said
    run("simulate", plan, "-o", log)
    found = run("report", log, "--json")
    sentence = said[said.index(SAID) :].partition(" full steps.")[0]
    assert sentence in found
    pool, settings = (
        load_pool([trace]),
        search.Settings(model="gpt-oss-20b", gpu="h100", sample=1.0),
    )
    assert sentence in " ".join(search.choose(pool, replace(settings, planner="dfs")).advice)


def test_in_a_pipeline_they_are_the_seconds_of_a_stage() -> None:
    problem, choice = chosen(FEW, engine="vllm", gpu="h100", pp=2)
    one, _ = chosen(FEW, engine="vllm", gpu="h100")
    of_one = beyond_best(choice.log, one.model, BUDGET)
    assert beyond_best(choice.log, problem.model, BUDGET) == pytest.approx(of_one / 2)
