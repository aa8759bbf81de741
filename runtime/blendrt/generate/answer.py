"""Answering a plan's requests on one device, each as long as the model makes its answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from blendrt.batch import BatchBuilder
from blendrt.clock import clock_for
from blendrt.executor.sequential import SequentialExecutor
from blendrt.generate.growing import Ending, GrowingTokens, Text
from blendrt.generate.loop import GenerationLoop, Machine
from blendrt.generate.sampler import Sampler
from blendrt.generate.wanted import Answer, Wanted
from blendrt.loading import (
    SEQUENTIAL,
    Runtime,
    make_executor,
    make_pool,
    require_attention_room,
    thread_for_small,
)
from blendrt.machine import device_name
from blendrt.pages import pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.replay.warm_up import warm_up
from blendrt.tokens import PromptTokens
from blendsim.errors import InputError
from blendsim.request import Workload


def answer(
    job: Job,
    runtime: Runtime,
    wanted: Wanted,
    text: Text,
    answered: Callable[[Answer], None],
    recorder: Recorder,
) -> None:
    """Answer the requests of the job's only rank in the order of its plan; steps are added to
    `recorder`. Of the job's `output_len`, what planning expects, only room is made by.
    """
    assert runtime.executor == SEQUENTIAL, "tokens are chosen by the sequential executor's logits"
    decoder = runtime.decoder
    require_own_ids(job.workload, decoder.config.vocab)
    expected = job.workload.prompt_len + job.output_len
    require_attention_room(decoder, job.flavour.token_budget, int(expected.max()))
    core = job._replace(output_len=wanted.most).core(0)
    pool = make_pool(runtime, pool_pages(core), job.system)
    tokens = PromptTokens(job.workload, decoder.config.vocab, runtime.seed)
    try:
        with thread_for_small(decoder):
            executor: Any = make_executor(runtime, pool)
            assert isinstance(executor, SequentialExecutor), "as asked for"
            if decoder.device.type == "cuda":
                warm_up(executor, pool, job.flavour.token_budget, decoder.device)
            outputs = GrowingTokens(len(core.rows), decoder.device)
            machine = Machine(
                builder=BatchBuilder(core, tokens, outputs, decoder.device),
                executor=executor,
                sampler=Sampler(wanted, decoder.device),
                ending=Ending(wanted, text),
                clock=clock_for(decoder.device),
            )
            GenerationLoop(core, machine).run(recorder, answered)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{device_name(decoder.device)} ran out of memory in step {len(recorder)}: up to "
            f"{job.flavour.token_budget} tokens a step beside {pool.pages:,} KV blocks; go on with "
            "--resume and fewer kv_bytes or a smaller --token-budget"
        ) from error


def require_own_ids(workload: Workload, vocab: int) -> None:
    """InputError unless prompts are wholly given as ids of the model's vocabulary."""
    prompts = workload.prompts
    listed = np.diff(prompts.offsets)
    assert bool((listed == workload.prompt_len).all()), "prompts are given as tokens"
    highest = int(prompts.units.max(initial=0))
    if highest >= vocab:
        raise InputError(
            f"{workload.origin[0] if workload.origin else 'the prompts'}: token id {highest} is "
            f"beyond the model's vocabulary of {vocab:,}; give the tokenizer that belongs to it"
        )
