"""What a replay runs on: which device, which model with whose weights, which executor.

A plan's own model is never replaced without the user's word: `tiny` is named, and any other model
must have the shape the plan was made for.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import torch

from blendrt.attention import Attention
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import TINY, DecoderConfig
from blendrt.executor import Executor, graphs
from blendrt.executor.rule import OverlapRule, default_sms
from blendrt.executor.streams import NO_PARTITION, can_partition
from blendrt.kv_pool import KvPool, page_bytes
from blendrt.machine import device_name, free_bytes
from blendrt.model import Decoder
from blendrt.weights import load_weights, random_weights, weight_bytes
from blendsim.errors import InputError, PlanMismatch, ProfileError, Unavailable, UnknownName
from blendsim.perf.measured import measured_shares, model_at, profile_place, shipped_place
from blendsim.perf.store import profiles_directory
from blendsim.specs import ModelSpec, find_model
from blendsim.system import System

AUTO = "auto"
SEQUENTIAL, OVERLAP = "sequential", "overlap"
EXECUTORS = (SEQUENTIAL, OVERLAP)
_SMALL_HIDDEN = 256
_CPU_SHARE = 4  # one part of so many of a CPU's free memory is for KV: other work goes on there
_SCORE_COPIES = 3  # of a chunk's scores that torch holds at a time: raw, masked, softmax


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The decoder to run, and the directory with its weights; None draws them from the seed."""

    config: DecoderConfig
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Runtime:
    """A decoder with its weights on a device, and how its steps are executed."""

    decoder: Decoder
    executor: str = SEQUENTIAL
    seed: int = 0  # of prompt tokens that are not known
    #: When OVERLAP cuts a step in two.
    rule: OverlapRule = field(default_factory=OverlapRule)
    #: Whether small steps' dense part may be launched as CUDA graphs.
    may_graph: bool = True

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UnknownName("executor", self.executor, EXECUTORS)

    @property
    def uses_graphs(self) -> bool:
        """On a GPU, unless told not to."""
        return self.may_graph and self.decoder.device.type == "cuda"


