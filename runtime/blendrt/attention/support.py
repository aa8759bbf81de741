"""What FlashInfer can be used for here: settings, models, GPUs, and which kernels lie ready."""

import builtins
import importlib
from dataclasses import dataclass
from typing import Any, Literal

import torch

from blendrt.config import DecoderConfig
from blendsim.errors import InputError, Unavailable

_HEAD_DIMS = (64, 128, 256)
_TYPES = (torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = 8  # bfloat16 on tensor cores: Ampere
#: Heads a KV head for which the decode kernel without tensor cores is compiled.
_PLAIN_GROUPS = (1, 2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class FlashInferSettings:
    """How FlashInfer is used."""

    #: fa3 exists on Hopper only. "auto" takes it there if it is built, which takes ten minutes and
    #: more on two cores. Decodes always run fa2's kernels.
    prefill: Literal["auto", "fa2", "fa3"] = "auto"
    #: Decode on tensor cores: pays when several heads read one KV head. None: when 4 or more do.
    tensor_cores: bool | None = None
    #: Read a prefix only once that at least this many decodes of a batch share. 0: never.
    cascade_members: int = 0
    cascade_pages: int = 16  # that they share at least
    #: Tokens that one block reads of a decode's KV before another takes over. None: as
    #: `splitting.chunk_tokens` says; 0: as FlashInfer itself would have it.
    decode_chunk: int | None = None


def load_library(device: torch.device) -> Any:
    """The flashinfer package, or Unavailable."""
    if device.type != "cuda":
        raise Unavailable("FlashInfer needs an NVIDIA GPU; without one use the reference attention")
    try:
        library = importlib.import_module("flashinfer")
        decode = importlib.import_module("flashinfer.decode")
        prefill = importlib.import_module("flashinfer.prefill")
    except ImportError as error:
        raise Unavailable(
            f"FlashInfer cannot be imported ({error}): pip install 'blendsim[gpu]'"
        ) from error
    spare_loops(decode)
    spare_loops(prefill)
    return library


def spare_loops(module: Any) -> None:
    """Give the module a `max` that asks a tensor for its largest value.

    FlashInfer 0.6.6 plans by `max(lengths).item()`, for which Python makes a tensor of each number:
    1.7 ms for 1,024 decodes (bench/host_loop.md). 0.7.2 asks the tensor itself.
    """
    module.max = _largest


def _largest(*values: Any, **how: Any) -> Any:
    """Python's `max`, and of a vector the scalar tensor that it would return, too."""
    if len(values) == 1 and not how and isinstance(values[0], torch.Tensor):
        return values[0].max()
    return builtins.max(*values, **how)


def check_supported(
    config: DecoderConfig, device: torch.device, dtype: torch.dtype, settings: FlashInferSettings
) -> None:
    """InputError for a model or a GPU that FlashInfer has no kernels for."""
    use = "use the reference attention"
    if config.head_dim not in _HEAD_DIMS:
        known = ", ".join(map(str, _HEAD_DIMS))
        raise InputError(
            f"{config.name} has heads of {config.head_dim} dimensions, FlashInfer's kernels have "
            f"{known}; {use}"
        )
    if dtype not in _TYPES:
        raise InputError(f"FlashInfer has no kernels for {dtype}; use bfloat16, or {use}")
    group = config.heads // config.kv_heads
    if settings.tensor_cores is False and group not in _PLAIN_GROUPS:
        raise InputError(
            f"{config.name} has {group} heads a KV head, for which FlashInfer decodes on tensor "
            "cores only; leave tensor_cores unset"
        )
    if device.type == "cuda":
        _check_architecture(device, settings)


def _check_architecture(device: torch.device, settings: FlashInferSettings) -> None:
    major, minor = torch.cuda.get_device_capability(device)
    has = f"{torch.cuda.get_device_name(device)} has {major}.{minor}"
    if major < _LEAST_CAPABILITY:
        raise InputError(
            f"FlashInfer needs compute capability {_LEAST_CAPABILITY}.0 or more and {has}; "
            "use another GPU, or --model tiny without --gpu"
        )
    if settings.prefill == "fa3" and major != 9:
        raise InputError(
            f"fa3 kernels exist for compute capability 9.0 alone and {has}; choose fa2"
        )


def has_fa3(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fa3's prefill kernel lies ready for this GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        return False
    generator = importlib.import_module("flashinfer.jit.attention").gen_batch_prefill_module
    types, heads = [dtype] * 3, [config.head_dim] * 2
    try:
        kernel = generator("fa3", *types, torch.int32, *heads, 0, False, False, False)
    except TypeError:  # another version's: fa2 needs no such question
        return False
    return bool(getattr(kernel, "is_compiled", False))


def blocks_at_once(device: torch.device) -> int:
    """Blocks of attention that a GPU runs at once: two an SM."""
    if device.type != "cuda":
        return 1
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count
