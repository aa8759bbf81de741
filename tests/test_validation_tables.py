"""docs/validation.md shows what the kept runs give; bench/gpu_evidence.py keeps what matters."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from evidence_cut import CUT, Cuts, cut_tables, least, slowing
from evidence_gemms import ALGORITHMS, algorithm_tables
from evidence_overlap import gains, speeds
from evidence_parts import PARTITIONS, part_tables
from evidence_replays import (
    host_seconds,
    pairs_of,
    ratio_error,
    ratio_spread,
    steady_busy,
    total_error,
)
from evidence_runs import (
    HALVED,
    KEPT_OF,
    MEASURED,
    Replay,
    Run,
    prices_of,
    read_runs,
    system_of,
)
from evidence_steps import settling_table, staircase, steps_of
from evidence_visits import OWN, beside_others, own_table, visit_table, with_own
from gpu_evidence import (
    GRAIN,
    in_grains,
    keep,
    keep_cut,
    keep_gemms,
    require_logs,
)
from validation import (
    DOCUMENT,
    RESULTS,
    priced_by_own,
    profiled,
    step_rows,
    tables,
    woven,
)

from blendsim.perf.fit import Pairs
from blendsim.perf.measured import shipped_place
from blendsim.perf.store import read_profile
from blendsim.steplog import COUNTS, MEASURED_ROWS, TIMES, StepLog, write_steplog


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS)


@pytest.fixture(scope="module")
def run(runs: list[Run]) -> Run:
    return runs[0]


def find(run: Run, policy: str, executor: str) -> Replay:
    return next(r for r in run.replays if (r.policy, r.executor) == (policy, executor))


def shortened(replay: Replay, seconds: np.ndarray, starts: np.ndarray, **meta: object) -> Replay:
    """The first steps of a replay, with other times."""
    log, count = replay.log, len(seconds)
    times = np.zeros((count, len(TIMES)))
    times[:, TIMES.index("seconds")], times[:, TIMES.index("start")] = seconds, starts
    kept = StepLog(log.counts[:count], times, log.replica[:count], {**log.meta, **meta})
    prices = {name: price[:count] for name, price in replay.prices.items()}
    return replay._replace(log=kept, prices=prices)


def test_the_document_shows_what_the_kept_runs_give(runs: list[Run]) -> None:
    text = DOCUMENT.read_text()
    assert woven(text, tables(runs)) == text, "run python bench/validation.py"


def test_rows_of_a_table_have_as_many_cells_as_its_head(runs: list[Run]) -> None:
    for name, text in tables(runs).items():
        assert len({line.count("|") for line in text.splitlines()}) == 1, name


def test_a_table_that_nobody_asked_for_is_refused(runs: list[Run]) -> None:
    with pytest.raises(AssertionError, match="causes"):
        woven("<!-- machine -->\n", {"machine": "|x|\n", "causes": "|y|\n"})


def test_links_and_pictures_of_the_document_are_there() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", DOCUMENT.read_text())
    assert any(target.endswith(".png") for target in targets)
    assert [t for t in targets if not (DOCUMENT.parent / t).exists()] == []


def test_evidence_is_small(runs: list[Run]) -> None:
    """A visit's, of which there will be more."""
    for run in runs:
        sizes = [path.stat().st_size for path in run.place.rglob("*") if path.is_file()]
        assert 0 < sum(sizes) < 0.9e6


def test_logs_are_kept_to_an_eighth_of_a_microsecond() -> None:
    times = np.random.default_rng(0).random((50, len(TIMES))) * 60.0
    log = StepLog(np.zeros((50, len(COUNTS)), np.int64), times, np.zeros(50, np.int64), {"a": 1})
    kept = in_grains(log)
    assert 0 < np.abs(kept.times - times).max() <= 0.5 * GRAIN < 0.1e-6
    assert (kept.times / GRAIN == np.round(kept.times / GRAIN)).all()
    assert (kept.counts == log.counts).all()
    assert kept.meta == log.meta


def test_both_executors_ran_the_very_same_steps(run: Run) -> None:
    alone, beside = find(run, "dfs", "sequential"), find(run, "dfs", "overlap")
    assert (alone.log.counts == beside.log.counts).all()


