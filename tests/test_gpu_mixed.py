"""bench/gpu_mixed.py and what it is made of: whole steps, timed and traced, beside the step model's
parts of them.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda_stand_in import install
from experiments import tracing
from experiments.mixing import DIRECT, GRAPHS, MIXES, Mix, MixWorld
from experiments.tracing import DECODE, GEMM, PREFILL, SMALL, Kernel, by_operator, last_runs
from gpu_mixed import Bench, Late, Pace, counted, findings, traced
from gpu_mixed_parts import KINDS, models_of, priced_parts
from gpu_mixed_table import main, tables
from test_gpu_imports import run

from blendrt.config import TINY
from blendrt.profiler.measure import Request, measure_profile
from blendsim.batch import Batch
from blendsim.errors import InputError
from blendsim.perf.derive import OPERATORS

CPU = torch.device("cpu")
FIFTH = Path(__file__).resolve().parents[1] / "bench/results/h200/fifth/profiles"
OWN = FIFTH / "h200/llama-3.1-8b/tp1"
MIXED = Batch(114, 1, 6_555, 275, 162_250, 276)

Found = dict[str, Any]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = Request(TINY, 1, CPU, minutes=0.02)
    return measure_profile(request, tmp_path_factory.mktemp("profiles")).directory


@pytest.fixture(scope="module")
def world() -> MixWorld:
    return MixWorld(TINY, CPU, 0)


def bench(out: Path, *more: str) -> tuple[list[Found], str]:
    """What the bench finds on a CPU, where the simulator's libraries are missing, and prints."""
    argv = ["gpu_mixed.py", "--device", "cpu", "--quick", "-o", str(out / "mixed.json"), *more]
    done = run(argv, "import gpu_mixed; gpu_mixed.main()")
    assert done.returncode == 0, done.stderr
    return json.loads((out / "mixed.json").read_text()), done.stdout


