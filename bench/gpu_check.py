"""Everything that needs a GPU, in ten minutes: is the runtime right there, what does it cost?

    python bench/gpu_check.py [--model llama-3.1-8b] [--minutes 4] [-o gpu-check]
    python bench/gpu_check.py --device cpu --quick       # the same path, small, without a GPU

Stages run one after another, each a process of its own, so that one that fails takes no other with
it. A stage leaves <stage>.json and <stage>.log in the output folder; the profile lies in profiles/,
measured step logs in *.parquet. A short table comes last, in summary.md too. Exit 1 if a stage
failed or something is not as it should be.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from gpu_stages import STAGES, Finding, Options, say
from machine import row, today

MOST_SECONDS = {"build": 420, "attention": 120, "executors": 180, "profile": 420, "replay": 300}


def run_stage(name: str, options: Options) -> None:
    """Run one stage here and write what it finds, line by line, as far as it comes."""
    findings: list[Finding] = []
    path = options.out / f"{name}.json"
    path.write_text("[]")
    for finding in STAGES[name](options):
        findings.append(finding)
        path.write_text(json.dumps([f._asdict() for f in findings], indent=1, ensure_ascii=False))


def run_apart(name: str, options: Options, arguments: list[str]) -> list[Finding]:
    """Run one stage in a process of its own; its failure is one more finding."""
    say(f"{name} …")
    log = options.out / f"{name}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        command = [sys.executable, __file__, *arguments, "--stage", name]
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, check=False, timeout=MOST_SECONDS[name]
            )
            failure = f"exit {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"stopped after {MOST_SECONDS[name]} s"
    path = options.out / f"{name}.json"
    found = [Finding(**f) for f in json.loads(path.read_text())] if path.exists() else []
    if failure:
        last = (log.read_text().strip().splitlines() or ["nothing said"])[-1]
        found.append(Finding(f"FAILED, {failure}", f"{last}; see {log}", False))
    say(f"{name}: {time.perf_counter() - start:.0f} s")
    return found


def table(found: dict[str, list[Finding]]) -> list[str]:
    """All findings as a Markdown table."""
    lines = [f"GPU check, {today()}", "", row("stage", "what", "value", ""), row(*["---"] * 4)]
    marks = {True: "ok", False: "WRONG", None: ""}
    for stage, findings in found.items():
        lines += [row(stage, f.what, f.value, marks[f.ok]) for f in findings]
    return lines


def parse() -> tuple[argparse.Namespace, Options]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="by itself llama-3.1-8b, on a CPU tiny")
    parser.add_argument("--minutes", type=float, help="for the profile")
    parser.add_argument("--requests", type=int, help="of the plan that is replayed")
    parser.add_argument("--quick", action="store_true", help="small sizes everywhere")
    parser.add_argument("--only", action="append", choices=tuple(STAGES), help="a stage; repeat it")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-check"))
    given = parser.parse_args()
    options = Options(
        device=given.device,
        model=given.model or ("llama-3.1-8b" if given.device == "cuda" else "tiny"),
        minutes=given.minutes or (0.02 if given.quick else 4.0),
        requests=given.requests or (24 if given.quick else 1600),
        out=given.output,
    )
    return given, options


def main() -> None:
    """Run the stages and print the table."""
    given, options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if given.stage:
        run_stage(given.stage, options)
        return
    found = {s: run_apart(s, options, sys.argv[1:]) for s in STAGES if s in (given.only or STAGES)}
    lines = table(found)
    (options.out / "summary.md").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")
    if any(finding.ok is False for findings in found.values() for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