def test_parts_of_the_model_are_all_it_says_of_a_sequential_step(run: Run) -> None:
    steps = steps_of(run, find(run, "dfs", "sequential"))
    assert steps.parts.total == pytest.approx(steps.price, rel=1e-9)
    assert sum(group.sum() for group in steps.groups.values()) == len(steps.seconds)


def test_a_staircase_never_falls_and_never_exceeds_the_next_measured_size(run: Run) -> None:
    profile = read_profile(run.profile)
    stairs = staircase(profile)
    assert (np.diff(stairs.gemm, axis=0) >= 0).all()
    assert (np.diff(stairs.tokens) > 0).all()
    at = np.searchsorted(stairs.tokens, profile.tokens)
    assert (stairs.gemm[at] <= profile.gemm).all()
    behind = np.searchsorted(stairs.tokens, profile.tokens[:-1][np.diff(profile.tokens) > 1] + 1)
    after = np.searchsorted(stairs.tokens, profile.tokens[1:][np.diff(profile.tokens) > 1])
    assert (stairs.gemm[behind] == stairs.gemm[after]).all()


def test_steps_that_ran_in_halves_are_known_by_row(run: Run) -> None:
    halves = find(run, "dfs", "overlap").is_halved
    assert halves.sum() == sum(b - a for a, b in find(run, "dfs", "overlap").log.meta[HALVED])
    assert 0 < halves.sum() < len(halves)
    assert not find(run, "dfs", "sequential").is_halved.any()


def test_gains_are_seconds_apart_over_seconds_together() -> None:
    whole = np.array([1])
    times = (np.array([2.0]), np.array([1.0]), np.array([2.5]))
    assert gains(Pairs(whole, whole, whole, whole, *times)) == pytest.approx([1.2])


def test_attention_runs_faster_on_more_sms_and_gemms_slower(run: Run) -> None:
    found = [one for one in speeds(run) if not np.isnan(one[1:]).any()]
    sms, attention, gemm = (list(column) for column in zip(*found, strict=True))
    assert sms == sorted(sms)
    assert attention == sorted(attention)
    assert 1 > gemm[0] > gemm[-1] > 0


def test_host_work_is_what_the_check_noted(run: Run) -> None:
    noted = {f["what"]: f["value"] for f in run.findings("replay-trace1")[:3]}
    value = noted["  host work a step, median"]
    first = host_seconds(run, find(run, "dfs", "overlap"))
    assert value.startswith(f"{first * 1e3:.1f} of")
    assert np.isnan(host_seconds(run, find(run, "paced", "overlap")))  # it was cut short


def test_errors_of_a_total_leave_out_what_lies_between_steps(run: Run) -> None:
    whole = find(run, "dfs", "sequential")
    price = whole.prices[MEASURED][:2]
    late = shortened(whole, 2.0 * price, np.array([0.0, 50.0]))
    assert total_error(late, MEASURED) == pytest.approx(-0.5)
    assert late.seconds == pytest.approx(50.0 + 2.0 * price[1])
    assert steady_busy(late) < 0.01


def test_a_speedup_errs_by_what_the_ratio_errs(run: Run) -> None:
    whole = find(run, "dfs", "sequential")
    price, zero = whole.prices[MEASURED][:1], np.zeros(1)
    right, slow = shortened(whole, price, zero), shortened(whole, 1.25 * price, zero)
    assert ratio_error(right, slow, MEASURED) == pytest.approx(0.25)


def test_totals_of_sampled_replays_are_of_the_same_model_as_their_steps(runs: list[Run]) -> None:
    """They are kept, not priced again. Today's model cuts no step of them, so both executors take
    as long by it.
    """
    full = [r for r in runs[1].replays if r.is_sampled and r.policy == "dfs"]
    assert {r.executor for r in full} == {"overlap", "sequential"}
    assert full[0].predicted(MEASURED) == pytest.approx(full[1].predicted(MEASURED), rel=1e-9)


def test_a_speedup_of_samples_is_told_with_what_it_may_be_off(runs: list[Run]) -> None:
    known = {o.name: ratio_spread(b, o) for b, o in pairs_of(runs[1]) if o.policy == "blend"}
    assert {name: spread > 0 for name, spread in known.items()} == {
        "trace1, blend, overlap": False,
        "trace1-full, blend, overlap": True,
    }