def find_device(gpu: bool) -> torch.device:
    """The CPU, or the current GPU; Unavailable if torch can use none."""
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Unavailable(
            f"--gpu: torch {torch.__version__} finds no GPU on this machine; "
            "without --gpu, --model tiny runs on the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def choose_model(asked: str | None, planned: ModelSpec, gpu: bool) -> ModelChoice:
    """The model to run for a plan made for `planned`; without a word about it, that one on a GPU.

    Raises PlanMismatch for a model of another shape, InputError if nothing is named for the CPU.
    """
    if asked is None and not gpu:
        raise InputError(
            f"the plan is for {planned.name}, which a CPU does not run in reasonable time; name "
            "--model tiny (same schedule, small random model), --model DIR, or use --gpu"
        )
    if asked == TINY.name:
        return ModelChoice(TINY, None)
    spec = planned if asked is None else find_model(asked)
    other = [
        f"{name} {getattr(spec, name)} instead of {getattr(planned, name)}"
        for name in (part.name for part in fields(ModelSpec))
        if name != "name" and getattr(spec, name) != getattr(planned, name)
    ]
    if other:
        raise PlanMismatch(
            f"--model {asked} is not the model the plan was made for, {planned.name}: {other[0]}; "
            f"plan again with --model {asked}, or replay with --model tiny"
        )
    directory = Path(asked) if asked is not None else None
    if directory is None or not directory.is_dir():
        return ModelChoice(DecoderConfig.from_spec(spec), None)
    has_weights = any(directory.glob("*.safetensors"))
    config = DecoderConfig.from_directory(directory)
    return ModelChoice(config, directory if has_weights else None)


def load_decoder(choice: ModelChoice, seed: int, device: torch.device) -> Decoder:
    """The decoder with its weights: bfloat16 on a GPU, float32 on the CPU, which is exact."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    needed, free = weight_bytes(choice.config, dtype), free_bytes(device)
    if needed > free:
        raise InputError(
            f"{choice.config.name} needs {needed / 1e9:.1f} GB for weights and {free / 1e9:.1f} GB "
            f"are free on {device_name(device)}; use --model tiny"
        )
    if choice.directory is None:
        weights = random_weights(choice.config, seed, device, dtype)
    else:
        weights = load_weights(choice.directory, choice.config, device, dtype)
    return Decoder(choice.config, weights)


@contextmanager
def thread_for_small(decoder: Decoder) -> Iterator[None]:
    """One CPU thread inside for a model as small as the tiny one: its operators take less time than
    handing them to several (ten times less, measured on two busy cores).
    """
    before = torch.get_num_threads()
    if decoder.device.type == "cpu" and decoder.config.hidden <= _SMALL_HIDDEN:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_pool(runtime: Runtime, pages: int, system: System) -> KvPool:
    """A KV pool of `pages` pages; InputError that says what fits if it does not."""
    decoder = runtime.decoder
    size = page_bytes(decoder.config, system.block_tokens, decoder.dtype)
    free = _pool_room(runtime, size)
    if pages * size > free:
        fit = free // size * system.block_tokens * system.kv_bytes_per_token
        raise InputError(
            f"{pages:,} KV blocks need {pages * size / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
            f"free on {device_name(decoder.device)} beside what steps need; {free // size:,} "
            f"blocks fit: plan again with kv_bytes = {fit} in --config's [settings]"
        )
    return KvPool(decoder.config, pages, system.block_tokens, decoder.device, decoder.dtype)


def kv_bytes_that_fit(runtime: Runtime, system: System, spared: int) -> int:
    """KV memory, as `system` counts it, that a pool on the runtime's device may have if `spared`
    bytes are to be left: of a CPU's memory, in which a token may take more, a quarter.
    """
    decoder = runtime.decoder
    size = page_bytes(decoder.config, system.block_tokens, decoder.dtype)
    share = 1 if decoder.device.type == "cuda" else _CPU_SHARE
    room = max(0, _pool_room(runtime, size) - spared) // share
    return room // size * system.block_tokens * system.kv_bytes_per_token


def _pool_room(runtime: Runtime, page: int) -> int:
    """Bytes for a pool's pages, beside what steps need and its spare one of `page` bytes."""
    return max(0, free_bytes(runtime.decoder.device) - _scratch_bytes(runtime) - page)


def _scratch_bytes(runtime: Runtime) -> int:
    """What attention and graphs need beside the KV pool: an overlapped executor has three
    attentions.
    """
    decoder, needed = runtime.decoder, 0
    if runtime.uses_graphs:
        needed += graphs.scratch_bytes(decoder.config, decoder.dtype.itemsize)
    if uses_flashinfer(decoder):
        from blendrt.attention.flashinfer import scratch_bytes

        needed += 3 * scratch_bytes(decoder.config)
    return needed


def require_attention_room(decoder: Decoder, budget: int, longest: int) -> None:
    """InputError where the reference attention could not hold the scores of a step of `budget`
    tokens over `longest` tokens of context.
    """
    if uses_flashinfer(decoder):
        return
    score = _SCORE_COPIES * 4 * decoder.config.heads  # float32
    needed, free = score * min(budget, longest) * longest, free_bytes(decoder.device)
    if needed > free:
        fitting = max(free // (score * budget), min(budget, math.isqrt(free // score)))
        raise InputError(
            f"the longest request has {longest:,} tokens: attention written in torch needs "
            f"{needed / 1e9:.1f} GB for it and {free / 1e9:.1f} GB are free on "
            f"{device_name(decoder.device)}; {fitting:,} tokens fit: leave longer requests out"
        )


def make_executor(runtime: Runtime, pool: KvPool) -> Executor:
    """The runtime's executor over `pool`."""
    decoder = runtime.decoder
    captured = make_graphs(decoder, pool) if runtime.uses_graphs else None
    if runtime.executor == OVERLAP:
        from blendrt.executor.overlap import OverlapExecutor

        attention = partial(make_attention, decoder, pool)
        return OverlapExecutor(decoder, attention, pool, runtime.rule, graphs=captured)
    from blendrt.executor.sequential import SequentialExecutor

    return SequentialExecutor(decoder, make_attention(decoder, pool), pool, captured)


def make_graphs(decoder: Decoder, pool: KvPool) -> graphs.Graphs:
    """Graphs of the decoder's small steps over `pool`, on a GPU."""
    return graphs.Graphs(decoder, pool, graphs.CudaCapture(decoder.device))


def overlap_rule(
    system: System, overlap: str, device: torch.device, measured: Path | None = None
) -> OverlapRule:
    """The rule by the system's kernel profile and measured SM shares, as far as there are any: by
    the profile in the directory `measured`, else with `auto` by the measured one that is shipped
    (what a plan was made by need not be what this GPU does), else by the imported one.
    """
    if measured is None and overlap == AUTO and shipped_place(system).is_dir():
        measured = shipped_place(system)
    sms = NO_PARTITION
    if device.type == "cuda" and can_partition(device):
        sms = default_sms(torch.cuda.get_device_properties(device).multi_processor_count)
    place = measured or profile_place(profiles_directory(), system)
    try:
        model = model_at(measured, system, overlap)
    except ProfileError:
        return OverlapRule(default_sms=sms)
    shares = measured_shares(place) if sms != NO_PARTITION else None
    return OverlapRule(default_sms=sms, model=model, shares=shares)


def make_attention(decoder: Decoder, pool: KvPool) -> Attention:
    """FlashInfer where it has kernels, else the reference."""
    if not uses_flashinfer(decoder):
        return ReferenceAttention()
    from blendrt.attention.flashinfer import FlashInferAttention

    return FlashInferAttention(decoder.config, pool.block_tokens, decoder.device, decoder.dtype)


def uses_flashinfer(decoder: Decoder) -> bool:
    """On a GPU, but for the tiny model, whose heads are too small for its kernels."""
    return decoder.device.type == "cuda" and decoder.config != TINY
