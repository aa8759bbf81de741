"""The running limit: asked for by hand, and lowered by `auto`, `compare` and a search where an
engine that admits greedily preempts.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run, run_json
from test_schedule_search import settings_of

from blendsim import search
from blendsim.baselines import named_baselines
from blendsim.cli.servers import flags_assumed
from blendsim.errors import InputError
from blendsim.plan import write_plan
from blendsim.planner.make import IN_LINE, LONGEST_FIRST
from blendsim.report.rental import Goal
from blendsim.report.tables import limits_told, policy_labels
from blendsim.request import Workload, from_lengths
from blendsim.search import budgets
from blendsim.search.budgets import CLOSE, RUNNING_LIMITS, WORTH, lower_limits, other_budgets
from blendsim.search.choice import Choice
from blendsim.search.problem import Problem
from blendsim.search.rental import find_candidates, rent
from blendsim.search.space import Space, axes_of, plain
from blendsim.search.trial import engine_of, find_engine, log_in
from blendsim.search.world_run import timed_in
from blendsim.serving.flavour import FLAVOURS
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings, remembered
from blendsim.sim.timing import Timed

#: KV memory for a hundred of the requests at their ends, so that vLLM admits too many.
VLLM = Settings(gpu="h200", engine="vllm", sample=1.0, kv_bytes=8 * 10**9)
OWN = FLAVOURS["vllm"].max_running


def pool(n: int = 300) -> Workload:
    """Short prompts and longer answers, all lengths different."""
    rng = np.random.default_rng(1)
    return from_lengths(rng.integers(100, 400, n), rng.integers(100, 900, n))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return search.prepare(pool(), VLLM)


@pytest.fixture(scope="module")
def choice(problem: Problem) -> Choice:
    return search.choose_for(problem)


@pytest.mark.parametrize("engine", FLAVOURS)
def test_every_engine_runs_at_the_limit_that_is_asked_for(engine: str) -> None:
    asked = Settings(engine=engine, max_running=320)
    usual = Settings(engine=engine).flavour()
    assert asked.flavour() == replace(usual, max_running=320)
    assert asked.flavour(token_budget=512).max_running == 320
    assert asked.flavour(max_running=64).max_running == 64
    assert asked.for_engine("vllm").max_running == 320


def test_a_limit_may_be_above_the_engine_s_own() -> None:
    settings = Settings(engine="vllm", token_budget=8_192, max_running=4_096)
    assert settings.flavour().most_running == 4_096 > OWN


def test_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="--max-running 0 must be at least 1 request; leave it"):
        Settings(max_running=0)
    with pytest.raises(InputError, match=r"below the running limit 320: .* or lower the limit"):
        Settings(token_budget=256, max_running=320).flavour()
    with pytest.raises(InputError, match="max_num_active_seqs = 64 is above the running limit 32"):
        Settings(engine="vllm", max_running=32, knobs=Knobs(max_num_active_seqs=64)).flavour()


def test_a_limit_that_is_asked_for_gives_way_to_budgets_that_are_tried() -> None:
    problem = search.prepare(pool(20), replace(VLLM, max_running=1_000))
    assert other_budgets(problem, 8_192) == [256, 384, 512, 1_024, 2_048, 4_096]
    limits = [find_engine(problem, "vllm", n).max_running for n in (256, 512, 1_024, 2_048)]
    assert limits == [256, 512, 1_000, 1_000]


def test_a_plan_of_a_smaller_budget_keeps_the_limit_that_it_ran_at() -> None:
    """Long prompts with short answers beside short ones with long answers."""
    workload = from_lengths([3_000] * 150 + [20] * 150, [10] * 150 + [800] * 150)
    settings = Settings(max_running=2_048, sample=1.0, gpu="h200", profile="imported")
    plain = search.choose(workload, replace(settings, max_running=None))
    limited = search.choose(workload, settings)
    assert plain.chosen.token_budget < 2_048
    assert limited.chosen.token_budget == plain.chosen.token_budget
    assert limited.chosen.seconds == plain.chosen.seconds
    kept = remembered(limited.plan.meta["settings"], "plan")
    assert kept.max_running == limited.chosen.max_running <= kept.token_budget
    again = search.simulate_plan(workload, limited.plan, kept)
    assert again.row.seconds == limited.chosen.seconds


def test_a_server_is_told_the_limit() -> None:
    told = flags_assumed(replace(VLLM, max_running=320))
    assert "--max-num-seqs 320 " in told[0]
    told = flags_assumed(replace(VLLM, engine="sglang", max_running=320))
    assert "--max-running-requests 320 " in told[0]


def test_who_preempts_takes_a_lower_limit_and_is_faster(choice: Choice) -> None:
    chosen, usual = choice.chosen, choice.rows[0]
    assert chosen.max_running in RUNNING_LIMITS
    assert {row.max_running for row in choice.rows[:-1]} == {OWN}
    assert usual.preempted_tokens > chosen.preempted_tokens
    best = min(row.seconds or np.inf for row in choice.rows[:-1])
    assert chosen.seconds is not None
    assert chosen.seconds < (1 - WORTH) * best


def test_the_best_limit_of_the_leading_policies_is_taken(problem: Problem, choice: Choice) -> None:
    """A policy that is close at the engine's own limits may be the one at a lower limit."""
    engines = lower_limits(problem, [find_engine(problem, "vllm", choice.chosen.token_budget)])
    least = min(row.predicted_seconds for row in choice.rows[:-1])
    close = [r.policy for r in choice.rows[:-1] if r.predicted_seconds <= least * (1 + CLOSE)]
    seconds = {
        (policy, engine.max_running): log_in(
            problem, search.plan_policy(problem, policy), engine, problem.drawn
        ).end
        for policy in close
        for engine in engines
    }
    chosen = choice.chosen
    assert chosen.predicted_seconds == min(seconds.values())
    assert chosen.predicted_seconds == seconds[chosen.policy, chosen.max_running]


