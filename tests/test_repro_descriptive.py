"""Descriptive claims of paper_repro: small results as committed, verdicts that can fail, figures.

`python tests/test_repro_descriptive.py` writes the committed results anew.
"""

from pathlib import Path

import numpy as np
import pytest

from blendsim.steplog import COUNTS, TIMES, StepLog
from figures.__main__ import main as draw_figures
from paper_repro import (
    fig01,
    fig03,
    fig04,
    fig05,
    fig06,
    overheads,
    runner,
    split_leaves,
    table1,
    table2,
    table4,
)
from paper_repro.claims import read_claims
from paper_repro.lab import Lab
from paper_repro.slices import slices
from paper_repro.table import Table, read_table, tables_of

EXPECTED = Path(__file__).resolve().parents[1] / "paper_repro" / "expected"
#: Module → its tables that are committed, of a quick run on generators.
KEPT = {
    "fig01": ("runs",),
    "fig02": ("traces",),
    "fig03": ("runs",),
    "fig04": ("traces",),
    "fig05": ("nodes", "stages"),
    "fig06": ("example",),
    "split_leaves": ("splits",),
    "table1": ("kernels",),
    "table2": ("pools", "sources"),
    "table4": ("traces",),
}
FIGURES = ("fig01", "fig02", "fig03", "fig04", "fig05", "fig06")
QUICK = Lab(quick=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result tables of a quick run on generators."""
    out = tmp_path_factory.mktemp("results")
    for name in KEPT:
        outcome = runner.measure(name, QUICK, out)
        assert outcome.error == "", outcome.error
    return out


@pytest.mark.parametrize("name", [f"{m}_{table}" for m, tables in KEPT.items() for table in tables])
def test_a_quick_run_finds_what_is_committed(measured: Path, name: str) -> None:
    found, kept = (read_table(folder / f"{name}.csv") for folder in (measured, EXPECTED))
    assert found.columns == kept.columns
    for ours, theirs in zip(found.rows, kept.rows, strict=True):
        # Other processors and library versions may round another way.
        numbers = [isinstance(cell, float | int) for cell in theirs]
        pairs = [*zip(ours, theirs, numbers, strict=True)]
        assert [a for a, _, is_number in pairs if not is_number] == [
            b for _, b, is_number in pairs if not is_number
        ]
        assert [a for a, _, is_number in pairs if is_number] == pytest.approx(
            [b for _, b, is_number in pairs if is_number], rel=2e-3
        )


def test_every_claim_of_a_module_gets_a_verdict(measured: Path) -> None:
    claims = {claim.id for claim in read_claims().values() if claim.module in KEPT}
    assert {v.claim for name in KEPT for v in runner.verdicts(name, measured)} == claims


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_bytes_every_time(
    measured: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for out in ("first", "second"):
        arguments = ["figures", str(measured), str(tmp_path / out), name]
        monkeypatch.setattr("sys.argv", arguments)
        assert draw_figures() == 0
    for suffix in (".pdf", ".png"):
        first, second = (tmp_path / out / f"{name}{suffix}" for out in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_slices_share_out_all_the_work_of_a_run() -> None:
    times = np.zeros((4, len(TIMES)))
    times[:, :4] = [[0, 1, 1, 0], [1, 1, 1, 0], [2, 1, 0.5, 1], [3, 1, 0, 1]]
    log = StepLog(np.zeros((4, len(COUNTS)), np.int64), times, np.zeros(4, np.int32), {})
    cut = slices(log, 2)
    assert (cut.start.tolist(), cut.end.tolist()) == ([0, 2], [2, 4])
    assert (cut.compute.tolist(), cut.memory.tolist()) == ([2, 0.5], [0, 2])
    assert cut.ratio.tolist() == [np.inf, 0.25]


def test_a_blended_run_that_ends_later_misses_figure_1() -> None:
    rows = [
        {"policy": "dfs", "seconds": 10.0, "side_by_side": 0.1},
        {"policy": "blend", "seconds": 11.0, "side_by_side": 0.2},
    ]
    assert [v.holds for v in fig01.verdicts({"runs": Table.of(rows)})] == [False]


def test_an_even_run_misses_figure_3() -> None:
    rows = [{"policy": name, "far_above": 0.0, "far_below": 0.0} for name in ("dfs", "random")]
    assert [v.holds for v in fig03.verdicts({"runs": Table.of(rows)})] == [False]


def test_a_trace_on_the_wrong_side_misses_figure_4(measured: Path) -> None:
    tables = {name: read_table(measured / f"fig04_{name}.csv") for name in ("grid", "traces")}
    assert [v.holds for v in fig04.verdicts(tables)] == [True]
    moved = [{**row, "density": 2.0} for row in tables["traces"].records()]
    assert [v.holds for v in fig04.verdicts({**tables, "traces": Table.of(moved)})] == [False]


def test_splitting_that_leaves_the_order_as_bad_misses_figure_5() -> None:
    stages = ("annotated", "sorted", "split and merged")
    rows = [{"stage": name, "rises": 5, "moved": 1} for name in stages]
    assert [v.holds for v in fig05.verdicts({"stages": Table.of(rows)})] == [False]


def test_a_leaf_of_figure_5_lies_below_its_node(measured: Path) -> None:
    nodes = read_table(measured / "fig05_nodes.csv")
    for stage in ("built", "annotated", "sorted", "split and merged"):
        inner = {row["node"]: row for row in nodes.records(stage=stage, kind="inner")}
        leaves = nodes.records(stage=stage, kind="leaf")
        assert sorted(row["first"] for row in leaves) == list(range(len(leaves)))
        for leaf in leaves:
            up = inner[leaf["parent"]]
            assert up["first"] <= leaf["first"] <= up["last"]


def test_another_memory_split_misses_figure_6() -> None:
    rows = [{"left_gb": 30.0, "right_gb": 30.0}]
    assert [v.holds for v in fig06.verdicts({"example": Table.of(rows)})] == [False, False]


def test_a_slow_kernel_misses_table_1_and_says_its_rate() -> None:
    kernels = table1.measure(QUICK)["kernels"].records()
    slow = [{**row, "attention_ms": 2 * row["attention_ms"]} for row in kernels]
    found = {v.claim: v for v in table1.verdicts({"kernels": Table.of(slow)})}
    assert found["table1-attention-512"].holds is False
    assert found["table1-attention-512"].words == "our kernels reach 0.793 TB/s, the paper's 1.63"


def test_a_pool_off_its_density_misses_table_2(measured: Path) -> None:
    pools = read_table(measured / "table2_pools.csv").records()
    full = [{**row, "requests": 400_000, "density": row["density"] * 1.02} for row in pools]
    held = [v.holds for v in table2.verdicts({"pools": Table.of(full)})]
    assert held[:4] == [False] * 4


def test_a_quick_run_says_nothing_of_the_size_of_the_workloads(measured: Path) -> None:
    pools = read_table(measured / "table2_pools.csv")
    assert {v.holds for v in table2.verdicts({"pools": pools})} == {None}


def test_table_4_says_what_a_missed_figure_hangs_on(measured: Path) -> None:
    found = {
        v.claim: v for v in table4.verdicts({"traces": read_table(measured / "table4_traces.csv")})
    }
    assert found["table4-azure-density"].holds is False
    assert "the 2024 release give" in found["table4-azure-density"].words
    assert found["table4-mmlu-density"].holds is True


def test_many_split_leaves_miss_their_claim(measured: Path) -> None:
    rows = read_table(measured / "split_leaves_splits.csv").records()
    few = [{**row, "leaves_split": 0.005, "sharing_kept": 0.98} for row in rows]
    assert [v.holds for v in split_leaves.verdicts({"splits": Table.of(few)})] == [True, False]


def test_slow_planning_misses_its_claims() -> None:
    tables = {
        "planning": Table.of([{"stage": "sort prompts", "seconds": 500.0, "requests": 400_000}]),
        "steps": Table.of([{"mean_ms": 0.1, "p99_ms": 0.2, "running_mean": 100.0}]),
        "warm_up": Table.of(
            [{"planning_s": 500.0, "planning_share": 0.05, "sampled_share": 0.001}]
        ),
    }
    assert [v.holds for v in overheads.verdicts(tables)] == [False, False, True, False]


@pytest.mark.slow
def test_overheads_are_measured(tmp_path: Path) -> None:
    assert runner.measure("overheads", QUICK, tmp_path).error == ""
    held = {v.claim: v.holds for v in runner.verdicts("overheads", tmp_path)}
    assert held["overhead-tree"] is True


def refresh() -> None:
    """Write the committed results anew."""
    for name, tables in KEPT.items():
        assert runner.measure(name, QUICK, EXPECTED).error == ""
        for path in [*tables_of(name, EXPECTED)]:
            if path.stem.removeprefix(f"{name}_") not in tables:
                path.unlink()


if __name__ == "__main__":
    refresh()
