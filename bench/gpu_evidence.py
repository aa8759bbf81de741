"""Keep what gpu_check.py found: its output folder becomes a small folder that can be committed.

    python bench/gpu_evidence.py gpu-check first [--rows CSV] [--partitions JSON] [--cut JSON]
                                    [--vllm FOLDER --plans FOLDER] [--gemms JSON]
                                    [--mixed JSON] [--answers FOLDER] [--ship]

writes bench/results/<gpu>/<name>: findings, step logs and the measured profile. Of a sampled
replay only the steps that were measured are kept, with what the whole run is estimated to take and
what the step models say of it. `--rows` are kernel figures of somebody else (see gpu_kernels.py):
what the comparison gives is kept, not the rows. `--partitions` is what gpu_partitions.py wrote,
`--cut` what gpu_cut.py did, of which tenths of a microsecond are kept, `--gemms` what gpu_gemms.py
and `--mixed` what gpu_mixed.py did, of which what tables show is kept, `--answers` the folder that
gpu_run.py did, and `--vllm` that of gpu_vllm.py, of the plans in `--plans`; of a run that was cut
short the steps there are.
`--ship` makes the measured profiles the ones that `profile = "measured"` means:
profiles/<gpu>/measured/<model>/tp<N>.

Kept again, later, from the same folder, a run is priced anew. Where its logs do not say which steps
were cut in two halves, as those of older code do not, what was said of it stays; where nothing was,
the executor's rule is asked again, by the run's own profile. The check lays logs of full pools
beside its archive: put them into the folder first.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from evidence_answers import keep_answers, without_folders
from evidence_cut import CUT
from evidence_engines import SIMULATED, VLLM, Called, called, told_by, told_by_first
from evidence_gemms import ALGORITHMS, summary
from evidence_mixed import MIXED
from evidence_mixed import summary as summary_of_mixed
from evidence_parts import PARTITIONS
from evidence_runs import (
    HALVED,
    KEPT_AS,
    KEPT_OF,
    OVERLAP,
    PROFILES,
    ROWS,
    prices_of,
    profile_of,
    system_of,
)
from gpu_kernels import compare, of_rows
from gpu_plans import blendsim
from gpu_vllm import BROKEN

from blendsim.batch import Batch
from blendsim.perf.calibration import file_of
from blendsim.perf.measured import MEASURED as SHIPPED_AS
from blendsim.perf.measured import (
    measured_model,
    measured_shares,
    profile_place,
    shipped_place,
)
from blendsim.perf.store import profiles_directory, read_profile
from blendsim.plan import read_plan
from blendsim.settings import Settings
from blendsim.steplog import MEASURED_ROWS, StepLog, read_steplog, row_ranges, write_steplog
from blendsim.system import System

RESULTS = Path(__file__).parent / "results"
EXECUTORS = ("overlap", "sequential")
PROFILE_STAGE = "profile.json"
SECONDS_PLACES = 7  # of --cut
MEGAHERTZ = "megahertz"
#: Times in step logs are kept in whole ones of these, an eighth of a microsecond: events tell no
#: more, and binary fractions of few digits compress.
GRAIN = 2.0**-23
PRICED = "-priced"  # what the step model said then; it is asked again when tables are made
DEVICE, BACKEND = "h200_sxm", "vllm"  # of --rows


def keep(source: Path, target: Path) -> None:
    """Copy what counts; an older folder of that name is replaced as a whole."""
    require_logs(source)
    before = {p.name: read_steplog(p).meta[HALVED] for p in target.glob("*.parquet")}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.json")):
        shutil.copyfile(path, target / path.name)
    told = source / PROFILE_STAGE
    if told.exists() and json.loads(told.read_text())["done"]:  # else it was measured before
        ignored = shutil.ignore_patterns(".*")
        shutil.copytree(source / PROFILES, target / PROFILES, ignore=ignored)
    for path in sorted(source.glob("*.parquet")):
        if not path.stem.endswith(PRICED):
            log = _shortened(read_steplog(path), target)
            if HALVED not in log.meta:
                cut = before[path.name] if path.name in before else halved(log, target)
                log = replace(log, meta={**log.meta, HALVED: cut})
            write_steplog(in_grains(log), target / path.name)


def in_grains(log: StepLog) -> StepLog:
    """The log with its times in whole grains, and without the folders that files lay in."""
    times = np.round(log.times / GRAIN) * GRAIN
    return without_folders(replace(log, times=times))


def require_logs(source: Path) -> None:
    """Exit where a replay that was measured has no log: those of full pools lie elsewhere."""
    for told in source.glob("replay-*.json"):
        pool = told.stem.removeprefix("replay-")
        for finding in json.loads(told.read_text())["findings"]:
            policy, _, executor = finding["what"].partition(", ")
            log = source / f"{pool}-{policy}-{executor}.parquet"
            if executor in EXECUTORS and finding["ok"] and not log.exists():
                sys.exit(f"error: {told} tells of a replay without {log.name}; put it there")


def keep_vllm(source: Path, plans: Path, target: Path) -> None:
    """Put vLLM's logs into a folder of the run's, and what the simulator says of the same plans
    under vLLM's rules: of a run that was cut short, of as many steps. Kernels alone say it, as of
    earlier visits; the seconds by today's calibration stand beside that.
    """
    place = target / VLLM
    place.mkdir()
    simulated = {}
    for path in sorted(source.glob("*.parquet")):
        stem = path.stem.removesuffix(BROKEN)
        if (name := called(stem)) is None:
            continue
        log = read_steplog(path)
        write_steplog(in_grains(log), place / f"{stem}.parquet")
        said = simulate(plans, name, by_kernels=True)
        whole = bool(log.meta["complete"])
        told = told_by(said) if whole else told_by_first(said, len(log))
        if whole:
            told = told._replace(calibrated=told_by(simulate(plans, name)).seconds)
        simulated[stem] = told._asdict()
    (place / SIMULATED).write_text(json.dumps(simulated, indent=1) + "\n")


def simulate(plans: Path, name: Called, *, by_kernels: bool = False) -> StepLog:
    """A plan on vLLM, scheduling by itself or following it, by the command a user has, and where it
    is asked for by the measured kernels alone, without what whole steps were found to take beyond
    them. The pool beside the plan is taken: plans that came from elsewhere tell where it lay there.
    """
    plan, pool = plans / f"{name.plan}.parquet", plans / f"{name.pool}.parquet"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps.parquet"
        of = ("--engine", name.engine, "--token-budget", str(name.budget), "-o", str(log))
        of += () if name.running is None else ("--max-running", str(name.running))
        of += ("--workload", str(pool)) if pool.exists() else ()
        if by_kernels:
            system = Settings(**read_plan(plan).meta["settings"]).system
            of += ("--profile", str(kernels_alone(system, Path(folder))))
        blendsim("simulate", str(plan), *of)
        return read_steplog(log)


def kernels_alone(system: System, folder: Path) -> Path:
    """The folder, with the measured profile that is shipped for a system, less its calibrations."""
    ignored = shutil.ignore_patterns(file_of("*"))
    shutil.copytree(shipped_place(system), profile_place(folder, system), ignore=ignored)
    return folder


def halved(log: StepLog, target: Path) -> list[list[int]]:
    """Rows that the executor's rule cuts in two halves, for a log that does not say."""
    from blendrt.executor.rule import OverlapRule

    if log.meta["executor"] != OVERLAP or not len(log):
        return []
    place = profile_of(target, log)
    shares = measured_shares(place) if log.meta["sm_partition"] else None
    rule = OverlapRule(model=measured_model(place, system_of(log)), shares=shares)
    width = len(Batch._fields)
    cut = [rule.attention_sms(Batch(*row[:width])) is not None for row in log.counts.tolist()]
    return row_ranges(np.array(cut))


