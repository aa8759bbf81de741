"""The command: measure claims, draw their figures, write the README's table of claims.

    python -m paper_repro run [all | fig07 table3 …] [--quick] [--data DIR] [--jobs 2]

A run of all modules that found nothing of them there says in results/whole_run.csv what it took.

Exit 0 done (a claim that misses is a result, not an error), 1 a module failed by a bug, 2 by
something the user can mend.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from blendsim.errors import BlendsimError, InputError, UnknownName
from paper_repro import comparison, runner, whole_run
from paper_repro.claims import modules, read_claims
from paper_repro.lab import POOLS, REPOSITORY, STORE, Lab

RESULTS = REPOSITORY / "paper_repro" / "results"
PICTURES = REPOSITORY / "figures"
QUICK = (
    "These are verdicts on small pools (--quick): they show that everything runs, and say nothing "
    "about the claims."
)


def main() -> int:
    """Parse the command line, run, and give the exit status."""
    asked = _parser().parse_args()
    try:
        return _run(asked)
    except BlendsimError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(asked: argparse.Namespace) -> int:
    start = time.perf_counter()
    minutes = modules(read_claims().values())
    names = list(minutes) if "all" in asked.names else list(dict.fromkeys(asked.names))
    for name in names:
        if name not in minutes:
            raise UnknownName("claim module", name, ["all", *minutes])
    if asked.data is not None and not asked.data.is_dir():
        raise InputError(f"{asked.data}: no such directory; --data takes one with trace files")
    if asked.jobs < 1:
        raise InputError(f"--jobs {asked.jobs} must be at least 1")
    if asked.seed < 0:
        raise InputError(f"--seed {asked.seed} must be at least 0")
    lab = Lab(data=asked.data, quick=asked.quick, seed=asked.seed)
    out = asked.out or (STORE / "quick" if asked.quick else RESULTS)
    pictures = out / "figures" if asked.quick or asked.out else PICTURES
    if asked.anew:
        runner.forget(names, lab, out)
        shutil.rmtree(POOLS, ignore_errors=True)
    print(_told(out, None if asked.no_figures else pictures), file=sys.stderr, flush=True)
    is_whole = {*names} == {*minutes} and runner.is_anew(names, lab, out)
    outcomes = runner.run(names, minutes, lab, out, asked.jobs)
    failed = [outcome for outcome in outcomes if outcome.error]
    drawn = [name for name in names if name not in {outcome.module for outcome in failed}]
    is_drawn = asked.no_figures or _draw(drawn, out, pictures)
    print("\n".join(comparison.lines(drawn, out)))
    if asked.quick:
        print(f"\n{QUICK}")
    seconds = time.perf_counter() - start
    print(f"{len(names)} modules in {seconds:.0f} s", file=sys.stderr)
    if is_whole and is_drawn and not failed:
        whole_run.write(whole_run.measured(seconds, len(names), asked.jobs), lab, out)
    if out == RESULTS:
        comparison.write_readme(out)
    for outcome in failed:
        print(f"error: {outcome.module}: {outcome.error.strip()}", file=sys.stderr)
    if not is_drawn or any(outcome.is_bug for outcome in failed):
        return 1
    return 2 if failed else 0


def _told(out: Path, pictures: Path | None) -> str:
    """What will be written, in one line."""
    parts = [f"tables into {out}"]
    if pictures is not None:
        parts.append(f"figures into {pictures}")
    if out != RESULTS:
        return f"writing {' and '.join(parts)}"
    parts.append(f"claims into {comparison.README}")
    return f"writing {', '.join(parts)}; --out DIR writes elsewhere"


def _draw(names: list[str], results: Path, out: Path) -> bool:
    """Have the figures of these modules drawn from their tables; nothing of them is loaded here."""
    command = [sys.executable, "-m", "figures", str(results), str(out), *names]
    return not names or subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("paper_repro", description="Rebuild the paper's evaluation.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure claims, draw figures, compare with the paper")
    run.add_argument("names", nargs="*", default=["all"], help="claim modules, or all")
    run.add_argument("--quick", action="store_true", help="small pools: minutes in all")
    run.add_argument(
        "--data", type=Path, help="directory with real traces, taken where it has them"
    )
    run.add_argument("--jobs", type=int, default=2, help="processes that measure")
    run.add_argument("--anew", action="store_true", help="measure what is there, too")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--out", type=Path, help="directory for tables and pictures")
    run.add_argument("--no-figures", action="store_true", help="measure only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
