"""What vLLM's steps took on an H200 beyond what our kernels would, by what they hold, and what
other plans would take in it then.

    python bench/vllm_steps.py [PLANS]

Prices the steps of the kept vLLM runs of the sixth visit by the measured profile, one operator
after another, and fits seconds = compute + b · decode reads + c for decodes alone and for decodes
beside prompts, to every second step of the run that followed a plan. Errors are those of the
others, and of the run in which vLLM scheduled alone. PLANS is a folder that `bench/gpu_plans.py -o
PLANS --gpu h200 --filled trace1 trace2 --profile measured` made: their runs in vLLM at 8,192 tokens
a step are simulated and priced so.
"""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import row
from numpy.typing import NDArray

from blendsim.perf.measured import MEASURED, chosen_model
from blendsim.perf.pricing import price_work
from blendsim.perf.step import step_costs
from blendsim.plan import read_plan
from blendsim.prefix import sort_prompts
from blendsim.serving.flavour import find_flavour
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.specs import System
from blendsim.steplog import StepLog, read_steplog
from blendsim.traces.workload_file import read_workload

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RUNS = Path(__file__).resolve().parent / "results" / "h200" / "sixth" / "vllm"
FOLLOWED, ALONE = "trace2-filled-paced-followed-8192", "trace2-filled-dfs-vllm-8192"
DECODES, MIXED = "decodes alone", "decodes beside prompts"
KINDS = (DECODES, MIXED)
READS = (0, 2, 4, 6, 9)  # edges of bins, ms
TOKENS = 8_192


class Steps(NamedTuple):
    """Steps of a run: what they hold, and what our kernels would take for it."""

    log: StepLog
    compute: Floats  # seconds, alone
    reads: Floats  # decode attention, alone

    @property
    def seconds(self) -> Floats:
        """As the log has them."""
        return self.log.time("seconds")

    def of(self, kind: str) -> Mask:
        """Which steps are of a kind."""
        has_prompts = self.log.count("prefill_tokens") > 0
        has_decodes = self.log.count("decode_requests") > 0
        return has_decodes & (has_prompts if kind == MIXED else ~has_prompts)


class Fit(NamedTuple):
    """Seconds of a step = compute + b · reads + c."""

    b: float
    c: float

    def seconds(self, steps: Steps) -> Floats:
        """Of every step."""
        return steps.compute + self.b * steps.reads + self.c


def priced(log: StepLog, system: System) -> Steps:
    """The steps of a log by the measured kernels."""
    costs = step_costs(chosen_model(system, "auto", MEASURED), False, False, 1)
    return Steps(log, *price_work(costs, log.counts))


def fit(steps: Steps, which: Mask) -> Fit:
    """Least squares over these steps."""
    columns = np.stack([steps.reads[which], np.ones(int(which.sum()))], axis=1)
    b, c = np.linalg.lstsq(columns, steps.seconds[which] - steps.compute[which], rcond=None)[0]
    return Fit(float(b), float(c))


def by_fits(steps: Steps, fits: dict[str, Fit]) -> Floats:
    """Seconds of every step, of other kinds as our kernels have them."""
    seconds = steps.compute + steps.reads
    for kind, found in fits.items():
        seconds = np.where(steps.of(kind), found.seconds(steps), seconds)
    return seconds


def bins(steps: Steps, which: Mask) -> Iterator[str]:
    """Rows: steps by their reads, as measured and as priced."""
    reads = steps.reads * 1e3
    for low, high in pairwise(READS):
        here = which & (reads >= low) & (reads < high)
        if here.sum() >= 20:
            means = (x[here].mean() * 1e3 for x in (steps.seconds, steps.compute, steps.reads))
            yield row(f"{low} to {high}", f"{here.sum():,}", *(f"{mean:.1f}" for mean in means))


def _off(steps: Steps, seconds: Floats, which: Mask) -> tuple[str, str]:
    """Median error of a step, and the error of their sum."""
    errors = np.abs(seconds[which] / steps.seconds[which] - 1)
    total = seconds[which].sum() / steps.seconds[which].sum() - 1
    return f"{np.median(errors):.1%}", f"{total:+.1%}"


def report_fits(runs: dict[str, Steps]) -> dict[str, Fit]:
    """Fit both kinds and print how good that is."""
    steps = runs[FOLLOWED]
    is_second = np.arange(len(steps.log)) % 2 == 0
    fits = {kind: fit(steps, steps.of(kind) & is_second) for kind in KINDS}
    print(row("steps", "of", "b", "c, ms", "a step, as priced", "sum", "a step, fitted", "sum"))
    print(row(*["---"] * 8))
    for name, run in runs.items():
        for kind, found in fits.items():
            here = run.of(kind) & ~is_second if name == FOLLOWED else run.of(kind)
            plain = _off(run, run.compute + run.reads, here)
            after = _off(run, found.seconds(run), here)
            print(row(kind, name, f"{found.b:.2f}", f"{found.c * 1e3:.1f}", *plain, *after))
    return fits


def report_plans(plans: Path, fits: dict[str, Fit]) -> None:
    """What plans take in vLLM, by our kernels and by the fits."""
    print(row("pool", "plan", "engine", "steps", "mixed", "preempted", "our kernels", "fitted"))
    print(row(*["---"] * 8))
    for pool in ("trace1-filled", "trace2-filled"):
        workload = read_workload(plans / f"{pool}.parquet")
        for policy in ("dfs", "blend", "paced"):
            plan = read_plan(plans / f"{pool}-{policy}.parquet")
            system = Settings(**plan.meta["settings"]).system
            prompts, model = sort_prompts(workload), chosen_model(system, "auto", MEASURED)
            for engine in ("vllm", "vllm-planned") if policy == "dfs" else ("vllm-planned",):
                flavour = find_flavour(engine, TOKENS)
                log = simulate(plan, workload, workload.output_len, prompts, model, flavour)
                steps = priced(log, system)
                counts = (len(log), steps.of(MIXED).sum(), log.count("preempted").sum())
                seconds = (steps.seconds.sum(), by_fits(steps, fits).sum())
                told = [f"{n:,}" for n in counts] + [f"{s:.1f}" for s in seconds]
                print(row(pool, policy, engine, *told))


def main() -> None:
    """Print the tables."""
    runs = {}
    for name in (FOLLOWED, ALONE):
        log = read_steplog(RUNS / f"{name}.parquet")
        runs[name] = priced(log, Settings(**log.meta["settings"]).system)
    for kind in KINDS:
        print(f"{FOLLOWED}, {kind}\n")
        print(row("reads, ms", "steps", "took, ms", "compute, ms", "reads, ms"))
        print(row(*["---"] * 5))
        print("\n".join(bins(runs[FOLLOWED], runs[FOLLOWED].of(kind))), end="\n\n")
    fits = report_fits(runs)
    for name, steps in runs.items():
        total = by_fits(steps, fits).sum()
        print(f"\n{name}: {steps.seconds.sum():.1f} s, fitted {total:.1f}")
    if len(sys.argv) > 1:
        print()
        report_plans(Path(sys.argv[1]), fits)


if __name__ == "__main__":
    main()
