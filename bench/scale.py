"""How cost grows with the number of requests: planning and simulating 10 k, 100 k, 1 M.

    python bench/scale.py

The trace2 recipe at each size (generators for all sources), Llama-3.1-8B on an A100, the `blend`
policy, each size in a process of its own. Prints seconds and peak memory of the stages; the steps
show that the simulated run grows as much as the pool.
"""

import subprocess
import sys
from dataclasses import replace

from machine import machine, peak_gigabytes, row, timed, today

from blendsim import search
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.sim.engine import Replica
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

SIZES = (10_000, 100_000, 1_000_000)


def measure(requests: int) -> str:
    """The row of one size; kernels are warmed on a small pool first."""
    settings, flavour = search.Settings(), find_flavour("nanoflow")
    small = replace(RECIPES["trace2"], requests=4_000, tolerance=0.5)
    search.choose(blend(small, settings.system).workload, replace(settings, planner="blend"))
    before = peak_gigabytes()
    pool = blend(replace(RECIPES["trace2"], requests=requests), settings.system).workload
    problem, preparing = timed(lambda: search.prepare(pool, settings))
    plan, planning = timed(lambda: search.plan_policy(problem, "blend"))

    def run() -> int:
        core = ServingCore.from_plan(
            plan, pool, pool.output_len, problem.prompts, problem.model.system, flavour
        )
        replica = Replica(core, problem.model, flavour)
        replica.advance()
        core.check()
        return len(replica.counts)

    steps, simulating = timed(run)
    total = preparing + planning + simulating
    return row(
        f"{requests:,}",
        f"{preparing:.2f}",
        f"{planning:.2f}",
        f"{simulating:.2f}",
        f"{steps:,}",
        f"{total / requests * 1e6:.1f}",
        f"{peak_gigabytes() - before:.2f}",
    )


def main() -> None:
    """Print the table, or the row of one size when that is given."""
    if len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
        return
    print(f"{machine()}; {today()}")
    print(
        row(
            "requests",
            "lengths s",
            "plan s",
            "simulate s",
            "steps",
            "µs a request",
            "memory GB",
        )
    )
    print(row(*["---"] * 7))
    for requests in SIZES:
        subprocess.run([sys.executable, __file__, str(requests)], check=True)


if __name__ == "__main__":
    main()
