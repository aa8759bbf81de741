"""What the vLLM flavour's compiled loop costs on 16,384 chats that are all there at time 0.

    python bench/vllm_flavour.py AzureLLMInferenceTrace_conv.csv.gz [vidur.csv]

The first requests of Azure's conversation trace, in order, Llama-3.1-8B on an A100, 2,048 tokens a
step. Prints the median CPU seconds of five runs, kernels warm. With a second file the same rows
are written there as a trace that Vidur replays, and the command for Vidur is printed, to be run
in its checkout on the same machine; its loop took 5.9 to 8.3 s on two such cores.
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
VIDUR = """python -m vidur.main --replica_config_device a100 \\
  --replica_config_model_name meta-llama/Meta-Llama-3-8B \\
  --cluster_config_num_replicas 1 --replica_config_tensor_parallel_size 1 \\
  --replica_config_num_pipeline_stages 1 \\
  --replica_scheduler_config_type sarathi --sarathi_scheduler_config_chunk_size 2048 \\
  --sarathi_scheduler_config_batch_size_cap 1024 \\
  --request_generator_config_type trace_replay \\
  --trace_request_generator_config_max_tokens 16384 \\
  --trace_request_generator_config_trace_file {path}"""


def main() -> None:
    """Measure and print the table."""
    workload = select(load(sys.argv[1]), np.arange(REQUESTS))
    workload = replace(workload, arrival=np.zeros(REQUESTS))
    if len(sys.argv) > 2:
        np.savetxt(
            sys.argv[2],
            np.column_stack([workload.arrival, workload.prompt_len, workload.output_len]),
            ["%.1f", "%d", "%d"],
            ",",
            header="arrived_at,num_prefill_tokens,num_decode_tokens",
            comments="",
        )
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
    if len(sys.argv) > 2:
        print(VIDUR.format(path=sys.argv[2]))


if __name__ == "__main__":
    main()