def test_a_replay_without_its_log_is_not_kept(tmp_path: Path) -> None:
    told = [{"what": "dfs, overlap", "value": "10 steps", "ok": True}]
    (tmp_path / "replay-trace1-full.json").write_text(json.dumps({"findings": told}))
    with pytest.raises(SystemExit, match="without trace1-full-dfs-overlap"):
        require_logs(tmp_path)


def test_of_a_sampled_replay_measured_steps_are_kept_with_what_the_whole_is(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the executor's rule is the runtime's")
    whole = find(run, "dfs", "overlap")
    estimate = {"seconds": 60.0, "low": 58.0, "high": 62.0, "level": 0.95, "measured": 2}
    told = {"estimate": estimate, MEASURED_ROWS: [3, 500]}
    source = tmp_path / "gpu-check"
    (source / "profiles" / "h200" / "llama-3.1-8b").mkdir(parents=True)
    (source / "profiles" / "h200" / "llama-3.1-8b" / "tp1").symlink_to(run.profile)
    for stage in ("build", "profile"):
        (source / f"{stage}.json").write_text(json.dumps({"done": True, "findings": []}))
    log = StepLog(whole.log.counts, whole.log.times, whole.log.replica, {**whole.log.meta, **told})
    write_steplog(log, source / "trace1-full-dfs-overlap.parquet")
    keep(source, tmp_path / "kept" / "first")
    (again,) = read_runs(tmp_path / "kept")
    (sampled,) = again.replays
    assert (sampled.pool, sampled.policy, sampled.is_sampled) == ("trace1-full", "dfs", True)
    assert sampled.log.counts.tolist() == whole.log.counts[[3, 500]].tolist()
    assert sampled.is_halved.tolist() == whole.is_halved[[3, 500]].tolist()
    assert sampled.log.meta[KEPT_OF]["steps"] == sampled.steps == len(whole.log)
    assert sampled.tokens == whole.tokens
    assert sampled.predicted(MEASURED) == pytest.approx(whole.predicted(MEASURED))
    assert total_error(sampled, MEASURED) == pytest.approx(whole.predicted(MEASURED) / 60.0 - 1)
    shown = tables([again])["replays"].splitlines()[-1]
    assert "trace1-full, dfs, overlap | 1,388, 2 measured | 60 ± 2 |" in shown


def test_a_visit_without_a_profile_is_priced_by_the_one_that_is_shipped(
    run: Run, tmp_path: Path
) -> None:
    """A profile that was brought along, to price replays with, is none that this visit measured."""
    pytest.importorskip("torch", reason="the executor's rule is the runtime's")
    whole = find(run, "dfs", "sequential")
    source = tmp_path / "gpu-check"
    (source / "profiles" / "h200" / "llama-3.1-8b").mkdir(parents=True)
    (source / "profiles" / "h200" / "llama-3.1-8b" / "tp1").symlink_to(run.profile)
    (source / "build.json").write_text(json.dumps({"done": True, "findings": []}))
    write_steplog(whole.log, source / "trace1-dfs-sequential.parquet")
    keep(source, tmp_path / "kept" / "third")
    (again,) = read_runs(tmp_path / "kept")
    assert not again.has_profile
    (replay,) = again.replays
    system = system_of(whole.log)
    right = prices_of(whole.log, shipped_place(system))[MEASURED]
    assert replay.predicted(MEASURED) == pytest.approx(float(right.sum()))
    assert replay.predicted(MEASURED) != pytest.approx(whole.predicted(MEASURED), rel=1e-3)
    assert profiled([run, again]) == [run]


def test_replays_of_plans_made_by_the_shipped_profile_are_priced_by_it(runs: list[Run]) -> None:
    """Whatever was measured beside them, of which a table of its own tells."""
    assert [run.name for run in profiled(runs)] == [
        "first",
        "second",
        "fifth",
        "sixth",
        "sixth-qwen",
    ]
    assert [run.name for run in priced_by_own(runs)] == ["first", "second"]
    fifth, sixth = beside_others(runs)
    replay = with_own(fifth).replays[0]
    shipped = prices_of(replay.log, shipped_place(system_of(replay.log)))[MEASURED]
    assert (replay.prices[MEASURED] == shipped).all()
    assert (replay.prices[OWN] == prices_of(replay.log, fifth.profile)[MEASURED]).all()
    assert abs(total_error(replay, OWN) - total_error(replay, MEASURED)) > 0.01
    _, _, *rows = own_table(runs)
    assert len(rows) == len(fifth.replays) + len(sixth.replays)
    own = f"| {total_error(replay, MEASURED):+.1%} | {total_error(replay, OWN):+.1%} |"
    assert own in next(line for line in rows if f"| {replay.name} |" in line)


def test_kernels_of_a_profile_beside_itself_take_as_long(runs: list[Run]) -> None:
    """The second visit's is the shipped one; replays of the fifth are priced by that."""
    second, fifth = (next(r for r in runs if r.name == name) for name in ("second", "fifth"))
    same = second._replace(replays=fifth.replays)
    cells = [line.split(" | ") for line in list(visit_table([same]))[2:]]
    assert {cell[1] for cell in cells} == {"a layer's GEMMs", "LM head", "decode attention"}
    assert all(float(x.strip(" |")) == 1.0 for cell in cells for x in cell[4:])
    assert list(visit_table([second]))[2:] == []


def test_full_steps_are_told_apart_by_how_long_the_gpu_has_worked(run: Run) -> None:
    """Twice as long as priced in the first second, half as long from the twentieth on."""
    whole = find(run, "dfs", "sequential")
    full = np.flatnonzero(whole.log.count("prefill_tokens") > 1000)[:2]
    times = np.zeros((2, len(TIMES)))
    times[:, TIMES.index("start")] = 0.5, 30.0
    times[:, TIMES.index("seconds")] = np.array([2.0, 0.5]) * whole.prices[MEASURED][full]
    log = StepLog(whole.log.counts[full], times, whole.log.replica[full], whole.log.meta)
    prices = {name: price[full] for name, price in whole.prices.items()}
    settled = run._replace(replays=(whole._replace(log=log, prices=prices),))
    assert list(settling_table([settled]))[2:] == [
        "| first | trace1, dfs, sequential | -50.0%, 1 |  |  |  | +100.0%, 1 |"
    ]


def test_of_other_gemm_algorithms_the_best_in_a_stream_is_shown(run: Run, tmp_path: Path) -> None:
    took = {"torch": 10.04, "3": 9.0, "5": 8.06}
    burst = {name: {"torch": 1.0, "sustained": took} for name in ("qkv", "o", "gate_up", "down")}
    found = {"lt": 1, "torch": "2", "burst": {"512": burst}, "stream": {"512": [40.0, 30.0]}}
    (tmp_path / "gemms.json").write_text(json.dumps(found))
    keep_gemms(tmp_path / "gemms.json", tmp_path)
    assert json.loads((tmp_path / ALGORITHMS).read_text())["cublasLt"] == 1
    (lines,) = algorithm_tables([run._replace(place=tmp_path), run]).values()
    assert lines[2:] == ["| 512 | 40.0 → 30.0 | 0.750 |" + " 10.0 → 8.1 |" * 4]
    assert algorithm_tables([run]) == {}


def test_visits_come_in_their_order_and_other_models_behind(runs: list[Run]) -> None:
    names = [run.name for run in runs]
    assert names[-4:] == ["sixth", "sixth-qwen", "seventh", "seventh-qwen"]


def test_steps_are_drawn_of_the_last_run_that_brought_several_to_their_end(
    runs: list[Run],
) -> None:
    _, first = itertools.islice(step_rows(runs), 2)
    assert first[0] == next(run for run in runs if run.name == "seventh").replays[0].name


def test_what_parts_of_the_gpu_do_is_shown_where_it_was_measured(run: Run, tmp_path: Path) -> None:
    gemm = {"what": "gemm", "by": "cuBLAS", "tokens": 512}
    decode = {"what": "decode", "batch": 256, "context": 1024}
    pair = {"what": "pair", "by": "cuBLAS", "tokens": 512, "batch": 256, "context": 1024}
    found = [
        {**gemm, "sms": 132, "seconds": 1.0},
        {**gemm, "sms": 66, "seconds": 1.6},
        {**decode, "sms": 132, "seconds": 1.0},
        {**decode, "sms": 66, "seconds": 1.25},
        {"what": "skewed", "world": "equal", "chunk": 0, "bytes": 4e12, "seconds": 1.0},
        {**pair, "share": 66, "compute": 1.0, "memory": 1.0, "seconds": 1.6},
    ]
    (tmp_path / PARTITIONS).write_text(json.dumps(found))
    made = part_tables([run._replace(place=tmp_path)])
    assert made["part-decodes"][-2:] == ["| 66 | 0.80 |", "| 132 | 1.00 |"]
    assert [len(lines) for lines in made.values()] == [4, 4, 3, 3]
    assert part_tables([run]) == {}


def way(name: str, part: str, ahead: float, row: float, is_ahead: bool = True) -> dict[str, object]:
    """One way of a step, as gpu_cut.py writes it; in a row it runs slow at first."""
    ran = [{"seconds": s, "megahertz": m} for s, m in ((9.0, 1980.0), (row, 1500.4))]
    return {
        "what": "step",
        "step": "s",
        "way": name,
        "part": part,
        "ahead": [{"seconds": ahead, "megahertz": 1900.4}],
        "is_ahead": is_ahead,
        "host": 0.02,
        "row": ran,
    }


CUT_FOUND = [
    way("whole", "all", 0.030, 0.032),
    way("halves, one stream", "all", 0.033, 0.034),
    way("halves, 64 SMs", "all", 0.032, 0.040),
    way("halves, 48 SMs", "all", 0.036, 0.036),
    way("halves, 64 SMs", "without decode attention", 0.025, 0.030),
    way("halves, 64 SMs", "decode attention alone", 0.030, 0.0201234567, is_ahead=False),
]


def test_steps_cut_in_two_are_shown_of_the_last_run_that_cut_some(run: Run, tmp_path: Path) -> None:
    (tmp_path / CUT).write_text(json.dumps(CUT_FOUND))
    made = cut_tables([run._replace(place=tmp_path), run])
    assert made["cut-steps"][2:] == [
        "| s | whole | 30.0 | 1.00 | 1,900 | 32.0 | 1.00 | 1,500 | 20 |",
        "| s | halves, one stream | 33.0 | 1.10 | 1,900 | 34.0 | 1.06 | 1,500 | 20 |",
        "| s | halves, 64 SMs | 32.0 | 1.07 | 1,900 | 40.0 | 1.25 | 1,500 | 20 |",
    ]
    assert made["cut-lanes"][2:] == [
        "| s | 64 | 30.0 | 33.0 | 25.0 | ≤ 20.1 | 32.0 | 1.35 | 0.97 | 40.0 |"
    ]
    assert cut_tables([run]) == {}


def test_a_way_that_was_not_far_ahead_takes_the_gpu_no_more_than_either_time() -> None:
    cuts = Cuts(CUT_FOUND)
    late = least(cuts.way("s", "halves, 64 SMs", "decode attention alone"))
    assert (round(late.ms, 3), late.is_exact, str(late)) == (20.123, False, "≤ 20.1")


def test_lanes_slow_each_other_only_while_the_shorter_runs() -> None:
    assert slowing(10.0, 20.0, 20.0) == 1.0
    assert slowing(20.0, 10.0, 1.2 * 10.0 + 10.0) == pytest.approx(1.2)


def test_what_is_kept_of_cut_steps_has_no_digits_that_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(json.dumps(CUT_FOUND))
    keep_cut(tmp_path / "found.json", tmp_path)
    kept = json.loads((tmp_path / CUT).read_text())
    assert kept[0] == {
        **CUT_FOUND[0],
        "ahead": [{"seconds": 0.03, "megahertz": 1900}],
        "row": [{"seconds": 9.0, "megahertz": 1980}, {"seconds": 0.032, "megahertz": 1500}],
    }
    assert kept[-1]["row"][1]["seconds"] == 0.0201235


def test_a_visit_with_neither_profile_nor_replays_is_shown_by_its_findings(
    run: Run, tmp_path: Path
) -> None:
    found = {"what": "device", "value": "NVIDIA H200", "ok": None}
    (tmp_path / "build.json").write_text(json.dumps({"done": True, "findings": [found]}))
    visit = run._replace(name="fifth", place=tmp_path, replays=())
    made = tables([run, visit])
    assert made["machine"].splitlines()[-1].startswith("| fifth |  | NVIDIA H200 |")
    assert made["targets"] == tables([run])["targets"]
