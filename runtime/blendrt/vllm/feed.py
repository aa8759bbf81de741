"""Feeding vLLM: a plan's requests in the order it admits them, each made to answer as long as it is
said to. Of a plan that is taken from both ends vLLM follows every step (following.py), unless that
is turned off.

vLLM runs in this process, so that its scheduler can be listened to, and sees all requests before
its first step. It has the plan's token budget, running limit and KV blocks. Written against 0.20.2
and 0.33; run with 0.20.2.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blendrt.config import DecoderConfig
from blendrt.loading import ModelChoice
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.tokens import PromptTokens
from blendrt.vllm.following import ROW, SCHEDULER, Course, FollowsPlan
from blendrt.vllm.lead import follows, leading_core
from blendrt.vllm.watch import NOT_TOLD, SchedulerWatch
from blendsim.arrays import Ints
from blendsim.errors import InputError, Unavailable
from blendsim.serving.core import ServingCore
from blendsim.steplog import NOT_COUNTED, StepLog


class VllmReplay:
    """A plan's run on vLLM: its step log while it grows, and what the model answered.

    With `is_plain` vLLM is only fed in the plan's order, whatever the plan is.
    """

    def __init__(self, job: Job, seed: int = 0, is_plain: bool = False) -> None:
        self._job = job
        self._seed = seed  # of prompt tokens that are not known
        #: Whether vLLM is to follow the plan's steps.
        self.follows = follows(job) and not is_plain
        #: How far it did, by rank.
        self.courses: list[Course] = []
        self._recorder = Recorder()
        self._done = 0
        #: Output tokens of each request that is done, by workload row; filled rank by rank.
        self.outputs: list[list[int]] = [[] for _ in range(len(job.workload))]

    def measure(self, choice: ModelChoice, told: Callable[[int], None] = lambda _: None) -> None:
        """Run the plan to its end. `told` hears how many requests are done, rank by rank.

        Ranks run one after another on one engine, whose cache is emptied between them. If it fails,
        `log` holds the steps executed so far.
        """
        with open_engine(self._job, choice, self._seed, can_follow=self.follows) as engine:
            self.measure_on(engine, choice.config.vocab, told)

    def measure_on(
        self, engine: Any, vocab: int, told: Callable[[int], None] = lambda _: None
    ) -> None:
        """The same on an engine that `open_engine` made for a plan of this system, of a token
        budget and a running limit no smaller than this one's, and that can follow if this is to;
        else InputError. Of KV blocks the engine may have more than the plan's system: the others
        are held back.
        """
        vllm, job = library(), self._job
        tokens = PromptTokens(job.workload, vocab, self._seed)
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        made_for = scheduler.max_num_scheduled_tokens, scheduler.max_num_running_reqs
        asked = job.flavour.token_budget, job.flavour.max_running
        if asked[0] > made_for[0] or asked[1] > made_for[1]:
            raise InputError(
                f"the engine was made for {made_for[0]:,} tokens and {made_for[1]:,} requests a "
                f"step, not for {asked[0]:,} and {asked[1]:,}; make it for the largest"
            )
        try:
            # NOTE: its scheduler reads both at every step; its runner only sizes buffers by them.
            scheduler.max_num_scheduled_tokens, scheduler.max_num_running_reqs = asked
            for rank in job.ranks:
                with running(engine, job, rank, self.follows, self.courses, self._recorder) as rows:
                    answers = engine.generate(
                        [
                            vllm.TokensPrompt(prompt_token_ids=tokens.prompt(k).tolist())
                            for k in rows
                        ],
                        [_sampling(vllm, int(job.output_len[k]), k) for k in rows],
                        use_tqdm=False,
                    )
                for row, answer in zip(rows, answers, strict=True):
                    self.outputs[row] = list(answer.outputs[0].token_ids)
                self._done += len(rows)
                told(self._done)
        finally:
            scheduler.max_num_scheduled_tokens, scheduler.max_num_running_reqs = made_for

    def log(self, meta: Mapping[str, Any]) -> StepLog:
        """The steps so far. `complete` in its meta says whether these are all."""
        complete = self._done == len(self._job.workload)
        followed = {"followed": [asdict(course) for course in self.courses]} if self.follows else {}
        told = {"complete": complete, NOT_COUNTED: list(NOT_TOLD)}
        return self._recorder.log({**meta, **followed, **told})

    @property
    def notes(self) -> list[str]:
        """Where vLLM did not follow, in a sentence a rank."""
        return [note for course in self.courses if (note := course.note()) is not None]


@contextmanager
def running(
    engine: Any,
    job: Job,
    rank: int,
    is_led: bool,
    courses: list[Course],
    recorder: Recorder,
    most: Ints | None = None,
) -> Iterator[list[int]]:
    """While it lasts the engine runs a rank's requests, whose workload rows it gives in the order
    to add them in, and its steps are added to `recorder`; then its cache is emptied. See `led`.
    """
    scheduler = engine.llm_engine.engine_core.engine_core.scheduler
    plain = scheduler.schedule, scheduler.update_from_output
    rows = admission_rows(job.core(rank))
    try:
        with (
            held_back(scheduler, job.system.kv_blocks) as held,
            led(scheduler, job, rank, is_led, courses, most),
        ):
            SchedulerWatch(scheduler, recorder, rank, held)
            yield rows
        engine.reset_prefix_cache()
    finally:
        scheduler.schedule, scheduler.update_from_output = plain


@contextmanager
def held_back(scheduler: Any, blocks: int) -> Iterator[int]:
    """While it lasts requests can have so many KV blocks, and no more. Says how many nobody gets.
    InputError if the engine has fewer.
    """
    pool = scheduler.kv_cache_manager.block_pool
    more = int(pool.get_num_free_blocks()) - blocks
    if more < 0:
        raise InputError(
            f"the engine has {blocks + more:,} KV blocks to give, not {blocks:,}; make it for the "
            "plan with the most KV memory"
        )
    held = pool.get_new_blocks(more)
    try:
        yield more
    finally:
        pool.free_blocks(held)


@contextmanager
def led(
    scheduler: Any,
    job: Job,
    rank: int,
    is_led: bool,
    courses: list[Course],
    most: Ints | None = None,
) -> Iterator[None]:
    """While it lasts the scheduler follows the rank's plan, if it is led at all; how far it did is
    added to `courses`. `most` is the longest that answers may get, if not the job's `output_len`.
    """
    if not is_led:
        yield
        return
    if not isinstance(scheduler, FollowsPlan):
        raise InputError(
            "this engine’s scheduler follows no plan; open it with can_follow, or run it plain"
        )
    scheduler.follow(leading_core(job, rank, scheduler.blocks_to_give, most))
    try:
        yield
    finally:
        courses.append(scheduler.unfollow())


@contextmanager
def open_engine(
    job: Job,
    choice: ModelChoice,
    seed: int = 0,
    longest: int | None = None,
    has_tokenizer: bool = False,
    can_follow: bool = True,
) -> Iterator[Any]:
    """vLLM's `LLM` for the job's system and flavour, and for requests of at most `longest` tokens:
    the job's own unless others are to run on it, too. It is made with a model's directory, which
    for dummy weights is a config.json alone. It finds stop texts only if it has the tokenizer, and
    follows plans only if it `can_follow`; as long as it follows none it schedules as ever.
    """
    vllm = library()
    with ExitStack() as stack:
        directory = choice.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_config(choice.config, directory)
        longest = longest_request(job) if longest is None else longest
        given = engine_arguments(job, choice, directory, seed, longest)
        given |= {"scheduler_cls": SCHEDULER} if can_follow else {}
        yield vllm.LLM(**given | {"skip_tokenizer_init": not has_tokenizer})


def longest_request(job: Job) -> int:
    """Tokens of the job's longest request with its answer."""
    return int((job.workload.prompt_len + job.output_len).max())


