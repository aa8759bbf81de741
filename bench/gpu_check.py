"""Everything that needs a GPU, in ten minutes: is the runtime right there, what does it cost?

    python bench/gpu_check.py [--plans build/gpu-plans] [--within 560] [-o gpu-check]
    python bench/gpu_check.py --device cpu --quick       # the same path, small, without a GPU

Stages run one after another in the order of their value, each a process of its own with a limit of
time, so that one that fails takes no other with it: build, attention, executors, graphs, profile,
then a replay of every pool that bench/gpu_plans.py made plans for (else of a small one). If
attention or an executor is wrong, no more is measured. A stage leaves <stage>.json and <stage>.log
in the output folder, the profile lies in profiles/, step logs in *.parquet, and all of it is packed
after every stage. Called again with the same -o, it skips what is done and goes on with what is
not. A short table comes last, in summary.md too. Exit 1 if a stage failed, was left out for want of
time, or something is not as it should be.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from gpu_options import POLICIES, Finding, Options, say
from gpu_replays import FULL, PRICED, pools, replay_pool
from gpu_small_plan import make_small_plans
from gpu_stages import STAGES
from machine import row, today

MOST_SECONDS = {"build": 300, "attention": 90, "executors": 120, "graphs": 90, "profile": 360}
MOST_REPLAY_SECONDS = 270
LEAST_SECONDS = 30  # a stage is not begun with less
GRACE_SECONDS = 20  # to write what there is, once told to stop
REPLAY = "replay-"
#: What comes after is worth nothing where one of these is wrong.
VITAL = ("attention", "executors")

Stage = Callable[[Options], Iterator[Finding]]


def stages(options: Options) -> dict[str, Stage]:
    """All stages, in order."""
    if not pools(options.plans):
        make_small_plans(options, options.plans)
    replays = {f"{REPLAY}{pool}": partial(replay_pool, pool=pool) for pool in pools(options.plans)}
    return {**STAGES, **replays}


def run_stage(name: str, options: Options) -> None:
    """Run one stage here and write what it finds, line by line, as far as it comes."""
    signal.signal(signal.SIGTERM, _leave)
    findings: list[Finding] = []
    _write(options, name, findings, is_done=False)
    for finding in stages(options)[name](options):
        findings.append(finding)
        _write(options, name, findings, is_done=False)
    _write(options, name, findings, is_done=True)


def _leave(number: int, frame: FrameType | None) -> None:
    """Stop as an exception does, so that logs of what was measured are written."""
    raise SystemExit(f"told to stop by signal {number}")


def _write(options: Options, name: str, findings: list[Finding], is_done: bool) -> None:
    told = {"done": is_done, "findings": [f._asdict() for f in findings]}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    (options.out / f"{name}.json").write_text(text)


@contextmanager
def compiling(options: Options) -> Iterator[None]:
    """On a bare GPU machine the core's kernels are not compiled yet, which takes a minute: a small
    replay on the CPU does it while the first stages have the GPU.
    """
    if not options.is_gpu:
        yield
        return
    with tempfile.TemporaryDirectory() as place:
        arguments = ["--device", "cpu", "--quick", "-o", place, "--stage", "replay-small-full"]
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def found_before(name: str, options: Options) -> tuple[bool, list[Finding]]:
    """Whether a stage is done, and what it found so far."""
    path = options.out / f"{name}.json"
    if not path.exists():
        return False, []
    told = json.loads(path.read_text())
    return bool(told["done"]), [Finding(**f) for f in told["findings"]]


def run_apart(name: str, options: Options, arguments: list[str], left: float) -> list[Finding]:
    """Run one stage in a process of its own, unless it is done; its failure is one more finding."""
    is_done, found = found_before(name, options)
    if is_done:
        say(f"{name}: done before")
        return found
    most = min(MOST_SECONDS.get(name, MOST_REPLAY_SECONDS), left - GRACE_SECONDS)
    if most < LEAST_SECONDS:
        return [*found, Finding("LEFT OUT", "no time; call again with the same -o", False)]
    say(f"{name} …")
    log, start = options.out / f"{name}.log", time.perf_counter()
    command = [sys.executable, __file__, *arguments, "--stage", name]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        failure = _wait(process, most)
    found = found_before(name, options)[1]
    if failure:
        last = (log.read_text().strip().splitlines() or ["nothing said"])[-1]
        found.append(Finding(f"FAILED, {failure}", f"{last}; see {log}", False))
    say(f"{name}: {time.perf_counter() - start:.0f} s")
    return found


def _wait(process: "subprocess.Popen[bytes]", most: float) -> str:
    """Why the process failed, or ""."""
    try:
        process.wait(most)
        return f"exit {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    return f"stopped after {most:.0f} s"


def table(found: dict[str, list[Finding]]) -> list[str]:
    """All findings as a Markdown table."""
    lines = [f"GPU check, {today()}", "", row("stage", "what", "value", ""), row(*["---"] * 4)]
    marks = {True: "ok", False: "WRONG", None: ""}
    for stage, findings in found.items():
        lines += [row(stage, f.what, f.value, marks[f.ok]) for f in findings]
    return lines


def pack(options: Options, place: Path) -> None:
    """The output folder as one file, replaced as a whole. Logs of full pools, megabytes each, are
    laid beside it one by one, without what can be priced again.
    """
    part = place.with_name(f".{place.name}.part")
    with tarfile.open(part, "w:gz") as archive:
        archive.add(options.out, options.out.name, filter=_unless_large)
    part.replace(place)
    for log in options.out.glob(f"*-{FULL}-*.parquet"):
        if not log.stem.endswith(f"-{PRICED}") and log.parent != place.parent:
            shutil.copy(log, place.parent)


def _unless_large(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    is_large = f"-{FULL}-" in member.name and member.name.endswith(".parquet")
    return None if is_large else member


def parse() -> tuple[argparse.Namespace, Options]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="by itself llama-3.1-8b, on a CPU tiny")
    parser.add_argument("--minutes", type=float, help="for the profile")
    parser.add_argument("--plans", type=Path, help="what bench/gpu_plans.py wrote")
    parser.add_argument("--requests", type=int, help="of the small pool, where there are no plans")
    parser.add_argument("--sampled", type=int, help="steps measured of a full pool")
    parser.add_argument(
        "--policy", nargs="+", choices=POLICIES, default=POLICIES, help="whose plans are replayed"
    )
    parser.add_argument("--overlap-only", action="store_true", help="replay nothing sequentially")
    parser.add_argument("--quick", action="store_true", help="small sizes everywhere")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds for all stages")
    parser.add_argument("--only", action="append", help="a stage; repeat it")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-check"))
    parser.add_argument("--pack", type=Path, help="by itself the output folder's name.tar.gz")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    options = Options(
        device=given.device,
        model=given.model or ("llama-3.1-8b" if given.device == "cuda" else "tiny"),
        minutes=given.minutes or (0.02 if given.quick else 3.7),
        requests=given.requests or (24 if given.quick else 1600),
        sampled=given.sampled or (24 if given.quick else 120),
        plans=given.plans or given.output / "plans",
        is_sequential_too=not given.overlap_only,
        policies=tuple(policy for policy in POLICIES if policy in given.policy),
        out=given.output,
    )
    known = tuple(stages(options))
    for name in (*(given.only or ()), *([given.stage] if given.stage else ())):
        if name not in known:
            parser.error(f"unknown stage {name!r}; known: {', '.join(known)}")
    return given, options


def main() -> None:
    """Run the stages and print the table."""
    began = time.perf_counter()
    given, options = parse()
    if given.stage:
        run_stage(given.stage, options)
        return
    place = given.pack or options.out.with_name(f"{options.out.name}.tar.gz")
    found: dict[str, list[Finding]] = {}
    with compiling(options):
        for name in given.only or stages(options):
            left = given.within - (time.perf_counter() - began)
            found[name] = run_apart(name, options, sys.argv[1:], left)
            (options.out / "summary.md").write_text("\n".join(table(found)) + "\n")
            pack(options, place)
            if name in VITAL and any(finding.ok is False for finding in found[name]):
                say(f"{name} is wrong: the rest is left out")
                break
    print(*table(found), sep="\n")
    if any(finding.ok is False for findings in found.values() for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