def test_the_plan_names_its_limit_and_runs_as_predicted(choice: Choice) -> None:
    kept, chosen = settings_of(choice.plan), choice.chosen
    assert kept.max_running == chosen.max_running
    row = search.simulate_plan(pool(), choice.plan, kept).row
    assert (row.seconds, row.predicted_seconds) == (chosen.seconds, chosen.predicted_seconds)
    assert row.max_running == chosen.max_running


def test_a_row_s_engine_is_the_one_it_ran_on(problem: Problem, choice: Choice) -> None:
    engine = engine_of(problem, choice.chosen)
    assert log_in(problem, choice.plan, engine, problem.drawn).end == choice.chosen.seconds


def test_the_limit_is_told_where_it_is_not_the_engine_s_own(choice: Choice) -> None:
    limit = f"{choice.chosen.max_running:,}"
    usual = choice.rows[0]
    same = usual.token_budget == choice.chosen.token_budget
    budget = "" if same else f", {choice.chosen.token_budget:,}"
    name = f"{choice.chosen.policy}{budget}, {limit} at a time"
    assert policy_labels(choice.rows) == [*IN_LINE, name]
    assert f"with at most {limit} requests at a time is chosen" in choice.advice[0]
    assert f"{OWN:,}, where it is" in choice.advice[0]


def test_a_limit_that_a_small_budget_lowers_is_not_told(choice: Choice) -> None:
    usual = choice.rows[0]
    small = replace(usual, token_budget=512, max_running=512)
    assert policy_labels([usual, small]) == [usual.policy, f"{usual.policy}, 512"]
    both = replace(small, max_running=320)
    assert policy_labels([usual, both])[1] == f"{usual.policy}, 512, 320 at a time"