def _shortened(log: StepLog, target: Path) -> StepLog:
    """The log, or of a sampled one the measured steps alone."""
    if MEASURED_ROWS not in log.meta:
        return log
    rows, prices = log.is_timed, prices_of(log, profile_of(target, log))
    whole = {"steps": len(log), **{KEPT_AS[name]: float(prices[name].sum()) for name in KEPT_AS}}
    tokens = int(log.count("prefill_tokens").sum() + log.count("decode_requests").sum())
    meta: Mapping[str, Any] = {
        **{key: value for key, value in log.meta.items() if key != "strata"},
        MEASURED_ROWS: np.arange(int(rows.sum())).tolist(),
        KEPT_OF: whole | {"tokens": tokens},
    }
    if HALVED in log.meta:
        meta = {**meta, HALVED: row_ranges(log.is_halved[rows])}
    return StepLog(log.counts[rows], log.times[rows], log.replica[rows], meta)


def beside_rows(target: Path, rows: Path) -> None:
    """Write what the comparison of the measured kernels with somebody else's gives."""
    for place in sorted((target / "profiles").glob("*/*/tp1")):
        verdicts = compare(read_profile(place), of_rows(rows, DEVICE, BACKEND))
        told = [verdict._asdict() for verdict in verdicts]
        (target / ROWS).write_text(json.dumps({"rows": rows.name, "verdicts": told}, indent=1))


