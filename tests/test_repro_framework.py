"""The framework of paper_repro: tables and claims on disk, verdicts, what is measured again, and
quick results of the end-to-end claims as committed.

`python tests/test_repro_framework.py` writes the committed results anew.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blendsim.errors import InputError
from blendsim.request import from_lengths
from blendsim.settings import Settings
from blendsim.synth.recipes import Recipe
from paper_repro import __main__ as entry
from paper_repro import code, comparison, fig07, fig08, fig09, grids, runner, table3
from paper_repro.__main__ import RESULTS
from paper_repro.claims import modules, near, read_claims
from paper_repro.lab import REPOSITORY, Lab
from paper_repro.runs import with_longest
from paper_repro.systems import BALANCE, BLEND, DFS, POOLS, SGLANG, SYSTEMS, VLLM, system
from paper_repro.table import Table, read_facts, read_table, write_table

EXPECTED = REPOSITORY / "paper_repro" / "expected"
KEPT = {"fig10": ("runs",)}  # module → its tables that are committed, of a quick run on generators


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = Table(("a", "b", "c", "d"), (("x", 1, 0.5, True), ("y", -2, 1e-9, None)))
    write_table(table, tmp_path / "m_t.csv", {"module": "m"})
    assert read_table(tmp_path / "m_t.csv") == table
    assert read_facts(tmp_path / "m_t.csv")["module"] == "m"


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no result table of schema"):
        read_table(tmp_path / "x.csv")


def test_every_claim_names_a_module_that_can_be_run() -> None:
    for claim in read_claims().values():
        module = runner.load(claim.module)
        assert callable(module.measure)
        assert callable(module.verdicts)
        assert claim.command == f"python -m paper_repro run {claim.module} --data DIR"
        assert claim.tolerance is None or claim.value is not None


@pytest.mark.parametrize(
    ("off", "holds"), [(0.0, True), (0.029, True), (0.031, False), (-0.031, False)]
)
def test_a_number_holds_within_its_tolerance_and_misses_beyond(off: float, holds: bool) -> None:
    claim = read_claims()["fig07-8b-dfs"]
    assert claim.value is not None
    assert near("fig07-8b-dfs", claim.value + off, "").holds is holds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A claim module that counts how often it is measured."""
    module = SimpleNamespace(count=0)

    def measure(lab: Lab) -> dict[str, Table]:
        module.count += 1
        return {"t": Table(("seed",), ((lab.seed,),))}

    module.measure = measure
    monkeypatch.setattr(runner, "load", lambda _: module)
    return module


def test_a_module_is_done_only_for_the_same_inputs(tmp_path: Path, fake: SimpleNamespace) -> None:
    lab = Lab()
    assert not runner.is_done("fig09", lab, tmp_path)
    assert runner.measure("fig09", lab, tmp_path).error == ""
    assert fake.count == 1
    assert runner.is_done("fig09", lab, tmp_path)
    assert not runner.is_done("fig09", replace(lab, seed=1), tmp_path)
    assert not runner.is_done("fig10", lab, tmp_path)


def test_a_module_with_a_table_missing_is_not_done(tmp_path: Path, fake: SimpleNamespace) -> None:
    fake.measure = lambda _: {"a": Table(("x",), ((1,),)), "b": Table(("x",), ((2,),))}
    runner.measure("fig09", Lab(), tmp_path)
    (tmp_path / "fig09_b.csv").unlink()
    assert not runner.is_done("fig09", Lab(), tmp_path)


def test_a_users_error_and_a_bug_are_told_apart(tmp_path: Path, fake: SimpleNamespace) -> None:
    def fails(error: Exception) -> runner.Outcome:
        def measure(_: Lab) -> dict[str, Table]:
            raise error

        fake.measure = measure
        return runner.measure("fig09", Lab(), tmp_path)

    mended = fails(InputError("give\nanother file"))
    assert (mended.error, mended.is_bug) == ("give another file", False)
    bug = fails(ZeroDivisionError("x"))
    assert bug.is_bug
    assert "ZeroDivisionError" in bug.error
    assert not list(tmp_path.iterdir())