def warm_up(engine: Any, job: Job, vocab: int, requests: int = 256) -> None:
    """Prefills, decodes and steps of both, so that nothing is compiled in a measured step: the
    job's first requests, with answers of a few tokens.
    """
    vllm, tokens = library(), PromptTokens(job.workload, vocab, 0)
    rows = range(min(requests, len(job.workload)))
    prompts = [vllm.TokensPrompt(prompt_token_ids=tokens.prompt(k).tolist()) for k in rows]
    answers = np.minimum(job.output_len, 1 + np.arange(len(job.workload)) % 12)
    engine.generate(prompts, [_sampling(vllm, int(answers[k])) for k in rows], use_tqdm=False)
    engine.reset_prefix_cache()


def admission_rows(core: ServingCore) -> list[int]:
    """Workload rows in the order the core first admits them: vLLM serves first come, first served,
    so a plan taken from both ends is told to it in the order that comes of it.
    """
    is_listed = np.zeros(len(core.rows), np.bool_)
    order: list[Ints] = []
    while not core.is_done:
        core.step()
        chunks = core.state.chunk[0, : int(core.state.scalars[0].chunks)]
        fresh = chunks[~is_listed[chunks]]
        is_listed[fresh] = True
        order.append(fresh.copy())
        core.commit()
    return core.rows[np.concatenate(order)].tolist()  # type: ignore[no-any-return]


