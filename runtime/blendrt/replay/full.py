"""Full replay: every step of a plan, executed and timed, rank after rank on one device.

The same serving core that the simulator runs decides the steps, so that all counts of the step log
are the simulator's, row by row, and only the times are found out.
"""

from collections.abc import Callable

import numpy as np
import torch

from blendrt.batch import BatchBuilder
from blendrt.clock import clock_for
from blendrt.engine import Engine
from blendrt.loading import Runtime, make_executor, make_pool
from blendrt.machine import device_name
from blendrt.pages import pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.warm_up import warm_up
from blendrt.tokens import PromptTokens
from blendsim.errors import InputError
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Ints, Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.specs import System


def replay(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    system: System,
    flavour: Flavour,
    runtime: Runtime,
    recorder: Recorder,
    told: Callable[[int], None] = lambda _: None,
) -> list[list[int]]:
    """Run the plan to its end; the output tokens of every request, by workload row.

    Request i generates `output_len[i]` tokens. Ranks start at 0 s each, as they would side by side.
    `recorder` has the steps executed so far when anything fails. `told` hears how many requests of
    a rank are done.
    """
    ranks = np.unique(plan.rank).tolist()
    cores = [
        ServingCore.from_plan(plan, workload, output_len, prompts, system, flavour, rank)
        for rank in ranks
    ]
    decoder = runtime.decoder
    pool = make_pool(decoder, max(pool_pages(core) for core in cores), system)
    executor = make_executor(runtime, pool)
    tokens = PromptTokens(workload, decoder.config.vocab, runtime.seed)
    outputs: list[list[int]] = [[] for _ in range(len(workload))]
    try:
        if decoder.device.type == "cuda":
            warm_up(executor, pool, flavour.token_budget, decoder.device)
        for rank, core in zip(ranks, cores, strict=True):
            builder = BatchBuilder(core, tokens, decoder.device)
            Engine(core, builder, executor, clock_for(decoder.device)).run(recorder, rank, told)
            for row, output in zip(core.rows.tolist(), builder.outputs.lists(), strict=True):
                outputs[row] = output
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{device_name(decoder.device)} ran out of memory in step {len(recorder)}, at most "
            f"{flavour.token_budget} tokens a step beside {pool.pages:,} KV blocks; "
            "plan again with fewer kv_bytes or a smaller --token-budget"
        ) from error
    return outputs
