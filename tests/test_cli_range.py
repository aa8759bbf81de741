"""How far a prediction may be off, and which of the given lengths it looked at, as `plan` tells."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from test_cli_export import batch

from blendsim import search
from blendsim.cli.ranges import range_told
from blendsim.plan import read_plan
from blendsim.report.tables import seconds as in_seconds
from blendsim.search import budgets
from blendsim.search.problem import with_worlds
from blendsim.search.spread import Spread
from blendsim.search.world_run import seconds_in
from blendsim.settings import Settings
from blendsim.traces.load import load_pool

MIXED = "demo:mixed?n=400"


def told(*args: object) -> Any:
    done = invoke("plan", *args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plan_tells_its_seconds_in_other_worlds() -> None:
    found = told("--trace", MIXED, "--sample", 0.1)
    assert len(found["worlds"]) == 8
    assert found["worlds"] == sorted(found["worlds"])
    assert found["worlds"][0] < found["worlds"][-1]
    shown = invoke("plan", "--trace", MIXED, "--sample", 0.1).stdout
    low, high = (f"{found['worlds'][k]:,.1f}" for k in (0, -1))
    assert f"the plan takes {low} to {high} s" in " ".join(shown.split())


def test_a_plan_tells_how_many_output_lengths_it_sees(tmp_path: Path) -> None:
    given, plan = ("--trace", MIXED, "--sample", 0.1, "--planner", "dfs"), tmp_path / "p.parquet"
    seen = told(*given, "-o", plan)["visible"]
    assert 40 <= seen == read_plan(plan).is_visible.sum() < 400
    shown = " ".join(invoke("plan", *given).stdout.split("\n\n")[0].split())
    assert shown.endswith(f"engine nanoflow. Of 400 output lengths planning sees {seen}.")
    known = ("--trace", MIXED, "--sample", 1, "--planner", "dfs")
    assert told(*known)["visible"] == 400
    assert "planning sees" not in invoke("plan", *known).stdout


def test_the_range_is_that_of_the_chosen_plan_in_worlds_that_did_not_choose_it() -> None:
    found = told("--trace", MIXED, "--sample", 0.1, "--gpu", "h200")
    settings = Settings(sample=0.1, gpu="h200")
    problem = search.prepare(load_pool([MIXED]), settings)
    choice = search.choose_for(problem)
    flavour = settings.flavour(token_budget=choice.chosen.token_budget)
    worlds = with_worlds(problem, budgets.CHOOSING_WORLDS + 8).worlds
    seconds = [seconds_in(problem, choice.plan, flavour, world) for world in worlds]
    assert found["worlds"] == sorted(seconds[budgets.CHOOSING_WORLDS :])


@pytest.mark.parametrize(
    ("true", "is_told"),
    [(98.0, True), (99.1, False), (100.0, False), (105.0, False), (111.0, False), (111.2, True)],
)
def test_true_seconds_far_outside_the_range_are_told(true: float, is_told: bool) -> None:
    """By more than 1 %."""
    [said] = range_told(Spread([100.0, 104.0, 110.0], 9, 0), 105.0, true=true)
    outside = (
        f" On the true lengths it takes {true:.1f} s, outside this range: what planning saw told "
        "too little."
    )
    assert said.endswith("the plan takes 100.0 to 110.0 s." + outside * is_told)


@pytest.mark.parametrize(
    ("predicted", "is_told"), [(99.5, True), (100.0, False), (109.9, False), (111.0, True)]
)
def test_the_mean_is_told_where_the_predicted_world_is_unusual(
    predicted: float, is_told: bool
) -> None:
    """By more than 5 % of it."""
    [said] = range_told(Spread([101.0, 104.0, 109.5], 9, 0), predicted)
    mean = (
        f" The predicted {predicted:.1f} s are of one such world: reckon with 104.8 s, the mean of "
        "the 3."
    )
    assert said.endswith(mean) == is_told
    assert ("reckon with" in said) == is_told
    [guessed] = range_told(Spread([101.0, 104.0, 109.5], 9, 9), predicted)
    assert "reckon with" not in guessed  # of which half to double is said


def test_the_command_tells_them_where_the_trace_has_all_lengths(tmp_path: Path) -> None:
    """One answer of many, and no other seen, is longer than any that a world draws."""
    rows = ["1000,20"] * 300 + ["1000,6000"]
    trace = tmp_path / "trace.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows) + "\n")
    given = ("--trace", trace, "--planner", "dfs", "--sample", 0.1)
    found = told(*given)
    assert found["seconds"] > found["worlds"][-1]
    shown = " ".join(invoke("plan", *given).stdout.split())
    outside = f"On the true lengths it takes {in_seconds(found['seconds'])} s, outside this range"
    assert outside in shown
    several = " ".join(invoke("plan", *given, "--deadline", "1h").stdout.split())
    assert outside in several
    blind = invoke("plan", "--trace", batch(tmp_path / "b.jsonl", 30), "--trace", trace, *given[2:])
    assert "On the true lengths it takes" not in blind.stdout


def test_requests_whose_lengths_are_guessed_in_all_worlds_are_told(tmp_path: Path) -> None:
    trace = batch(tmp_path / "batch.jsonl", 30)
    shown = " ".join(invoke("plan", "--trace", MIXED, "--trace", trace).stdout.split())
    assert "30 requests are of sources without a sampled length" in shown
    alone = told("--trace", trace)["worlds"]
    assert len(alone) == 8, "nothing is sampled: all is guessed, and differs from world to world"
    assert alone[0] < alone[-1]
    shown = " ".join(invoke("plan", "--trace", trace).stdout.split())
    assert f"in 8 worlds in which it is wrong the plan takes {in_seconds(alone[0])} to " in shown
    assert "sample allows" not in shown
    assert "On the true lengths" not in shown, "there are none"


@pytest.mark.parametrize("asked", [("--sample", 1), ("--topology", "1P1D"), ("--evaluations", 3)])
def test_no_range_where_there_is_one_world_or_another_tells_it(asked: tuple[object, ...]) -> None:
    assert told("--trace", MIXED, *asked)["worlds"] == []
    assert "worlds that the sample allows the plan" not in (
        invoke("plan", "--trace", MIXED, *asked).stdout
    )


def results(path: Path, lengths: dict[str, int]) -> Path:
    """An earlier run's results, as far as planning reads them."""
    rows = [
        {"custom_id": name, "response": {"body": {"usage": {"completion_tokens": length}}}}
        for name, length in lengths.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lengths_that_are_given_and_not_looked_at_are_told(tmp_path: Path) -> None:
    trace = batch(tmp_path / "batch.jsonl", 60)
    lengths = results(tmp_path / "results.jsonl", {f"r{k}": 3 + k for k in range(50)})
    given = ("--trace", trace, "--lengths", lengths, "--sample", 0.01)
    seen = [one for one in told(*given)["notes"] if "planning looked at" in one]
    looked = int(seen[0].split("planning looked at ")[1].split(",")[0])
    assert seen[0].startswith("of the 50 output lengths that are given planning looked at ")
    assert 0 < looked < 50
    few = results(tmp_path / "few.jsonl", {f"r{k}": 3 + k for k in range(30)})
    small = ("--trace", batch(tmp_path / "small.jsonl", 30), "--lengths", few, "--sample", 0.01)
    for asked in (given[:-2], ("--trace", trace), small):  # of so few all are sampled
        assert not any("planning looked at" in one for one in told(*asked)["notes"])


def test_lengths_that_are_given_are_planned_by_unless_a_sample_is_asked_for(tmp_path: Path) -> None:
    lengths = results(tmp_path / "results.jsonl", {f"r{k}": 3 + k for k in range(50)})
    given = ("--trace", batch(tmp_path / "batch.jsonl", 60), "--lengths", lengths)
    plan, config = tmp_path / "plan.parquet", tmp_path / "c.toml"
    config.write_text("[settings]\nsample = 0.5\n")
    for more, is_all in (((), True), (("--sample", 1), True), (("--config", config), False)):
        told(*given, *more, "-o", plan)
        assert (read_plan(plan).is_visible.sum() == 50) == is_all
    row = told(*given)
    assert any("looks at all 50 output lengths that are given" in note for note in row["notes"])
    again = "50 requests that are answered are planned again"
    assert any(again in note for note in row["notes"])
    reported = row["reachable_seconds"] / row["share_of_reachable"]
    assert row["predicted_seconds"] == pytest.approx(reported), "one run is both"


def test_a_guess_of_the_answers_moves_the_prediction_and_stays_in_the_plan(tmp_path: Path) -> None:
    given = ("--trace", batch(tmp_path / "batch.jsonl", 40), "--planner", "dfs")
    plan = tmp_path / "plan.parquet"
    short = told(*given, "--output-guess", 5)
    long = told(*given, "--output-guess", 60, "-o", plan)
    assert short["predicted_seconds"] < long["predicted_seconds"]
    again = json.loads(invoke("simulate", plan, "--json").stdout)
    assert again["predicted_seconds"] == long["predicted_seconds"]
    refused = invoke("plan", *given, "--output-guess", 0)
    assert refused.exit_code == 2
    assert "--output-guess 0" in refused.stderr


def test_what_to_rent_is_told_its_range_and_how_often_it_is_late() -> None:
    given = ("--trace", MIXED, "--sample", 0.1, "--gpu", "a100-80g,l40s")
    found = told(*given)
    assert found["chosen"]["gpu"] == "a100-80g"
    worlds = found["worlds"]
    assert worlds == told(*given[:4], "--gpu", "a100-80g")["worlds"]
    seconds = found["chosen"]["predicted_seconds"]
    deadline = max(seconds, (worlds[3] + worlds[4]) / 2)
    late = sum(world > deadline for world in worlds)
    assert late > 1, "or this says nothing"
    shown = " ".join(invoke("plan", *given, "--deadline", f"{deadline!r}s").stdout.split())
    assert f"In {late} of them it misses the deadline of " in shown
    assert "No system meets what is asked reliably." in shown
    assert f"deadline {late}/8" in shown
    assert "misses the deadline of" not in invoke("plan", *given, "--deadline", "9h").stdout
    assert told(*given[:2], "--sample", 1, *given[4:])["worlds"] == []


@pytest.mark.parametrize("more", [(), ("--deadline", "9h")])
def test_a_range_has_the_predicted_run_in_it(
    monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    from blendsim.search import reliable, spread

    given = ("plan", "--trace", MIXED, "--sample", 0.1, "--planner", "dfs", *more)
    row = json.loads(invoke(*given, "--json").stdout)
    seconds = row.get("chosen", row)["predicted_seconds"] if more else row["predicted_seconds"]
    for worlds, low, high, itself in (
        ([seconds - 2, seconds - 1], seconds - 2, seconds, " and in the predicted one"),
        ([seconds + 1, seconds + 2], seconds, seconds + 2, " and in the predicted one"),
        ([seconds - 1, seconds + 1], seconds - 1, seconds + 1, ""),
    ):
        found = spread.Spread(worlds, 9, 0)
        for room in (spread, reliable):
            monkeypatch.setattr(room, "spread", lambda *_, found=found, **__: found)
        told = " ".join(invoke(*given).stdout.split())
        assert (
            f"in 2 worlds that the sample allows{itself} the plan takes {low:,.1f} to {high:,.1f} s"
        ) in told
        if not more:
            assert json.loads(invoke(*given, "--json").stdout)["worlds"] == worlds


def test_lengths_that_nobody_sampled_are_called_unknown(tmp_path: Path) -> None:
    lengths = results(tmp_path / "results.jsonl", {f"r{k}": 3 + k for k in range(50)})
    given = ("plan", "--trace", batch(tmp_path / "batch.jsonl", 60), "--lengths", lengths)
    for more in ((), ("--gpu", "a100-80g,h200")):
        told = " ".join(invoke(*given, "--planner", "dfs", *more).stdout.split())
        assert "lengths that are not known: in 8 worlds that the known ones allow" in told
