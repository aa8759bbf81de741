"""The runtime on a GPU against the step model: all that is kept of runs there (gpu_evidence.py),
as the tables of docs/validation.md and the data of its pictures.

    python bench/validation.py && python figures/validation.py

reads bench/results/h200/*/ and puts each table, and what the page says in short, behind its
`<!-- name -->`; the words around them are written by hand. tests/test_validation_tables.py holds
the tables to the files.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from evidence_answers import answer_tables
from evidence_calibrated import calibrated_gain_table, calibrated_table
from evidence_cut import cut_tables
from evidence_engines import (
    engine_kind_table,
    engine_ratio_table,
    engine_step_table,
    engine_table,
)
from evidence_gemms import algorithm_tables
from evidence_kernels import (
    chunk_table,
    correctness_table,
    decode_table,
    gemm_table,
    launching_table,
    machine_table,
    skew_table,
    verdict_table,
)
from evidence_mixed import mixed_tables
from evidence_overlap import fit_table, gains, ratio_table, read_pairs, speed_table, speeds
from evidence_parts import part_tables
from evidence_replays import error_table, replay_table, speedup_table, target_table
from evidence_runs import Run, read_runs
from evidence_short import short_lines
from evidence_steps import (
    cause_table,
    group_table,
    sequential,
    settling_table,
    stairs_of,
    steps_of,
    twin_table,
)
from evidence_visits import own_table, visit_table

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "validation.md"
RESULTS = ROOT / "bench" / "results" / "h200"
PICTURES = ROOT / "build" / "validation"  # their data, which is not kept
_BLOCK = re.compile(r"<!-- ([a-z-]+) -->\n((?:[|>].*\n)*)")


def profiled(runs: list[Run]) -> list[Run]:
    """Those that measured a profile of their own."""
    return [run for run in runs if run.has_profile]


def priced_by_own(runs: list[Run]) -> list[Run]:
    """Those of them whose replays are priced by it; the last one's is shipped."""
    return [run for run in profiled(runs) if run.prices_itself]


def tables(runs: list[Run]) -> dict[str, str]:
    """Every block of the document, tables but for the first: of all runs, or where one run says
    enough of the last whose own profile prices it.
    """
    own = profiled(runs)
    last = priced_by_own(runs)[-1]
    made = {
        "short": short_lines(runs),
        "targets": target_table(runs),
        "machine": machine_table(runs),
        "correctness": correctness_table(runs),
        "kernels": verdict_table(own),
        "gemm": gemm_table(last),
        "decode": decode_table(last),
        "skew": skew_table(own),
        "chunks": chunk_table(own),
        "fit": fit_table(own),
        "overlap": ratio_table(last),
        "speeds": speed_table(last),
        "replays": replay_table(runs),
        "errors": error_table(runs),
        "speedups": speedup_table(runs),
        "own-errors": own_table(runs),
        "own-kernels": visit_table(runs),
        "engines": engine_table(runs),
        "engine-ratios": engine_ratio_table(runs),
        "engine-kinds": engine_kind_table(runs),
        "engine-steps": engine_step_table(runs),
        "calibrated": calibrated_table(runs),
        "calibrated-gains": calibrated_gain_table(runs),
        "launching": launching_table(runs),
        "groups": group_table(runs),
        "causes": cause_table(own),
        "twins": twin_table(runs),
        "settling": settling_table(runs),
        **part_tables(runs),
        **cut_tables(runs),
        **algorithm_tables(runs),
        **mixed_tables(runs),
        **answer_tables(runs),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def woven(text: str, made: dict[str, str]) -> str:
    """The text with every block put behind its name; all of them are asked for, and no other."""
    asked = [name for name, _ in _BLOCK.findall(text)]
    assert sorted(asked) == sorted(made), f"{set(asked) ^ set(made)} is not in both"
    return _BLOCK.sub(lambda found: f"<!-- {found[1]} -->\n{made[found[1]]}", text)


def step_rows(runs: list[Run]) -> Iterator[list[object]]:
    """Every step of the full replays of the last run that brought several to their end: what it
    holds, its time and its price.
    """
    run = next(run for run in reversed(runs) if sum(r.is_whole for r in run.replays) > 1)
    yield ["replay", "start", "group", "tokens", "measured", "price"]
    for replay in run.replays:
        if replay.is_sampled:
            continue
        steps = steps_of(run, replay)
        start = replay.log.time("start")
        for name, is_here in steps.groups.items():
            for i in np.flatnonzero(is_here):
                told = (f"{1e3 * x:.3f}" for x in (steps.seconds[i], steps.price[i]))
                yield [replay.name, f"{start[i]:.3f}", name, int(steps.tokens[i]), *told]


def dense_rows(runs: list[Run]) -> Iterator[list[object]]:
    """What decode-only steps of sequential replays take less their attention, in milliseconds:
    measured, by lines between measured sizes, and by the staircase.
    """
    yield ["tokens", "measured", "lines", "stairs"]
    for run, replay in sequential(priced_by_own(runs)[-1:]):
        steps, stairs = steps_of(run, replay), stairs_of(run, replay)
        times = np.column_stack((steps.seconds, steps.parts.total, stairs.total))
        dense = times - steps.parts.memory[:, None]
        for i in np.flatnonzero((steps.prefill_tokens == 0) & ~steps.is_late):
            yield [int(steps.tokens[i]), *(f"{1e3 * x:.3f}" for x in dense[i])]


def pair_rows(runs: list[Run]) -> Iterator[list[object]]:
    """What every pair gained under every share."""
    pairs = read_pairs(priced_by_own(runs)[-1])
    gain = gains(pairs)
    yield ["memory_over_compute", "attention_sms", "gain"]
    for i in range(len(gain)):
        ratio = pairs.memory[i] / pairs.compute[i]
        yield [f"{ratio:.4f}", int(pairs.attention_sms[i]), f"{gain[i]:.4f}"]


def speed_rows(runs: list[Run]) -> Iterator[list[object]]:
    """Speeds on a share of the GPU."""
    yield ["attention_sms", "attention", "gemm"]
    for sms, attention, gemm in speeds(priced_by_own(runs)[-1]):
        yield [sms, f"{attention:.4f}", f"{gemm:.4f}"]


def _write(path: Path, rows: Iterable[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    """Write the tables and the pictures' data."""
    runs = read_runs(RESULTS)
    DOCUMENT.write_text(woven(DOCUMENT.read_text(), tables(runs)))
    PICTURES.mkdir(parents=True, exist_ok=True)
    for rows in (step_rows, dense_rows, pair_rows, speed_rows):
        _write(PICTURES / f"{rows.__name__}.csv", rows(runs))


if __name__ == "__main__":
    main()
