"""What vLLM's steps took on an H200 beyond what our kernels would, by what they hold, and what
plans take in it by its calibration.

    python bench/vllm_steps.py [PLANS]

Prices the steps of the vLLM run of the sixth visit that followed a plan by the measured profile,
one operator after another. PLANS is a folder that `bench/gpu_plans.py -o PLANS --gpu h200 --filled
trace1 trace2 --profile measured` made: their runs in vLLM at 8,192 tokens a step are simulated, by
our kernels and by the shipped calibration of vLLM's steps (docs/validation.md says how far that one
is from other runs).
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from machine import row

from blendsim.perf.calibrating import MeasuredSteps, priced_run
from blendsim.perf.measured import MEASURED, chosen_model
from blendsim.plan import read_plan
from blendsim.prefix import sort_prompts
from blendsim.serving.flavour import find_flavour
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.steplog import read_steplog
from blendsim.traces.workload_file import read_workload

RUNS = Path(__file__).resolve().parent / "results" / "h200" / "sixth" / "vllm"
FOLLOWED = "trace2-filled-paced-followed-8192"
READS = (0, 2, 4, 6, 9)  # edges of bins, ms
TOKENS = 8_192


def bins(run: MeasuredSteps, mixed: bool) -> Iterator[str]:
    """Rows: steps by their reads, as measured and as priced."""
    for low, high in pairwise(READS):
        reads = run.memory * 1e3
        here = (run.is_mixed == mixed) & (reads >= low) & (reads < high)
        if here.sum() >= 20:
            means = (x[here].mean() * 1e3 for x in (run.seconds, run.compute, run.memory))
            yield row(f"{low} to {high}", f"{here.sum():,}", *(f"{mean:.1f}" for mean in means))


def report_plans(plans: Path) -> None:
    """What plans take in vLLM, by our kernels and calibrated."""
    print(row("pool", "plan", "engine", "steps", "mixed", "preempted", "our kernels", "calibrated"))
    print(row(*["---"] * 8))
    for pool in ("trace1-filled", "trace2-filled"):
        workload = read_workload(plans / f"{pool}.parquet")
        prompts = sort_prompts(workload)
        for policy in ("dfs", "blend", "paced"):
            plan = read_plan(plans / f"{pool}-{policy}.parquet")
            model = chosen_model(Settings(**plan.meta["settings"]).system, "auto", MEASURED)
            for engine in ("vllm", "vllm-planned") if policy == "dfs" else ("vllm-planned",):
                flavour = find_flavour(engine, TOKENS)
                kernels, log = (
                    simulate(plan, workload, workload.output_len, prompts, priced, flavour)
                    for priced in (replace(model, calibrations=()), model)
                )
                mixed = (log.count("prefill_tokens") > 0) & (log.count("decode_requests") > 0)
                counts = (len(log), mixed.sum(), log.count("preempted").sum())
                seconds = (each.time("seconds").sum() for each in (kernels, log))
                told = [f"{n:,}" for n in counts] + [f"{s:.1f}" for s in seconds]
                print(row(pool, policy, engine, *told))


def main() -> None:
    """Print the tables."""
    log = read_steplog(RUNS / f"{FOLLOWED}.parquet")
    system = Settings(**log.meta["settings"]).system
    run = priced_run(log, chosen_model(system, "auto", MEASURED))
    for mixed, kind in ((False, "decodes alone"), (True, "decodes beside prompts")):
        print(f"{FOLLOWED}, {kind}\n")
        print(row(kind + ": reads, ms", "steps", "took, ms", "compute, ms", "reads, ms"))
        print(row(*["---"] * 5))
        print("\n".join(bins(run, mixed)), end="\n\n")
    if len(sys.argv) > 1:
        report_plans(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