def test_the_command_skips_what_is_there_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paper_repro", "run", "sec65", "--out", str(tmp_path)]
    done = [
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    told = f"writing tables into {tmp_path} and figures into {tmp_path / 'figures'}"
    assert [run.stderr.splitlines()[0] for run in done] == [told, told]
    assert "sec65: measured in" in done[0].stderr
    assert "sec65: is there" in done[1].stderr
    assert "in the mean of" in done[1].stdout
    assert done[0].stdout == done[1].stdout


def test_without_a_directory_it_says_first_that_the_kept_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results, pictures, readme = (tmp_path / name for name in ("results", "pictures", "R.md"))
    readme.write_text(comparison.README.read_text())
    monkeypatch.setattr(comparison, "README", readme)
    monkeypatch.setattr(entry, "RESULTS", results)
    monkeypatch.setattr(entry, "PICTURES", pictures)
    monkeypatch.setattr(sys, "argv", ["paper_repro", "run", "fig06"])
    assert entry.main() == 0
    assert capfd.readouterr().err.splitlines()[0] == (
        f"writing tables into {results}, figures into {pictures}, claims into {readme}; "
        "--out DIR writes elsewhere"
    )
    assert [*results.glob("fig06_*.csv")]
    assert [*pictures.iterdir()]
    assert comparison.shown_parts(results)["claims"] in readme.read_text()


@pytest.mark.parametrize("is_quick", [True, False])
def test_verdicts_of_a_quick_run_are_said_to_say_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_quick: bool,
) -> None:
    asked = ["paper_repro", "run", "fig06", "--no-figures", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*asked, *(["--quick"] if is_quick else [])])
    assert entry.main() == 0
    table, told = capsys.readouterr().out.rsplit("|\n", 1)
    assert table.startswith("| claim |")
    assert told == (f"\n{entry.QUICK}\n" if is_quick else "")


@pytest.mark.parametrize(
    "wrong",
    [["fig99"], ["fig10", "--data", "/no/such"], ["--jobs", "0"], ["fig10", "--seed", "-1"]],
)
def test_wrong_arguments_are_one_line_and_exit_2(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "paper_repro", "run", *wrong]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "writing tables" not in done.stderr


MODULE = '''"""A claim."""
from paper_repro.grids import REQUESTS
LIMIT = 1

def measure(lab):
    return _part(lab)

def _part(lab):
    return LIMIT + REQUESTS

def verdicts(tables):
    return []
'''


@pytest.mark.parametrize(
    ("old", "new", "is_stale"),
    [
        ("A claim.", "Another sentence.", False),
        ("return []", "return [1]", False),
        ("LIMIT = 1", "LIMIT = 2  # of what is measured", True),
        ("LIMIT + REQUESTS", "LIMIT", True),
    ],
)
def test_only_what_measuring_reaches_makes_a_result_stale(
    tmp_path: Path, old: str, new: str, is_stale: bool
) -> None:
    path = tmp_path / "m.py"
    found = []
    for text in (MODULE, MODULE.replace(old, new)):
        path.write_text(text)
        found.append(code.reached(path))
    assert (found[0] != found[1]) is is_stale


def test_all_that_a_measurement_can_import_counts_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "used": "def later():\n    import pack.inner.deep\n",
        "unused": "from pack import used\n",
        "inner/__init__": "from pack.named import one\n",
        "inner/deep": "import os\n",
        "named": "one = 1\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    root = tmp_path / "root.py"
    root.write_text("from pack import used\nimport packet\n")
    found = {str(p.relative_to(package)) for p in code.imported([root], package)}
    assert found == {"__init__.py", "used.py", "inner/__init__.py", "inner/deep.py", "named.py"}


def test_the_simulator_is_part_of_what_measurements_depend_on() -> None:
    package = REPOSITORY / "blendsim"
    found = code.imported((REPOSITORY / "paper_repro").glob("*.py"), package)
    names = {str(path.relative_to(package)) for path in found}
    assert {"serving/core.py", "sim/engine.py", "planner/pace.py", "perf/step.py"} <= names
    assert not any(name.startswith("cli/") for name in names)


def test_a_pool_has_the_density_of_the_system_it_is_for() -> None:
    wanted = Recipe(1.4, 0.35, 6_000)
    small = Lab().pool(wanted)
    large = Lab().pool(wanted, system=Settings(model="llama-3.1-70b", tp=8).system)
    videos = [int((pool.output_len > 1_024).sum()) for pool in (small, large)]
    assert videos[1] > 2 * videos[0]


def test_capping_outputs_leaves_the_others_as_they_are() -> None:
    pool = from_lengths(np.array([5, 5]), np.array([10, 100_000]))
    assert with_longest(pool, 16_384).output_len.tolist() == [10, 16_384]