def engine_arguments(
    job: Job, choice: ModelChoice, directory: Path, seed: int, longest: int
) -> dict[str, Any]:
    """What vLLM's `LLM` is made with: its own defaults, but for what the plan says and for three
    things that let it run at its best.
    """
    system, flavour = job.system, job.flavour
    blocks, bytes_per_token = system.kv_blocks + 1, system.kv_bytes_per_token
    return {
        "model": str(directory),
        "load_format": "dummy" if choice.directory is None else "auto",
        "dtype": "bfloat16",
        "seed": seed,
        "tensor_parallel_size": system.tp,
        "block_size": system.block_tokens,
        "num_gpu_blocks_override": blocks,  # one is vLLM's null block
        # Of one GPU. Without it vLLM would measure what is free, by capturing graphs twice.
        "kv_cache_memory_bytes": blocks * system.block_tokens * bytes_per_token // system.tp,
        # Every step copies a row of block ids as long as this to the GPU for each request: 33 MB
        # for 1,024 requests of 131,072 tokens.
        "max_model_len": min(choice.config.context, system.longest_request, longest),
        "max_num_batched_tokens": flavour.token_budget,
        "max_num_seqs": flavour.max_running,
        "enable_prefix_caching": flavour.prefix_sharing,
        "enable_chunked_prefill": True,
        "disable_log_stats": True,
        # It captures decodes of up to 512 requests by itself, and runs larger ones without a graph.
        "compilation_config": {"cudagraph_capture_sizes": graph_sizes(flavour.max_running)},
    }


def graph_sizes(most: int) -> list[int]:
    """Batch sizes with a CUDA graph: vLLM's own up to 512, and every 32 from there to `most`."""
    own = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return sorted({size for size in (*own, *range(544, most, 32)) if size < most} | {most})


def write_config(config: DecoderConfig, directory: Path) -> None:
    """A config.json of the decoder's shape, which is all that dummy weights need."""
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    text = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "num_hidden_layers": config.layers,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(text))


def _sampling(vllm: Any, tokens: int, row: int | None = None) -> Any:
    """Greedy, and exactly that many tokens; `row` of a plan, if it is of one."""
    return vllm.SamplingParams(
        max_tokens=tokens,
        ignore_eos=True,
        temperature=0.0,
        detokenize=False,
        extra_args=None if row is None else {ROW: row},
    )


def library() -> Any:
    """vLLM, told to stay in this process."""
    # NOTE: vLLM reads it when it starts its engine.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        import vllm
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"--engine vllm: {error.name} is not installed; pip install 'blendsim[vllm]'"
        ) from error
    return vllm