def test_steps_are_timed_and_traced_the_mixed_ones_first_and_then_priced(
    tmp_path: Path, profile: Path
) -> None:
    found, printed = bench(tmp_path, "--profile", str(profile))
    mixed, unlike, larger = (
        "6 decodes at 20, 5 prompt tokens",
        "6 decodes at 20, unlike",
        "6 decodes at 20, 14 prompt tokens",
    )
    others = [(larger, DIRECT), (mixed, DIRECT)]
    assert [(f["what"], f["step"], f.get("way", "model")) for f in found[1:]] == [
        ("row", mixed, GRAPHS),
        ("trace", mixed, GRAPHS),
        *(("row", *one) for one in others),
        *(("trace", *one) for one in others),
        ("row", unlike, GRAPHS),
        ("trace", unlike, GRAPHS),
        *(("model", step, "model") for step in (mixed, larger, unlike)),
    ]
    assert found[1]["counts"] == Batch(5, 1, 15, 6, 120, 7)._asdict()
    assert found[3]["counts"]["prefill_pairs"] == 2 * (7 * 4 + 7 * 8 // 2)
    # Each way of a step, then the model and what it misses; operators of a CPU are no decoder's.
    lines = [line for line in printed.splitlines() if line.startswith("| 6 decodes")]
    assert len(lines) == 4 + 2 * 3 + 3


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    found, printed = bench(tmp_path, "--within", "0")
    assert [f["what"] for f in found] == ["machine", "left out"]
    assert "Left out: rows from some step on: 0 s are over" in printed


def test_a_slow_start_leaves_a_trace_of_the_mixed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up as the second of three groups of steps begins."""
    checks = iter(range(99))

    def check(*_: object) -> None:
        if next(checks) >= 3:  # a row, traces, a trace
            raise Late

    monkeypatch.setattr(Bench, "check_time", check)
    given = argparse.Namespace(model="tiny", kv_gb=0.0, quick=True, within=75.0)
    with torch.inference_mode():
        found = list(findings(given, 0.0, CPU))
    assert [f["what"] for f in found] == ["machine", "row", "trace", "left out"]
    assert found[-1]["why"] == "rows from some step on: 75 s are over"


def test_a_profile_of_another_model_is_an_error_in_a_line(tmp_path: Path) -> None:
    argv = ["gpu_mixed.py", "--device", "cpu", "-o", str(tmp_path / "x"), "--profile", str(OWN)]
    done = run(argv, "import gpu_mixed; gpu_mixed.main()")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {OWN}: is of llama-3.1-8b")
    assert not (tmp_path / "x").exists()


def test_small_steps_run_as_graphs_of_more_rows_and_larger_ones_kernel_by_kernel(
    world: MixWorld,
) -> None:
    small, large = Mix(6, 20, 1, 5), Mix(6, 20, 2, 7)
    assert [world.engines_way(mix) for mix in (small, large)] == [GRAPHS, DIRECT]
    assert world.step(small, GRAPHS).rows in world.graph_rows
    assert world.step(small, DIRECT).rows == 11


def test_both_ways_choose_the_same_tokens(world: MixWorld) -> None:
    step = world.step(Mix(6, 20, 1, 5), GRAPHS)
    direct = world._executors[DIRECT]
    assert torch.equal(step.run(), direct.run(step.inputs))


def test_unlike_contexts_keep_their_mean_and_no_page_is_in_two_places(world: MixWorld) -> None:
    layout = world.step(Mix(8, 60, 1, 5, is_unlike=True), DIRECT).inputs.layout
    contexts = layout.decode_pages.lengths(16).numpy()
    assert abs(contexts.mean() - 60) <= 0.5
    assert contexts.max() > 2 * contexts.min()
    pages = np.concatenate((layout.prefill_pages.numbers, layout.decode_pages.numbers))
    assert len(set(pages.tolist())) == len(pages)


def test_a_step_that_the_pool_cannot_hold_says_how_much_it_needs(world: MixWorld) -> None:
    with pytest.raises(InputError, match="needs 70 KV pages and the pool has 64"):
        world.step(Mix(70, 16), DIRECT)


def test_names_of_steps_tell_them_apart() -> None:
    assert len({mix.name for mix in MIXES}) == len(MIXES)


def decoder(layers: int, start: float) -> list[Kernel]:
    """A decoder's kernels, its head's GEMM in two parts."""
    layer = {"_norm": 0.25, "nvjet_qkv": 1.0, "nvjet_o": 2.0, "nvjet_gate_up": 3.0, "nvjet_d": 4.0}
    head = {"nvjet_head_splitK": 5.0, "void cublasLt::splitKreduce_kernel<32>": 0.5}
    kernels = [*layer.items()] * layers + [*head.items()]
    return [Kernel(7, name, start + 5.0 * i, seconds) for i, (name, seconds) in enumerate(kernels)]


def test_gemms_are_told_apart_by_their_order() -> None:
    kernels = decoder(2, 0.0) + decoder(2, 100.0)
    told = by_operator(reversed(kernels), 2, 2)
    assert told == dict(zip(OPERATORS, (2.0, 4.0, 6.0, 8.0, 5.5), strict=True))
    assert by_operator(kernels[2:], 2, 2) == {}


def test_the_second_half_of_a_row_counts() -> None:
    kernels = [kernel for i in range(4) for kernel in decoder(1, 100.0 * i)]
    last, runs = last_runs(kernels[::-1], 4)
    assert (last, runs) == (kernels[-14:], 2)
    assert last_runs(kernels[1:], 4) == (kernels[1:], 4)


def test_the_priced_parts_a_step_are_those_of_the_step_model() -> None:
    shipped, own = models_of("llama-3.1-8b", "h200", [OWN])
    assert (shipped.name, own.name) == ("shipped", str(OWN))
    for one in (shipped, own):
        told = priced_parts(one, MIXED._asdict())
        assert told["seconds"] == pytest.approx(sum(one.model.seconds(MIXED)[:2]))
        # The step model's weights stream no faster than memory does; none of these would.
        assert told["kinds"][GEMM] == pytest.approx(sum(told["operators"].values()))
    assert priced_parts(own, Batch(0, 0, 0, 8, 80, 8)._asdict())["kinds"][PREFILL] == 0.0


def test_a_traced_run_takes_its_own_time_without_the_clocks_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = install(monkeypatch)

    def seen(_: torch.device, row: Any) -> list[Kernel]:
        row()  # four runs, the spins of the clock between them
        return [Kernel(7, "nvjet", 0.05 * i, 0.03) for i in range(4)]

    monkeypatch.setattr(tracing, "trace", seen)
    world = SimpleNamespace(device=torch.device("cuda", 0), layers=1)
    step = SimpleNamespace(run=lambda: device.work("step", 0.04))
    told = traced(Bench(world, Pace(0.0, 0.0, 0.0, 0.0), 0.0), step)
    assert (told["seconds"], told["megahertz"]) == pytest.approx((0.04, 2000.0))
    assert (told["busy"], told["idle"]) == pytest.approx((0.03, 0.01))
    assert (told["counted"], told["kernels"]) == (2, 1.0)


def test_runs_count_when_the_row_has_settled() -> None:
    assert counted(175, Pace(1.5, 1.0, 0.0, 0.0)) == 70
    assert counted(1, Pace(1.5, 1.0, 0.0, 0.0)) == 1


def test_kinds_are_called_as_traces_call_them() -> None:
    assert (GEMM, DECODE, PREFILL, SMALL) == KINDS


def found_of(seconds: float) -> list[Found]:
    """What the bench writes of one step."""
    step = {"step": "s", "way": GRAPHS, "rows": 512}
    kinds = {GEMM: 8e-3, DECODE: 4e-3, PREFILL: 3e-4, SMALL: 6e-4}
    operators = dict(zip(OPERATORS, (1e-3, 1e-3, 3e-3, 2e-3, 1e-3), strict=True))
    ran = {"seconds": seconds, "megahertz": 1650.0}
    trace = {"idle": 4e-4, "busy": 12.9e-3, "kinds": kinds, "operators": operators}
    counts = MIXED._asdict()
    return [
        {"what": "machine", "layers": 32, "model": "llama-3.1-8b", "gpu": "h200"},
        {"what": "row", **step, **ran, "host": 4e-3, "counts": counts},
        {"what": "trace", **step, **ran, **trace},
    ]


def test_the_table_says_what_the_model_misses_kind_by_kind() -> None:
    kinds = {GEMM: 7.5e-3, DECODE: 3.9e-3, PREFILL: 4e-4, SMALL: 5e-4}
    operators = dict(zip(OPERATORS, (1e-3, 1e-3, 3e-3, 2e-3, 0.5e-3), strict=True))
    model = {"seconds": 12.3e-3, "kinds": kinds, "operators": operators}
    lines = list(tables([*found_of(0.0135), {"what": "model", "step": "s", "by": "own", **model}]))
    assert [line for line in lines if line.startswith("| s |")] == [
        "| s | by graphs | 13.50 | 1,650 | 8.00 | 1.00 | 4.00 | 0.30 | 0.60 | 0.40 | 13.50 | 1,650 "
        "| 4.00 |",
        "| s | own | 12.30 |  | 7.50 | 0.50 | 3.90 | 0.40 | 0.50 |  |  |  |  |",
        "| s | by graphs less own | +1.20 | -8.9% | +0.50 | +0.50 | +0.10 | -0.10 | +0.10 | +0.60 "
        "|  |  |  |",
        "| s | by graphs | 512 | 31.2 | 31.2 | 93.8 | 62.5 | 218.8 | 1000.0 |",
        "| s | own |  | 31.2 | 31.2 | 93.8 | 62.5 | 218.8 | 500.0 |",
    ]


def test_what_was_written_is_shown_beside_other_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(found_of(0.0135)))
    monkeypatch.setattr(sys, "argv", ["gpu_mixed_table.py", str(path), "--profile", str(OWN)])
    main()
    printed = capsys.readouterr().out
    assert f"| s | by graphs less {OWN} |" in printed
    assert "| s | by graphs less shipped |" in printed


@pytest.mark.parametrize(("text", "words"), [("[]", "it says of no machine"), ("{", "Expecting")])
def test_another_file_is_an_error_in_a_line(
    text: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["gpu_mixed_table.py", str(path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert words in capsys.readouterr().err.splitlines()[-1]
