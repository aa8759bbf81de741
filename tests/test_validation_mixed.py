"""What docs/validation.md shows of mixed steps and of a batch answered on a GPU."""

import json
import shutil
from pathlib import Path

import pytest
from evidence_answers import ANSWERS, FOUND, STEPS, answer_tables, keep_answers, priced
from evidence_mixed import MIXED, mixed_tables
from evidence_runs import Run, read_runs
from gpu_evidence import keep_mixed
from validation import RESULTS

from blendsim.steplog import read_steplog


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS)


@pytest.fixture(scope="module")
def run(runs: list[Run]) -> Run:
    return runs[0]


MIXED_ROW = {
    "what": "row",
    "step": "s",
    "way": "by graphs",
    "rows": 512,
    "counts": {
        "prefill_tokens": 0,
        "prefill_requests": 0,
        "prefill_pairs": 0,
        "decode_requests": 213,
        "context_tokens": 132_060,
        "sampled_tokens": 213,
    },
    "seconds": 0.0118,
    "megahertz": 1658.9,
    "host": 0.0035,
    "runs": [{"seconds": 0.01}],
}


def test_of_mixed_steps_what_is_shown_is_kept_and_priced_anew(run: Run, tmp_path: Path) -> None:
    machine = {"what": "machine", "model": "llama-3.1-8b", "gpu": "h200", "layers": 32}
    stale = {"what": "model", "step": "s", "by": "shipped", "seconds": 9.0}
    (tmp_path / "found.json").write_text(json.dumps([machine, MIXED_ROW, stale]))
    keep_mixed(tmp_path / "found.json", tmp_path)
    kept = json.loads((tmp_path / MIXED).read_text())
    shown = {key: MIXED_ROW[key] for key in MIXED_ROW if key != "runs"}
    assert kept == [machine, {**shown, "megahertz": 1659}]
    made = mixed_tables([run._replace(place=tmp_path), run])
    _, _, measured, priced, missing = made["mixed-steps"]
    assert measured.startswith("| s | by graphs | 11.80 | 1,659 |")
    assert priced.startswith("| s | measured | 1")
    assert missing.startswith("| s | by graphs less measured | -0.")
    assert mixed_tables([run]) == {}


def test_an_answered_batch_is_shown_with_what_its_steps_kernels_take(
    runs: list[Run], tmp_path: Path
) -> None:
    kept = next(run.place for run in runs if (run.place / ANSWERS).is_dir()) / ANSWERS
    found = json.loads((kept / FOUND).read_text())
    source = tmp_path / "gpu-run"
    source.mkdir()
    told = {**found, "run": {**found["run"], "model": "/there", "results": "/there"}}
    (source / FOUND).write_text(json.dumps(told))
    shutil.copyfile(kept / STEPS, source / STEPS)
    keep_answers(source, tmp_path)
    assert json.loads((tmp_path / ANSWERS / FOUND).read_text()) == found
    made = answer_tables([runs[0]._replace(place=tmp_path)])
    assert made["answers"][-1].startswith("| 600 | 600 | 597 | 4,840 |")
    whole = made["answer-steps"][2].split(" | ")
    log = read_steplog(kept / STEPS)
    times = (log.time("seconds").sum(), found["run"]["rest_seconds"], priced(log).sum())
    assert whole[-4:-1] == [f"{x:.2f}" for x in times]
    # Fitted to its own steps it keeps their sum, but for the one without decodes.
    assert float(whole[-1].removesuffix(" |")) == pytest.approx(times[1], rel=0.01)
    assert answer_tables([runs[0]]) == {}
