"""What the vLLM flavour's compiled loop costs on 16,384 chats that are all there at time 0.

    python bench/vllm_flavour.py AzureLLMInferenceTrace_conv.csv.gz

The first requests of Azure's conversation trace, in order, Llama-3.1-8B on an A100, 2,048 tokens a
step. Prints the median CPU seconds of five runs, kernels warm. A peer is run beside it on the same
rows with the arrival times set to 0 and the same budget; Vidur's loop took 5.9 to 8.3 s on two such
cores.
"""

import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
from machine import machine, row, today

from blendsim import search
from blendsim.request import select
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.sim.engine import Replica
from blendsim.traces.load import load

REQUESTS = 16_384


def main() -> None:
    """Measure and print the table."""
    workload = select(load(sys.argv[1]), np.arange(REQUESTS))
    workload = replace(workload, arrival=np.zeros(REQUESTS))
    setting = search.prepare(workload, search.Settings(sample=1.0))
    plan = search.plan_policy(setting, "fcfs")
    print(f"{machine()}; {today()}")
    print(row("requests", "steps", "preempted", "loop s", "µs a step"))
    print(row(*["---"] * 5))
    seconds = []
    for run in range(6):
        flavour = find_flavour("vllm", 2_048)
        core = ServingCore.from_plan(
            plan,
            setting.workload,
            setting.true_lengths,
            setting.prompts,
            setting.model.system,
            flavour,
        )
        replica = Replica(core, setting.model, flavour)
        start = time.thread_time()
        replica.advance()
        if run:  # the first may compile
            seconds.append(time.thread_time() - start)
    steps = len(replica.counts)
    preempted = int(np.asarray(core.state.requests.was_preempted).sum())
    loop = median(seconds)
    print(
        row(
            f"{REQUESTS:,}",
            f"{steps:,}",
            f"{preempted:,}",
            f"{loop:.3f}",
            f"{loop / steps * 1e6:.2f}",
        )
    )


if __name__ == "__main__":
    main()