def runs(rates: dict[str, float]) -> Table:
    """Result rows of one trace on one GPU, or on as many as the system's pools have."""
    return Table.of(
        [
            {"model": fig07.SMALL, "trace": "trace1", "at": "common", "system": name,
             "tokens_per_second": rate, "share_of_optimum": rate / 100, "gpus": 1}
            for name, rate in rates.items()
        ]
    )  # fmt: skip


def test_verdicts_see_a_baseline_that_is_ahead() -> None:
    rates = {VLLM: 60.0, SGLANG: 61.0, DFS: 70.0, BALANCE: 65.0, BLEND: 85.0}
    assert fig07._first(runs(rates), "fig07-first", "common").holds
    lost = fig07._first(runs({**rates, BALANCE: 90.0}), "fig07-first", "common")
    assert lost.holds is False
    assert BALANCE in lost.words


def test_verdicts_see_pools_of_prefill_ahead() -> None:
    rates = {VLLM: 100.0, **dict(zip(POOLS, (50.0, 40.0, 30.0, 20.0), strict=True))}
    found = {v.claim: v.holds for v in fig08.verdicts({"runs": runs(rates)})}
    assert found == {"fig08-below": True, "fig08-prefill": True}
    found = {v.claim: v.holds for v in fig08.verdicts({"runs": runs({**rates, POOLS[2]: 101.0})})}
    assert found == {"fig08-below": False, "fig08-prefill": False}


def test_verdicts_see_sharing_that_is_lost() -> None:
    rows = [
        {"trace": "trace1", "system": BLEND, "kept_of_dfs": 0.9},
        {"trace": "trace1", "system": BALANCE, "kept_of_dfs": 0.2},
    ]
    found = {v.claim: v.holds for v in fig09.verdicts({"kept": Table.of(rows)})}
    assert found == {"fig09-blend": False, "fig09-balance": True}


def test_a_grid_point_that_cannot_be_mixed_is_left_out_and_says_why() -> None:
    row = grids._point(Lab(), Recipe(1.0, 0.9, 300, ("sharegpt", "wildchat", "openvid")))
    assert row["speedup"] is None
    assert "out of reach" in str(row["left_out"])


def test_speed_up_of_ranks_is_over_the_same_pool_on_one() -> None:
    seconds = {("blend", 1): 100.0, ("blend", 4): 25.0, ("paced", 1): 90.0, ("paced", 4): 30.0}
    rows = [
        {"trace": "trace1", "ranks": ranks, "system": policy, "seconds": s}
        for (policy, ranks), s in seconds.items()
    ]
    assert table3._speedups(Table.of(rows)) == {"trace1": 4.0}
    assert table3._speedups(Table.of(rows), "paced") == {"trace1": 3.0}


def test_every_compared_system_is_a_baseline() -> None:
    assert [system(name).name for name in (*SYSTEMS, *POOLS)] == [*SYSTEMS, *POOLS]


def test_the_readme_shows_what_was_measured() -> None:
    text = comparison.README.read_text(encoding="utf-8")
    for name, shown in comparison.shown_parts(RESULTS).items():
        found = text.split(comparison.mark(name))[1].split(comparison.end_mark(name))[0]
        assert found.strip() == shown.strip(), f"run paper_repro again: {name} is not up to date"


@pytest.mark.parametrize("module", KEPT)
def test_a_quick_run_finds_what_is_committed(tmp_path: Path, module: str) -> None:
    outcome = runner.measure(module, Lab(quick=True), tmp_path)
    assert outcome.error == ""
    for name in KEPT[module]:
        found, kept = (read_table(d / f"{module}_{name}.csv") for d in (tmp_path, EXPECTED))
        assert found.columns == kept.columns
        for ours, theirs in zip(found.rows, kept.rows, strict=True):
            # Other processors and library versions may round another way.
            assert ours[0] == theirs[0]
            assert ours[1:] == pytest.approx(theirs[1:], rel=2e-3)


def test_every_module_says_how_long_it_takes() -> None:
    assert all(minutes > 0 for minutes in modules(read_claims().values()).values())


def refresh() -> None:
    """Write the committed quick results anew."""
    for module, names in KEPT.items():
        directory = REPOSITORY / "build" / "paper_repro" / "expected"
        directory.mkdir(parents=True, exist_ok=True)
        outcome = runner.measure(module, Lab(quick=True), directory)
        assert outcome.error == "", outcome.error
        for name in names:
            path = directory / f"{module}_{name}.csv"
            (EXPECTED / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    refresh()
