"""bench/gpu_cut.py and what it is made of: ways to run a step, timings of them, sums of a trace;
and bench/cut_model.py, which says what such a step should take.
"""

import json
import sys
from pathlib import Path

import cut_said
import numpy as np
import pytest
import torch
from cuda_stand_in import install
from cut_model import Half, Parts, durations, main, play
from cut_waits import of_halves, of_kernels
from experiments.cutting import ALL, ATTENTION, GEMMS, is_in
from experiments.stepping import Ran, far_ahead, in_a_row, issue_seconds
from experiments.tracing import (
    DECODE,
    GEMM,
    PREFILL,
    SMALL,
    Kernel,
    kind_of,
    summed_up,
    trace,
)
from gpu_cut_table import trace_line
from test_gpu_imports import run

from blendrt.executor.schedule import Lane, Piece, build_schedule
from blendsim.errors import Unavailable

GPU = torch.device("cuda", 0)
PLACE = Path(__file__).resolve().parents[1] / "bench" / "results" / "h200" / "second"


def bench(out: Path, *more: str) -> tuple[list[dict[str, object]], str]:
    """What the bench finds on a CPU, where the simulator's libraries are missing, and prints."""
    argv = ["gpu_cut.py", "--device", "cpu", "--quick", "-o", str(out / "cut.json"), *more]
    done = run(argv, "import gpu_cut; gpu_cut.main()")
    assert done.returncode == 0, done.stderr
    return json.loads((out / "cut.json").read_text()), done.stdout


def test_the_bench_runs_every_way_a_cpu_has_without_the_simulators_libraries(
    tmp_path: Path,
) -> None:
    found, printed = bench(tmp_path)
    steps = [(f["way"], f["part"]) for f in found if f["what"] == "step"]
    assert steps == [
        ("whole", ALL),
        ("halves, one stream", ALL),
        ("whole", GEMMS),
        ("halves, one stream", GEMMS),
        ("halves, one stream", ATTENTION),
    ]
    traces = [(f["way"], f["how"]) for f in found if f["what"] == "trace"]
    assert [traces[0], traces[-1]] == [("whole", "far ahead"), ("halves, one stream", "in a row")]
    assert "Left out: parts of the SMs: no GPU" in printed
    assert printed.count("\n| 6 decodes at 20") == len(steps) + len(traces)


def test_the_bench_stops_when_its_time_is_over_and_says_so(tmp_path: Path) -> None:
    found, printed = bench(tmp_path, "--within", "0")
    assert [f["what"] for f in found] == ["machine", "left out", "left out"]
    assert "0 s are over" in printed


def test_attention_alone_has_the_first_layers_queries_and_all_decodes() -> None:
    tasks = [task for task in build_schedule(3).tasks if is_in(task, ATTENTION)]
    starts = [task for task in tasks if task.piece is Piece.START]
    assert [(task.nano, task.layer) for task in starts] == [(0, 0), (1, 0)]
    assert sum(task.piece is Piece.DECODE for task in tasks) == 6
    assert len(tasks) == 8


def test_runs_in_a_row_are_told_with_the_clock_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    device = install(monkeypatch)
    told = in_a_row(GPU, lambda: device.work("step", 0.04), 0.0)
    # The stand-in's clock is 2 GHz.
    assert [ran.seconds for ran in told] == pytest.approx([0.04] * 4)
    assert [ran.megahertz for ran in told] == pytest.approx([2000.0] * 4)


def test_a_run_far_ahead_begins_when_the_gpu_has_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    device = install(monkeypatch)
    ahead = far_ahead(GPU, lambda: device.work("step", 0.04), 1.0)
    assert ahead.ran == Ran(pytest.approx(0.04), pytest.approx(2000.0))
    assert ahead.is_ahead  # issuing takes microseconds here, and the sleep 1.5 s of nobody's time
    assert device.current.time > 1.5


