"""simulate on other hardware than the plan was made for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run, run_json
from test_cli_errors import complaint
from test_cli_plan import folder

from blendsim import search
from blendsim.cli.elsewhere import pacing_notes
from blendsim.pacing import Gains, Pacing
from blendsim.perf.store import OVERLAP_FILE, profiles_directory
from blendsim.plan import Plan
from blendsim.request import from_lengths
from blendsim.settings import Settings
from blendsim.steplog import read_steplog

__all__ = ["folder"]

PACED_FOR = "its steps are paced for a100-80g (overlap table, profile imported), and run on "
PLAN = ("plan", "--trace", "trace.csv", "--planner")


def test_another_gpu_runs_the_plans_order_by_its_own_figures(folder: Path) -> None:
    """Prefix order is the same for every GPU, so a plan for the other one is the same run."""
    run(*PLAN, "dfs", "-o", "plan.parquet")
    here = run_json("simulate", "plan.parquet")
    there = run_json("simulate", "plan.parquet", "--gpu", "h200", "-o", "steps.parquet")
    planned = run_json(*PLAN, "dfs", "--gpu", "h200")
    assert there["seconds"] == planned["seconds"] < here["seconds"]
    assert there["optimum_seconds"] == planned["optimum_seconds"]
    further = [note for note in there["notes"] if note not in here["notes"]]
    assert len(further) == 1, "nothing in it is paced"
    assert further[0].startswith("kernels of h200 and how they overlap are as measured there")
    assert read_steplog(folder / "steps.parquet").meta["settings"]["gpu"] == "h200"
    assert "on 1 × h200" in run("simulate", "plan.parquet", "--gpu", "h200")


def test_another_overlap_and_profile_price_the_same_steps(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\nprofile = "measured"\n')
    run(*PLAN, "dfs", "--gpu", "h200", "--profile", "imported", "-o", "plan.parquet")
    as_made = run_json("simulate", "plan.parquet")
    assert run_json("simulate", "plan.parquet", "--overlap", "sum")["seconds"] > as_made["seconds"]
    assert run_json("simulate", "plan.parquet", "--profile", "imported") == as_made
    measured = run_json("simulate", "plan.parquet", "--profile", "measured")
    planned = run_json(*PLAN, "dfs", "--gpu", "h200", "--config", "c.toml")
    assert measured["seconds"] == planned["seconds"] != as_made["seconds"]
    by_itself = run_json(*PLAN, "dfs", "--gpu", "h200")
    assert by_itself["seconds"] == planned["seconds"], "where it was measured"


def test_a_copy_of_the_profile_is_no_other_machine(folder: Path) -> None:
    """`profile calibrate` makes one, which has no overlap of its own."""
    place = Path("a100-80g/llama-3.1-8b/tp1")
    shutil.copytree(profiles_directory() / place, folder / "copy" / place)
    (folder / "c.toml").write_text('[settings]\nprofile = "copy"\n')
    run(*PLAN, "paced", "--config", "c.toml", "-o", "plan.parquet")
    notes = run_json("simulate", "plan.parquet", "--profile", "copy", "--overlap", "auto")["notes"]
    assert not [note for note in notes if "its steps are paced for" in note]


def test_an_impossible_budget_is_called_by_its_own_name(folder: Path) -> None:
    run(*PLAN, "dfs", "--engine", "vllm", "--max-running", 64, "-o", "plan.parquet")
    line = complaint(folder, "simulate", "plan.parquet", "--token-budget", "-1")
    assert "token budget -1 must be at least 1 token a step" in line
    row = run_json("simulate", "plan.parquet", "--token-budget", 32)
    assert (row["token_budget"], row["max_running"]) == (32, 32)


def test_a_directory_may_be_the_profile(folder: Path) -> None:
    run(*PLAN, "dfs", "-o", "plan.parquet")
    line = complaint(folder, "simulate", "plan.parquet", "--profile", "nowhere")
    assert "profile 'nowhere': no nowhere/a100-80g/llama-3.1-8b/tp1" in line
    for place in ("h100/llama-3.1-8b/tp1", *(f"b200/m{k}/tp1" for k in range(9))):
        (folder / "mine" / place).mkdir(parents=True)
    line = complaint(folder, "simulate", "plan.parquet", "--profile", "mine")
    assert (
        "there are b200/m0/tp1, b200/m1/tp1, b200/m2/tp1, b200/m3/tp1, b200/m4/tp1 and 5 more; "
        "measure it"
    ) in line


@pytest.mark.usefixtures("folder")
def test_a_paced_plan_says_that_it_is_paced_for_another_machine() -> None:
    run(*PLAN, "paced", "-o", "plan.parquet")
    plain = run_json("simulate", "plan.parquet")
    same = run_json("simulate", "plan.parquet", "--gpu", "a100-80g", "--overlap", "table")
    assert same == plain, "what it was made for, by name"
    moved = run_json("simulate", "plan.parquet", "--gpu", "h100")
    told = f"{PACED_FOR}h100 (overlap table, profile imported); a plan for that may take less"
    *before, borrowed = moved["notes"]
    assert before == [*plain["notes"], told]
    assert borrowed.startswith("compute beside memory reads on h100 is priced as NanoFlow")


@pytest.fixture(scope="module")
def paced() -> Plan:
    """Its pacing is any; only that there is one counts."""
    problem = search.prepare(from_lengths([300] * 40, [20] * 40), Settings())
    pacing = Pacing(Gains(), (128,), (1e-3,), ((1.0, 0.0), (0.0, 1.0)), 1e-9, (1.0,))
    return replace(search.plan_policy(problem, "blend"), pacing=pacing)


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"gpu": "h200"}, "h200 (overlap fit, profile measured)"),
        ({"gpu": "h100"}, "h100 (overlap table, profile imported)"),
        ({"overlap": "sum"}, "a100-80g (overlap sum, profile imported)"),
        ({"profile": "here"}, "a100-80g (overlap fit, profile here)"),
        ({"profile": "copy"}, "a100-80g (overlap table, profile copy)"),
        ({"overlap": "table"}, None),
        ({"engine": "vllm", "token_budget": 512}, None),
        ({"gpu": "h200", "engine": "sglang"}, None),  # which serves a paced plan by dual scan
        ({"gpu": "h200", "topology": "1P1D"}, None),  # where nothing is paced
        ({"gpu": "h200", "steals": True}, None),
    ],
    ids=str,
)
def test_pacing_is_told_of_where_steps_are_paced(
    paced: Plan,
    changes: dict[str, object],
    ending: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "copy"):
        (tmp_path / name / "a100-80g/llama-3.1-8b/tp1").mkdir(parents=True)
    (tmp_path / "here/a100-80g/llama-3.1-8b/tp1" / OVERLAP_FILE).touch()
    notes = pacing_notes(paced, Settings(), replace(Settings(), **changes))  # type: ignore[arg-type]
    told = f"{PACED_FOR}{ending}; a plan for that may take less"
    assert notes == ([] if ending is None else [told])
    unpaced = replace(paced, pacing=None)
    assert pacing_notes(unpaced, Settings(), replace(Settings(), **changes)) == []  # type: ignore[arg-type]


def test_requests_that_the_other_gpu_cannot_hold_are_refused(folder: Path) -> None:
    """70B on four GPUs: 131,072 tokens fit on h100s, 73,856 on l40s."""
    (folder / "c.toml").write_text('[settings]\nmodel = "llama-3.1-70b"\ntp = 4\ngpu = "h100"\n')
    with (folder / "trace.csv").open("a") as file:
        file.write("80000,10\n200000,10\n")  # one that only l40s lack room for, one that both do
    run(*PLAN, "dfs", "--config", "c.toml", "--skip-oversize", "-o", "plan.parquet")
    line = complaint(folder, "simulate", "plan.parquet", "--gpu", "l40s", "-o", "steps.parquet")
    assert line == (
        "error: 1 of the plan's 151 requests, 150 the first, are longer than the 73,856 tokens "
        "that fit on 4 × l40s; choose a larger --gpu, or plan for this one"
    )


def test_a_roomier_gpu_keeps_the_pool_that_the_plan_is_for(folder: Path) -> None:
    """What was left out as too long for the plan's machine stays out on one that would hold it."""
    (folder / "c.toml").write_text('[settings]\nmodel = "llama-3.1-70b"\ntp = 4\ngpu = "l40s"\n')
    with (folder / "trace.csv").open("a") as file:
        file.write("80000,10\n")
    asked = (*PLAN, "dfs", "--config", "c.toml", "--skip-oversize", "-o", "plan.parquet")
    assert run_json(*asked)["requests"] == 150
    assert run_json("simulate", "plan.parquet", "--gpu", "h100")["requests"] == 150


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ((), ("--gpu", "a100"), ["unknown GPU 'a100'", "a100-80g"]),
        ((), ("--overlap", "tabel"), ["unknown overlap 'tabel'", "table"]),
        (
            (),
            ("--profile", "measured"),
            ["profile 'measured'", "h200/measured/llama-3.1-8b/tp1", "add --profile imported"],
        ),
        (
            ("--gpu", "h200", "--profile", "measured"),
            ("--gpu", "h100"),
            ["profile 'measured'", "h100/measured", "; measure it", "or add --profile imported"],
        ),
        (("--tp", "2"), ("--gpu", "h200", "--profile", "measured"), ["measured/llama-3.1-8b/tp2"]),
        (("--model", "qwen3-32b", "--gpu", "h200"), ("--gpu", "l40s"), ["leaves no KV cache on 1"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(
    folder: Path, made: tuple[str, ...], asked: tuple[str, ...], words: list[str]
) -> None:
    run(*PLAN, "dfs", *made, "-o", "plan.parquet")
    line = complaint(folder, "simulate", "plan.parquet", *asked, "-o", "steps.parquet")
    assert [word for word in words if word not in line] == [], line


@pytest.mark.usefixtures("folder")
def test_a_wrong_gpu_does_not_wait_for_the_traces(folder: Path) -> None:
    run(*PLAN, "dfs", "-o", "plan.parquet")
    (folder / "trace.csv").unlink()
    assert "unknown GPU" in complaint(folder, "simulate", "plan.parquet", "--gpu", "tpu")


def test_the_way_out_of_a_plans_own_profile_leads_out(folder: Path) -> None:
    run(*PLAN, "dfs", "--gpu", "h200", "--profile", "measured", "-o", "plan.parquet")
    asked = ("simulate", "plan.parquet", "--gpu", "h100")
    assert "or add --profile imported" in complaint(folder, *asked)
    assert run_json(*asked, "--profile", "imported")["seconds"] > 0


def test_json_is_one_object_with_the_note(folder: Path) -> None:
    run(*PLAN, "paced", "-o", "plan.parquet")
    told = json.loads(run("simulate", "plan.parquet", "--overlap", "sum", "--json"))
    assert told["notes"][-1].startswith(PACED_FOR)
    text = " ".join(run("simulate", "plan.parquet", "--overlap", "sum").split())
    assert f"Note: {PACED_FOR}" in text