def keep_cut(found: Path, target: Path) -> None:
    """Write what gpu_cut.py found, a measurement a line, without digits that say nothing."""
    _write_lines(target / CUT, json.loads(found.read_text()))


def keep_mixed(found: Path, target: Path) -> None:
    """Write what is shown of gpu_mixed.py's findings, one a line."""
    _write_lines(target / MIXED, summary_of_mixed(json.loads(found.read_text())))


def _write_lines(path: Path, found: list[dict[str, Any]]) -> None:
    lines = (json.dumps(_rounded(one), separators=(",", ":")) for one in found)
    path.write_text("[" + ",\n".join(lines) + "]\n")


def keep_gemms(found: Path, target: Path) -> None:
    """Write what is shown of gpu_gemms.py's findings, a size a line."""
    told = summary(json.loads(found.read_text()))
    sizes = ",\n".join(json.dumps(one) for one in told.pop("microseconds"))
    facts = json.dumps(told)[:-1]
    (target / ALGORITHMS).write_text(f'{facts}, "microseconds": [\n{sizes}]}}\n')


def _rounded(told: Any, name: str = "seconds") -> Any:
    """Seconds to a tenth of a microsecond, clocks to a megahertz."""
    if isinstance(told, dict):
        return {key: _rounded(value, key) for key, value in told.items()}
    if isinstance(told, list):
        return [_rounded(value, name) for value in told]
    if isinstance(told, float):
        return round(told) if name == MEGAHERTZ else round(told, SECONDS_PLACES)
    return told


def ship(target: Path) -> None:
    """Put the run's profiles beside the imported ones."""
    for place in sorted((target / "profiles").glob("*/*/tp*")):
        gpu, model, size = place.parts[-3:]
        there = profiles_directory() / gpu / SHIPPED_AS / model / size
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(place, there)


def main() -> None:
    """Keep one check's output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="gpu_check.py's output folder")
    parser.add_argument("name", help="of the run: first, second, …")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--rows", type=Path, help="a CSV of somebody else's kernel figures")
    parser.add_argument("--partitions", type=Path, help="what gpu_partitions.py wrote")
    parser.add_argument("--cut", type=Path, help="what gpu_cut.py wrote")
    parser.add_argument("--gemms", type=Path, help="what gpu_gemms.py wrote")
    parser.add_argument("--mixed", type=Path, help="what gpu_mixed.py wrote")
    parser.add_argument("--answers", type=Path, help="the folder that gpu_run.py wrote")
    parser.add_argument("--vllm", type=Path, help="the folder that gpu_vllm.py wrote")
    parser.add_argument("--plans", type=Path, help="what gpu_vllm.py ran; with --vllm")
    parser.add_argument("--ship", action="store_true", help="use this run's profiles from now on")
    given = parser.parse_args()
    target = RESULTS / given.gpu / given.name
    keep(given.source, target)
    if given.rows is not None:
        beside_rows(target, given.rows)
    if given.partitions is not None:
        shutil.copyfile(given.partitions, target / PARTITIONS)
    if given.cut is not None:
        keep_cut(given.cut, target)
    if given.gemms is not None:
        keep_gemms(given.gemms, target)
    if given.mixed is not None:
        keep_mixed(given.mixed, target)
    if given.answers is not None:
        keep_answers(given.answers, target)
    if given.vllm is not None:
        keep_vllm(given.vllm, given.plans, target)
    if given.ship:
        ship(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