def test_a_run_is_issued_to_a_gpu_that_has_nothing_else_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch)
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: log.append("wait"))
    issue_seconds(GPU, lambda: log.append("run"))
    assert log == ["wait", "run", "wait"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNT", GEMM),
        ("void flashinfer::BatchPrefillWithPagedKVCacheKernel<KernelTraits<(MaskMode)0>>", DECODE),
        ("void flashinfer::BatchPrefillWithPagedKVCacheKernel<KernelTraits<(MaskMode)1>>", PREFILL),
        ("void flashinfer::PersistentVariableLengthMergeStatesKernel<8u, 16u>", DECODE),
        ("void cutlass::device_kernel<flashinfer::PrefillWithKVCacheKernel<Mainloop>>", PREFILL),
        ("_rms_norm", SMALL),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_profiler_that_does_not_work_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no kineto")

    monkeypatch.setattr(torch.profiler, "profile", refuse)
    with pytest.raises(Unavailable, match="no trace, RuntimeError: no kineto"):
        trace(torch.device("cpu"), lambda: None)


def test_a_trace_is_summed_up_by_lane_and_by_who_is_alone() -> None:
    kernels = [
        Kernel(7, "nvjet_a", 0.0, 2.0),  # GEMMs: 0 to 2, 3 to 6
        Kernel(7, "_rms_norm", 3.0, 1.0),
        Kernel(7, "nvjet_b", 4.0, 2.0),
        Kernel(9, "BatchPrefillWithPagedKVCacheKernel", 1.0, 4.0),  # attention: 1 to 5
        Kernel(1, "nvjet_head", 7.0, 1.0),
    ]
    told = summed_up(kernels, 2)
    assert told["seconds"] == 4.0
    assert told["kinds"] == {GEMM: 2.5, SMALL: 0.5, DECODE: 2.0}
    assert told["alone"] == {"gemm lane": 1.0, "decode attention lane": 0.5, "stream 1": 0.5}
    assert (told["together"], told["idle"]) == (1.5, 0.5)
    assert told["decode_tenths"] == [4.0] * 5
    lane = told["streams"]["gemm lane"]
    assert (lane["busy"], lane["gaps"], lane["gap_seconds"], lane["gap_median"]) == (
        2.5,
        0.5,
        0.5,
        1.0,
    )


def test_kernels_that_overlap_on_one_stream_count_once() -> None:
    told = summed_up([Kernel(1, "a", 0.0, 3.0), Kernel(1, "b", 1.0, 1.0)], 1)
    assert told["alone"] == {"stream 1": 3.0}
    assert (told["together"], told["idle"]) == (0.0, 0.0)


@pytest.mark.parametrize("decode", [1.0, 5.0, 6.0, 9.0])
def test_a_schedule_of_equal_halves_takes_the_longer_lane_and_its_ends(decode: float) -> None:
    """Between the ends nobody waits for anything but the longer lane, however unlike they are."""
    layers, half = 50, Half(start=2.0, decode=decode, rest=4.0)
    schedule = build_schedule(layers)
    took = play(schedule, durations(schedule, half, half))
    longer = 2 * layers * max(half.dense, half.decode)
    assert longer <= took <= longer + half.dense + half.decode


def test_unlike_halves_and_kernels_make_even_lanes_wait() -> None:
    alike = of_halves(1.0, 0.0)
    assert alike < 0.02  # the ends
    # A phase takes the larger half's longer piece, every time.
    assert of_halves(1.0, 0.1) - alike == pytest.approx(0.1, abs=0.01)
    assert of_kernels(1.0, 0.1, np.random.default_rng(0), draws=3) > alike + 0.02
    assert of_halves(0.5, 0.1) < 0.02  # where one lane has time to spare nobody waits for it


def test_lanes_that_slow_each_other_do_so_only_while_both_run() -> None:
    half = Half(start=2.0, decode=3.0, rest=4.0)
    schedule = build_schedule(1)
    seconds = durations(schedule, half, half)
    # Start A alone; start B with A's decodes (2 of 3 done), 1 left and B's wait, rest A with B's
    # decodes, then rest B.
    assert play(schedule, seconds) == pytest.approx(2 + 2 + 1 + 4 + 4)
    assert play(schedule, seconds, 1.5) == pytest.approx(2 + 3 + 1 + (3 * 1.5 + 1) + 4)


def test_tasks_of_the_whole_gpu_take_what_they_take_there() -> None:
    schedule = build_schedule(2)
    parted, whole = Half(2.0, 3.0, 4.0), Half(1.0, 1.5, 2.5)
    seconds = durations(schedule, parted, whole)
    assert {seconds[t] for t in schedule.tasks if t.lane is Lane.WHOLE} == {1.0, 2.5}
    assert {seconds[t] for t in schedule.tasks if t.lane is Lane.ATTENTION} == {3.0}


def test_parts_of_the_gpu_are_as_fast_as_they_were_measured() -> None:
    found = json.loads((PLACE / "partitions.json").read_text())
    parts = Parts(found)
    assert parts.chip == 132
    assert parts.gemm_speed("gate_up", 512, 132) == 1.0
    assert parts.read_speed(256 * 1024, 64) == pytest.approx(0.74, abs=0.005)  # docs/validation.md
    assert all(1.0 < parts.slowing(share) < 1.5 for share in (48, 56, 64))


def test_the_account_of_cut_steps_has_a_row_a_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cut_model.py", str(PLACE)])
    main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[:3] for line in lines][:2] == [
        ["trace1, blend, overlap", "48", "65"],
        ["trace1, blend, overlap", "64", "68"],
    ]
    for line in lines:
        whole, halves, lanes, slowed, scheduled = map(float, line[3:8])
        assert lanes < whole < halves
        assert lanes < slowed <= scheduled


def test_what_was_said_of_cut_steps_stands_beside_what_they_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """bench/cut_model.md shows this table."""
    cut_said.main()
    printed = capsys.readouterr().out
    assert printed in (Path(cut_said.__file__).parent / "cut_model.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    assert {line[1] for line in cells} == {"48", "64"}
    slowed = [tuple(map(float, line[6].split(" / "))) for line in cells]
    assert all(1.0 < said < took for said, took in slowed)


def test_the_table_of_a_trace_tells_lanes_and_gaps() -> None:
    lanes = [
        Kernel(7, "nvjet_a", 0.0, 2e-3),
        Kernel(7, "nvjet_b", 3e-3, 2e-3),
        Kernel(9, "BatchPrefillWithPagedKVCacheKernel", 1e-3, 3e-3),
    ]
    found = {"step": "s", "way": "w", "how": "far ahead", **summed_up(lanes, 1)}
    assert trace_line(found) == (
        "| s | w | far ahead | 5.00 | 0.00 | 2.00 | 2.00 | 1.00 | 4.00 | 3.00 | 0.00 | 0.00 | 3 "
        "| 1, 1.00 ms, median 1000.0 µs | 0, 0.00 ms, median 0.0 µs | 3000 (3000 to 3000) µs |"
    )
