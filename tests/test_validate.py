"""A simulated log against a measured one: what is compared, what is refused, what is drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blendsim.errors import InputError, PlanMismatch
from blendsim.report.plots.validation import draw_validation
from blendsim.report.validate import (
    KINDS,
    Speedup,
    Total,
    Validation,
    as_json,
    speedup,
    step_kinds,
    validate,
)
from blendsim.report.validation_text import speedup_line, strata_csv, validation_lines
from blendsim.steplog import COUNTS, MEASURED_ROWS, TIMES, StepLog, read_steplog, write_steplog

#: prefill tokens, decodes, context of six steps: two of each kind
STEPS = ((90, 10, 100), (80, 5, 0), (4, 40, 700), (4, 40, 800), (0, 50, 900), (0, 50, 1000))


def log_of(
    seconds: list[float],
    steps: tuple[tuple[int, int, int], ...] = STEPS,
    gap: float = 0.0,
    replica: int = 0,
    **meta: Any,
) -> StepLog:
    """A log of one replica whose steps follow each other `gap` seconds apart."""
    counts = np.zeros((len(seconds), len(COUNTS)), np.int64)
    for row, (prefill, decodes, context) in enumerate(steps[: len(seconds)]):
        counts[row, COUNTS.index("prefill_tokens")] = prefill
        counts[row, COUNTS.index("decode_requests")] = decodes
        counts[row, COUNTS.index("context_tokens")] = context
    times = np.zeros((len(seconds), len(TIMES)))
    times[:, 1] = seconds
    times[1:, 0] = np.cumsum(times[:-1, 1]) + gap * np.arange(1, len(seconds))
    told = {"policy": "dfs", "engine": "nanoflow", "plan_sha256": "a" * 64} | meta
    return StepLog(counts, times, np.full(len(seconds), replica, np.int32), told)


def joined(*logs: StepLog) -> StepLog:
    return StepLog(
        np.concatenate([log.counts for log in logs]),
        np.concatenate([log.times for log in logs]),
        np.concatenate([log.replica for log in logs]),
        logs[0].meta,
    )


def test_kinds_part_at_no_prefill_and_at_half_of_the_tokens() -> None:
    counts = log_of([1.0] * 4, ((0, 5, 0), (1, 5, 0), (5, 5, 0), (6, 5, 0))).counts
    assert [KINDS[k] for k in step_kinds(counts)] == [
        "decode only",
        "mixed",
        "mixed",
        "prefill-heavy",
    ]


def test_errors_of_steps_are_simulated_over_measured_less_one() -> None:
    result = validate(
        log_of([1.0, 1.0, 1.0, 1.0, 1.0, 1.5]), log_of([2.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    )
    whole = result.strata[0]
    # Errors are −0.5, 1, 0, 0, 0, 0.5.
    assert (whole.kind, whole.steps, whole.share) == ("all", 6, 1.0)
    assert (whole.median, whole.p10, whole.p90) == pytest.approx((0.0, -0.25, 0.75))
    assert (whole.absolute_median, whole.absolute_p90) == pytest.approx((0.25, 0.75))
    assert whole.total == pytest.approx(0.0)
    assert result.notes == ()


def test_strata_are_kinds_by_thirds_of_the_context_read() -> None:
    result = validate(log_of([1.0] * 6), log_of([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    told = [(r.kind, r.context_low, r.context_high, r.steps, r.total) for r in result.strata[1:]]
    assert told == [
        ("decode only", 900, 1000, 2, -0.75),
        ("mixed", 700, 800, 2, -0.5),
        ("prefill-heavy", 0, 100, 2, 0.0),
    ]
    assert sum(row.share for row in result.strata[1:]) == pytest.approx(1.0)
    assert sum(row.steps for row in result.strata[1:]) == result.strata[0].steps


def test_total_holds_the_time_between_steps_and_the_steps_do_not() -> None:
    result = validate(log_of([1.0] * 6), log_of([1.0] * 6, gap=0.2))
    assert result.total == pytest.approx(Total(6.0, 7.0, 7.0, 7.0, 6 / 7 - 1, 1.0, 373))
    assert result.strata[0].absolute_p90 == 0.0
    rate = as_json(result)["tokens_per_second"]
    assert rate["error"] == pytest.approx(rate["simulated"] / rate["measured"] - 1)


def test_a_run_lasts_until_its_last_replica_ends() -> None:
    simulated = joined(log_of([1.0] * 3), log_of([2.0] * 6, replica=1))
    measured = joined(log_of([4.0] * 3, gap=1.0), log_of([2.0] * 6, replica=1))
    total = validate(simulated, measured).total
    assert (total.simulated, total.measured, total.between_steps) == (12.0, 14.0, 2.0)


def test_measured_run_that_broke_off_is_compared_as_far_as_it_goes() -> None:
    result = validate(log_of([1.0] * 6), log_of([2.0] * 4), ("s", "m.parquet"))
    assert not result.is_whole
    assert result.notes == ("m.parquet has 4 of 6 steps; compared as far as it goes",)
    assert (result.total.simulated, result.total.measured) == (4.0, 8.0)


def test_one_measured_replica_of_two_is_compared_alone() -> None:
    simulated = joined(log_of([9.0] * 2), log_of([1.0] * 6, replica=1))
    result = validate(simulated, log_of([2.0] * 6, replica=1))
    assert (result.total.simulated, result.total.measured) == (6.0, 12.0)
    assert not result.is_whole


def test_only_measured_rows_of_a_sampled_replay_have_errors() -> None:
    meta = {MEASURED_ROWS: [1, 4], "estimate": {"low": 5.5, "high": 8.5}}
    result = validate(log_of([1.0] * 6), log_of([1.0, 2.0, 1.0, 1.0, 1.0, 1.0], **meta))
    assert result.compared.step.tolist() == [1, 4]
    assert (result.strata[0].steps, result.strata[0].median) == (2, -0.25)
    assert (result.total.measured, result.total.low, result.total.high) == (7.0, 5.5, 8.5)
    assert result.is_whole
    assert "its whole time is an estimate" in result.notes[0]


def test_sampled_replay_without_an_estimate_has_no_total_but_of_its_rows() -> None:
    result = validate(log_of([1.0] * 6), log_of([1.0, 3.0, 1, 1, 1, 1], **{MEASURED_ROWS: [0, 1]}))
    assert (result.total.simulated, result.total.measured, result.total.tokens) == (2.0, 4.0, 185)
    assert not result.is_whole
    assert "its whole time is not known" in result.notes[0]


def test_speed_up_is_right_where_the_model_is_wrong_by_one_factor() -> None:
    fast = validate(log_of([1.0] * 6), log_of([1.5] * 6))
    slow = validate(log_of([2.0] * 6), log_of([3.0] * 6))
    assert speedup(fast, slow) == pytest.approx(Speedup(2.0, 2.0, 2.0, 2.0, 0.0))


def test_speed_up_takes_the_intervals_of_both_runs() -> None:
    meta = {MEASURED_ROWS: [0], "estimate": {"low": 6 * 0.97, "high": 6 * 1.03}}
    fast = validate(log_of([1.0] * 6), log_of([1.0] * 6, **meta))
    meta["estimate"] = {"low": 12 * 0.96, "high": 12 * 1.04}
    slow = validate(log_of([1.0] * 6), log_of([2.0] * 6, **meta))
    assert speedup(fast, slow) == pytest.approx(Speedup(1.0, 2.0, 1.9, 2.1, -0.5))


def test_run_that_broke_off_has_no_speed_up() -> None:
    whole = validate(log_of([1.0] * 6), log_of([1.0] * 6))
    part = validate(log_of([1.0] * 6), log_of([1.0] * 3))
    assert speedup(whole, part) is speedup(part, whole) is None
    assert "not measured to its end" in speedup_line(None)


def test_first_differing_step_and_column_are_named() -> None:
    other = list(STEPS)
    other[3] = (4, 41, 801)
    other[5] = (1, 50, 1000)
    with pytest.raises(
        InputError, match=r"^m: step 3 has decode_requests = 41, 40 in s: not the same schedule"
    ):
        validate(log_of([1.0] * 6), log_of([1.0] * 6, tuple(other)), ("s", "m"))


def test_more_steps_than_simulated_are_refused() -> None:
    with pytest.raises(InputError, match="m: replica 0 has 6 steps, 5 in s"):
        validate(log_of([1.0] * 5), log_of([1.0] * 6), ("s", "m"))
    with pytest.raises(InputError, match="m: replica 2 has 6 steps, 0 in s"):
        validate(log_of([1.0] * 6), log_of([1.0] * 6, replica=2), ("s", "m"))


def test_logs_of_two_plans_are_refused() -> None:
    with pytest.raises(PlanMismatch, match="s is of plan aaaaaaaaaaaa, m of plan bbb"):
        validate(log_of([1.0]), log_of([1.0], plan_sha256="b" * 64), ("s", "m"))


def test_log_that_names_no_plan_is_noted() -> None:
    result = validate(log_of([1.0]), replace(log_of([1.0]), meta={}), ("s", "m"))
    assert result.notes == (
        "m does not name its plan; the counts say that the schedule is the same",
    )


def test_columns_an_engine_does_not_count_are_not_compared() -> None:
    other = log_of([1.0] * 6)
    other.counts[2, COUNTS.index("cached_blocks")] = 7
    with pytest.raises(InputError, match="step 2 has cached_blocks = 7"):
        validate(log_of([1.0] * 6), other)
    told = replace(other, meta={**other.meta, "not_counted": ["cached_blocks"]})
    result = validate(log_of([1.0] * 6), told, ("s", "m"))
    assert result.is_whole
    assert result.notes == ("m does not count cached_blocks; not compared",)


def test_other_model_or_gpu_is_noted() -> None:
    settings = {"settings": {"model": "llama-3.1-8b", "gpu": "a100-80g"}}
    for model, device, wanted in (
        ("tiny", "cpu", 2),
        ("llama-3.1-8b", "NVIDIA A100-SXM4-80GB", 0),
        ("llama-3.1-8b", "NVIDIA H200", 1),
    ):
        measured = log_of([1.0], model=model, machine={"device": device})
        notes = validate(log_of([1.0], **settings), measured).notes
        assert len(notes) == wanted, notes
    assert notes == ("the GPU simulated is a100-80g, NVIDIA H200 was measured",)


def test_a_card_or_model_of_a_like_name_is_another() -> None:
    for model, gpu, ran, device in (
        ("kimi-k2-thinking", "h100", "kimi-k2", "NVIDIA H100 80GB HBM3"),
        ("kimi-k2", "h100", "kimi-k2", "NVIDIA H100 NVL"),
        ("kimi-k2", "a100-80g", "kimi-k2", "NVIDIA A100-PCIE-40GB"),
    ):
        measured = log_of([1.0], model=ran, machine={"device": device})
        simulated = log_of([1.0], settings={"model": model, "gpu": gpu})
        assert len(validate(simulated, measured).notes) == 1
    measured = log_of([1.0], model="mine", machine={"device": "NVIDIA H200"})
    simulated = log_of([1.0], settings={"model": "models/mine", "gpu": "h200"})
    assert not validate(simulated, measured).notes, "a directory's model is called by its last part"


def test_a_replay_against_another_one_is_not_called_simulated_on_the_plan_s_gpu() -> None:
    """Its settings are those of the plan, which neither of the two ran on."""
    plan = {"runtime": "blendrt", "settings": {"model": "llama-3.1-8b", "gpu": "a100-80g"}}
    full = log_of([2.0], **plan, model="tiny", machine={"device": "cpu"})
    again = log_of([1.0], **plan, model="tiny", machine={"device": "cpu"})
    there = log_of([1.0], **plan, model="small", machine={"device": "NVIDIA H200"})
    both = "full was measured, too: seconds called simulated are what it took"
    assert validate(full, again, ("full", "again")).notes == (both,)
    assert validate(full, there, ("full", "there")).notes == (
        both,
        "full ran tiny, there small",
        "full ran cpu, there NVIDIA H200",
    )
    sampled = replace(again, meta={**again.meta, MEASURED_ROWS: [0]})
    assert validate(sampled, full, ("sampled", "full")).notes == (
        "sampled was measured, too: seconds called simulated are what it took",
        "sampled is a sampled replay, whose other steps are estimates; name it second",
    )


@pytest.mark.parametrize("empty", [0, 1])
def test_log_without_steps_is_refused(empty: int) -> None:
    logs = [log_of([1.0] * 6), log_of([1.0] * 6)]
    logs[empty] = log_of([])
    with pytest.raises(InputError, match=f"{'sm'[empty]}: holds no steps"):
        validate(*logs, ("s", "m"))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_step_without_a_duration_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match=r"m: step 1 lasts .* s; a duration above 0 is needed"):
        validate(log_of([1.0] * 3), log_of([1.0, seconds, 1.0]), ("s", "m"))


def test_log_whose_measured_rows_are_none_is_refused() -> None:
    with pytest.raises(InputError, match="m: none of its steps was measured"):
        validate(log_of([1.0] * 3), log_of([1.0] * 3, **{MEASURED_ROWS: []}), ("s", "m"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3], "names row 3, there are 3"),
        ([-1], "names row -1, there are 3"),
        (["0"], "is not a list of rows"),
        ([0.5], "is not a list of rows"),
    ],
)
def test_file_with_measured_rows_it_lacks_is_refused(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    write_steplog(log_of([1.0] * 3, **{MEASURED_ROWS: rows}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=f"measured_rows in its metadata {message}"):
        read_steplog(tmp_path / "m.parquet")


def test_measured_rows_come_back_from_the_file(tmp_path: Path) -> None:
    write_steplog(log_of([1.0] * 3, **{MEASURED_ROWS: [0, 2]}), tmp_path / "m.parquet")
    assert read_steplog(tmp_path / "m.parquet").is_timed.tolist() == [True, False, True]
    write_steplog(log_of([1.0] * 3), tmp_path / "m.parquet")
    assert read_steplog(tmp_path / "m.parquet").is_timed.all()


def test_table_fits_the_terminal_and_keeps_what_matters() -> None:
    result = validate(log_of([1.0] * 6), log_of([2.0] * 6, gap=1.0))
    wide, narrow = (validation_lines(result, "m.parquet", width) for width in (140, 80))
    assert wide[0] == (
        "dfs on nanoflow: 6.0 s simulated, 17.0 s measured: -64.7 %. 62 against 22 tokens computed "
        "a second."
    )
    assert "5.0 s of the measured time lie between steps." in wide
    assert max(map(len, narrow)) <= 80
    assert "KV tokens read" in "\n".join(wide)
    assert "KV tokens read" not in "\n".join(narrow)
    assert all("|error| P90" in "\n".join(lines) for lines in (wide, narrow))


def test_strata_are_a_csv_table() -> None:
    result = validate(log_of([1.0] * 6), log_of([2.0] * 6))
    lines = strata_csv([("dfs", result), ("blend", result)]).splitlines()
    assert lines[0].startswith("run,kind,context_low,context_high,steps,share,total,median")
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [run, row.kind] for run in ("dfs", "blend") for row in result.strata
    ]


def many(seed: int, steps: int = 20_000) -> Validation:
    rng = np.random.default_rng(seed)
    kinds = ((90, 10, 100), (4, 40, 700), (0, 50, 900))
    seconds = rng.lognormal(-4, 0.5, steps)
    rows = tuple(kinds[k] for k in rng.integers(0, 3, steps))
    simulated = log_of(list(seconds), rows)
    return validate(simulated, log_of(list(seconds * rng.lognormal(0.02, 0.05, steps)), rows))


def test_picture_is_a_row_a_run_and_the_same_bytes_again(tmp_path: Path) -> None:
    runs = [("dfs", many(1)), ("blend", many(2))]
    draw_validation(runs, tmp_path / "a.png")
    draw_validation(runs, tmp_path / "b.png")
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    draw_validation(runs[:1], tmp_path / "c.png")
    heights = [
        int.from_bytes((tmp_path / f"{name}.png").read_bytes()[20:24], "big") for name in "ac"
    ]
    assert heights[0] > 1.8 * heights[1]


def test_picture_of_a_single_equal_step_is_drawn(tmp_path: Path) -> None:
    draw_validation([("one", validate(log_of([1.0]), log_of([1.0])))], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_shares_are_of_the_measured_seconds() -> None:
    result = validate(log_of([1.0] * 6), log_of([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    assert [row.share for row in result.strata[1:]] == pytest.approx([8 / 14, 4 / 14, 2 / 14])
