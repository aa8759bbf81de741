"""Answering a plan's requests on one device, each as long as the model makes its answer."""

from collections.abc import Callable

import numpy as np

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
    make_pool,
    require_attention_room,
)
from blendrt.pages import pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.replay.warm_up import warm_executor
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
    `recorder`. By the job's `output_len`, what planning expects, only room is made. Prompts are ids
    of the model's vocabulary: `require_own_ids` says so, before a model is loaded.
    """
    assert runtime.executor == SEQUENTIAL, "tokens are chosen by the sequential executor's logits"
    decoder = runtime.decoder
    expected = job.workload.prompt_len + job.output_len
    require_attention_room(decoder, job.flavour.token_budget, int(expected.max()))
    core = job._replace(output_len=wanted.most).core(0)
    pool = make_pool(runtime, pool_pages(core), job.system)
    tokens = PromptTokens(job.workload, decoder.config.vocab, runtime.seed)
    advice = "go on with --resume and fewer kv_bytes or a smaller --token-budget"
    budget = job.flavour.token_budget
    with warm_executor(runtime, pool, budget, lambda: len(recorder), advice) as executor:
        assert isinstance(executor, SequentialExecutor), "as asked for"
        outputs = GrowingTokens(len(core.rows), decoder.device)
        machine = Machine(
            builder=BatchBuilder(core, tokens, outputs, decoder.device),
            executor=executor,
            sampler=Sampler(wanted, decoder.device),
            ending=Ending(wanted, text),
            clock=clock_for(decoder.device),
        )
        GenerationLoop(core, machine).run(recorder, answered)


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