@pytest.mark.parametrize(
    "asked",
    [
        {"max_running": OWN},
        {"planner": "dfs"},
        {"engine": "vllm-planned"},
        {"knobs": Knobs(max_num_active_seqs=512)},
        {"kv_bytes": 60 * 10**9},  # nobody is preempted
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_no_limit_is_tried_otherwise(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def watched(problem: Problem, plan: Any, flavour: Any, lengths: Any) -> Timed:
        ran.append(flavour)
        return timed_in(problem, plan, flavour, lengths)

    monkeypatch.setattr(budgets, "timed_in", watched)
    if "kv_bytes" in asked:  # the longest answers first gain without preemptions, too
        usual = tuple(name for name in IN_LINE if name not in LONGEST_FIRST)
        monkeypatch.setattr("blendsim.settings.IN_LINE", usual)
    problem = search.prepare(pool(), replace(VLLM, **asked))
    own = find_engine(problem, problem.settings.engine).most_running
    rows = search.choose_for(problem).rows
    assert all(one.most_running == min(own, one.token_budget) for one in ran)
    assert all(row.max_running == min(own, row.token_budget) for row in rows)


def test_where_lengths_are_not_known_the_limit_gains_in_worlds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lengths that no sample saw change neither the limit nor the plan."""
    settings, workload = replace(VLLM, sample=0.1), pool()
    first = search.choose(workload, settings)
    assert first.chosen.max_running in RUNNING_LIMITS, "or this says nothing"
    seen = np.zeros(len(workload), np.bool_)
    seen[first.plan.order] = first.plan.is_visible
    longer = np.where(seen, workload.output_len, workload.output_len + 50)
    second = search.choose(replace(workload, output_len=longer), settings)
    assert second.chosen.max_running == first.chosen.max_running
    assert second.chosen.predicted_seconds == first.chosen.predicted_seconds
    monkeypatch.setattr(budgets, "sure_gain", lambda *_: 0.0)
    assert search.choose(workload, settings).chosen.max_running == OWN


@pytest.mark.parametrize("more", [{}, {"dp": 2}, {"dp": 2, "steals": True}], ids=str)
@pytest.mark.parametrize("kv_bytes", [8 * 10**9, 60 * 10**9])
def test_preempting_is_seen_without_a_log(more: dict[str, Any], kv_bytes: int) -> None:
    problem = search.prepare(pool(), replace(VLLM, kv_bytes=kv_bytes, **more))
    plan, flavour = search.plan_policy(problem, "dfs"), find_engine(problem, "vllm")
    log = log_in(problem, plan, flavour, problem.drawn)
    found = timed_in(problem, plan, flavour, problem.drawn).preempts
    assert found == bool(log.count("preempted").any()) == (kv_bytes < 10**10)


def test_greedy_baselines_are_compared_at_their_best_limit(problem: Problem) -> None:
    done = search.compare(pool(), VLLM, named_baselines("vllm,vllm-planned"))
    row = next(row for row in done.rows if row.policy == "vLLM-DFS")
    own = next(row for row in done.common if row.policy == "vLLM-DFS")
    assert own.max_running == OWN
    assert row.max_running in RUNNING_LIMITS
    asked = search.compare(pool(), replace(VLLM, max_running=OWN), named_baselines("vllm"))
    usual = next(row for row in asked.rows if row.policy == "vLLM-DFS")
    assert row.predicted_seconds < (1 - WORTH) * usual.predicted_seconds
    alike = rf"vLLM-DFS(, vLLM-DFS-Longest)? at most {row.max_running}\b"
    assert re.search(alike, limits_told(done.rows, done.common)[0])
    assert limits_told(asked.rows, asked.common) == []
    greedy = {row.policy for row in done.rows if row.lower_limit(own)}
    assert all(row.engine == "vllm" for row in done.rows if row.policy in greedy)


def test_each_system_to_rent_runs_at_its_best_limit(choice: Choice, tmp_path: Path) -> None:
    rental = rent(pool(), find_candidates(VLLM, ["h200"], [1], [1]), Goal())
    assert rental.chosen is not None
    assert rental.plan is not None
    assert rental.chosen.row.max_running == choice.chosen.max_running
    assert rental.chosen.policy == policy_labels(choice.rows)[-1]
    write_plan(rental.plan, tmp_path / "a")
    write_plan(choice.plan, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_keeps_the_limit_its_engine_has() -> None:
    workload = pool(100)
    nothing = np.zeros(len(workload), np.int64)
    blind = replace(workload, output_len=nothing, has_output=nothing > 0)
    rest = search.prepare_rest(blind, VLLM, np.arange(50), nothing == 0, workload.output_len)
    assert rest.settings.max_running == OWN
    assert {row.max_running for row in search.choose_for(rest).rows} == {OWN}


def test_a_search_varies_the_limit_of_greedy_engines(problem: Problem) -> None:
    space = Space(axes_of(problem), plain(problem))
    names = [axis.name for axis in space.axes]
    k, at = names.index("running limit"), names.index("token budget")
    axis = space.axes[k]
    assert axis.values == (*RUNNING_LIMITS, OWN)
    usual = space.fixed()[0]
    engines = {}
    for value in range(len(axis.values)):
        point = space.tidy((*usual[:k], value, *usual[k + 1 :]))
        settings = space.schedule(point).settings
        engines[axis.values[value]] = settings.flavour().max_running
    assert engines == {n: n for n in axis.values}
    small = space.axes[at].values.index(256)
    points = [(*usual[:at], small, *usual[at + 1 : k], v, *usual[k + 1 :]) for v in range(9)]
    tidied = [space.tidy(point) for point in points]
    limits = [space.schedule(point).settings.flavour().max_running for point in tidied]
    assert limits == [96, 128, 192, *[256] * 6]
    assert len(set(tidied)) == 4, "what a budget lowers is one point"


@pytest.mark.parametrize("asked", [{"max_running": 320}, {"engine": "vllm-planned"}], ids=str)
def test_a_search_leaves_other_limits_alone(asked: dict[str, Any]) -> None:
    made = search.prepare(pool(20), replace(VLLM, **asked))
    assert "running limit" not in [axis.name for axis in axes_of(made)]


def test_commands_take_tell_and_keep_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workload = pool()
    pairs = zip(workload.prompt_len.tolist(), workload.output_len.tolist(), strict=True)
    lines = ["num_prefill_tokens,num_decode_tokens", *(f"{p},{d}" for p, d in pairs)]
    Path("trace.csv").write_text("\n".join(lines) + "\n")
    Path("c.toml").write_text("[settings]\nkv_bytes = 8_000_000_000\n")
    of = ("--trace", "trace.csv", "--gpu", "h200", "--engine", "vllm", "--sample", 1)
    made = run_json("plan", *of, "--config", "c.toml", "-o", "plan.parquet")
    assert made["max_running"] in RUNNING_LIMITS
    args = made["server"]["args"]
    assert args[args.index("--max-num-seqs") + 1] == str(made["max_running"])
    again = run_json("simulate", "plan.parquet", "-o", "log.parquet")
    for key in ("predicted_seconds", "seconds", "token_budget", "max_running"):
        assert again[key] == made[key], key
    assert run_json("report", "log.parquet")["max_running"] == made["max_running"]
    other = run_json("simulate", "plan.parquet", "--max-running", 64, "-o", "other.parquet")
    assert other["max_running"] == 64 >= other["most_running"]
    run("report", "log.parquet", "--against", "other.parquet", "-o", "page.html")
    page = Path("page.html").read_text()
    assert f"tokens a step and {made['max_running']:,} requests at a time" in page
    assert "tokens, 64 at a time" in page
    Path("c.toml").write_text("[settings]\nkv_bytes = 8_000_000_000\nmax_running = 128\n")
    asked = run_json("plan", *of, "--config", "c.toml")
    assert {row["max_running"] for row in asked["rows"]} == {128}


def test_the_limit_of_a_plan_gives_way_to_a_smaller_budget(tmp_path: Path) -> None:
    trace, plan = tmp_path / "pool.csv", tmp_path / "plan.parquet"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "40,20\n" * 90)
    run("plan", "--trace", trace, "--engine", "vllm", "--max-running", 64, "-o", plan)
    for budget, limit in ((32, 32), (256, 64)):
        told = run_json("simulate", plan, "--token-budget", budget)
        assert (told["token_budget"], told["max_running"]) == (budget, limit)
    line = run("simulate", plan, "--token-budget", 32, "--max-running", 64, code=2)
    assert "token budget 32 is below the running limit 64" in line
