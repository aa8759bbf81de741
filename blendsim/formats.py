"""Formats that weights and KV are kept in, and what a model's files say of them.

A format counts by its bytes and by the kernels that were measured with it (perf/atlas.py). Scales
of fp8 are left out: one a tensor or channel, or one for 128 × 128 values, weighs next to nothing.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from blendsim.errors import InputError
from blendsim.fields import Section
from blendsim.printable import short

BF16: Final = "bf16"
FP8: Final = "fp8"  # 8 bits a value, a scale a tensor or channel; activations are fp8, too
FP8_BLOCK: Final = "fp8-block"  # a scale for every 128 × 128 values
#: Of experts alone, all else is bf16: 4 bits a value and a scale of 8 for every 32 (Open Compute
#: Project, Microscaling Formats 1.0). Activations stay bf16.
MXFP4: Final = "mxfp4"
INT4: Final = "int4"  # the same with whole numbers and scales in bf16 (Kimi-K2-Thinking and after)
NVFP4: Final = "nvfp4"  # 4 bits a value, a scale of 8 for every 16; activations, too
#: Bytes a value.
WEIGHTS: Final = {BF16: 2, FP8: 1, FP8_BLOCK: 1, MXFP4: 4.25 / 8, INT4: 4.5 / 8, NVFP4: 4.5 / 8}
IN_FP8: Final = (FP8, FP8_BLOCK)  # what is computed in fp8
OF_EXPERTS: Final = (MXFP4, INT4)
KV_FORMATS: Final = {BF16: 2, FP8: 1}

#: What may be asked for beside these: as the model's files say, and weights as they were trained.
AUTO: Final = "auto"
NONE: Final = "none"
QUANTIZATIONS: Final = (AUTO, NONE, FP8, FP8_BLOCK, MXFP4, INT4, NVFP4)
KV_DTYPES: Final = (AUTO, *KV_FORMATS)

#: Read by engines where config.json says nothing of it: ModelOpt's, GPTQ's and AWQ's.
_BESIDE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
BLOCK_VALUES: Final = 128
_BLOCK: Final = [BLOCK_VALUES, BLOCK_VALUES]
_ADVICE: Final = (
    "only bf16, fp8 and nvfp4 weights are priced, and mxfp4 and int4 of experts; give the "
    "directory of a model in one of these, or of one that is not quantised and, with "
    "--quantization, what it is to be in"
)
#: Parts that stay in bf16 in every fp8 model that is priced here, by what their names hold: the
#: head, towers, the layer that guesses tokens, and what is no matrix of a layer, or a gate of one.
_LEFT_IN_BF16 = (
    *("lm_head", "vis", "audio", "norm", "embed", "projector", "mtp.", "shared_expert_gate"),
    *("linear_attn.in_proj_a", "linear_attn.in_proj_b", "conv1d", "A_log", "dt_bias"),
)
#: And routers of experts, by how their names end before a `.*`, `*` or `$`, or in whole.
_ROUTERS = ("mlp.gate", "block_sparse_moe.gate", "router")
_ROUTER_NAMES = ("gate", "e_score_correction_bias")
_MODELOPT = {"FP8": FP8, "NVFP4": NVFP4}
_QUANTISED = ("weights", "input_activations")  # parts of a group of compressed-tensors
#: What is not in a format of experts, by what the names of parts hold: of MLPs the dense layers'.
_BESIDE_EXPERTS = ("self_attn", "shared_experts", "mlp")
#: Lists of what is left as it was, whoever wrote the file.
_LEFT = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
#: What people and engines call a format otherwise.
_QUANTIZATION_NAMES = {BF16: NONE, "bfloat16": NONE}
_KV_NAMES = {"bfloat16": BF16, "fp8_e4m3": FP8}


class Formats(NamedTuple):
    """Of WEIGHTS, of KV_FORMATS."""

    weights: str
    kv: str


def quantization_named(name: str) -> str:
    """The one of QUANTIZATIONS that is meant; any other name as it is."""
    return _QUANTIZATION_NAMES.get(name.lower(), name.lower())


def kv_named(name: str) -> str:
    """The one of KV_DTYPES that is meant; any other name as it is."""
    return _KV_NAMES.get(name.lower(), name.lower())


def formats_of(path: Path, parts: tuple[Section, ...], has_experts: bool) -> Formats:
    """What the config.json at `path`, or what lies beside it, says that weights and KV are in.
    InputError for formats of which nothing was measured.

    `parts` are the file and, where it is another, its table of the decoder.
    """
    for part in parts:
        for name in ("dtype", "torch_dtype"):
            _require_plain(path, name, part.get(name))
    found = [_read(where, given, has_experts) for where, given in _statements(path, parts)]
    for other in found[1:]:
        if other.weights != found[0].weights:
            raise InputError(
                f"{path}: it and a file beside it differ about how weights are quantised "
                f"({found[0].weights}, {other.weights}); remove the one that is wrong"
            )
    kv = FP8 if any(one.kv == FP8 for one in found) else BF16
    return Formats(found[0].weights if found else BF16, kv)


def _require_plain(path: Path, name: str, value: Any) -> None:
    # Loaded as bf16 by engines, or of the same size.
    plain = ("float32", "float16", "bfloat16", "float", "half", "auto")
    if value is not None and str(value).removeprefix("torch.") not in plain:
        raise InputError(f"{path}: {name!r} is {short(value)}; {_ADVICE}")


def _statements(path: Path, parts: tuple[Section, ...]) -> Iterator[tuple[str, Any]]:
    """Everything that says how weights are quantised: where it stands and what it is."""
    for part in parts:
        for name in ("quantization_config", "compression_config"):
            if part.get(name) is not None:
                yield f"{path}: {name!r}", part[name]
    # NOTE: a config.json of another name may lie beside any model's files.
    if path.name != "config.json":
        return
    for name in _BESIDE:
        beside = path.with_name(name)
        if beside.exists():
            try:
                given = json.loads(beside.read_text("utf-8-sig"))
            except (OSError, ValueError) as error:
                raise InputError(f"{beside}: not readable as JSON ({error}); mend it") from error
            yield str(beside), given.get("quantization", given) if _is_table(given) else given


def _read(where: str, given: Any, has_experts: bool) -> Formats:
    """Formats of one statement."""
    if not _is_table(given):
        raise InputError(f"{where} is {short(given)}, no table; mend it")
    method = given.get("quant_method") or given.get("quant_algo")
    left = [str(name) for key in _LEFT for name in _list(where, given, key)]
    if given.get("quant_method") == MXFP4 and has_experts:
        weights = MXFP4
    elif given.get("quant_method") == "fp8":
        weights = _of_blocks(where, given.get("weight_block_size"))
    elif given.get("quant_method") == "compressed-tensors":
        are_alone = has_experts and _leaves_experts_alone(left)
        weights = _compressed_tensors(where, given, are_alone)
    elif given.get("quant_algo") in _MODELOPT:
        weights = _MODELOPT[str(given["quant_algo"])]
    else:
        told = f" ({short(method)})" if method else ""
        raise InputError(f"{where}{told} says that weights are quantised; {_ADVICE}")
    for name in left:
        if weights in OF_EXPERTS and _is_of_experts(name):
            raise InputError(f"{where} leaves {short(name)} as it was; {_ADVICE}")
        if weights not in OF_EXPERTS and not _stays(name, has_experts):
            raise InputError(
                f"{where} leaves {short(name)} as it was, and layers of two formats are not "
                f"priced; {_ADVICE}"
            )
    return Formats(weights, _kv(where, given))


def _leaves_experts_alone(left: list[str]) -> bool:
    """Whether what is left as it was leaves nothing in the format but experts."""
    return all(any(part in name for name in left) for part in _BESIDE_EXPERTS)


def _is_of_experts(name: str) -> bool:
    return "expert" in name and "shared_expert" not in name


def _kv(where: str, given: Section) -> str:
    """The format of KV in one statement."""
    scheme, algo = given.get("kv_cache_scheme"), given.get("kv_cache_quant_algo")
    if scheme is None and algo is None:
        return BF16
    if _is_fp8(scheme) or (algo if scheme is None else scheme) == "FP8":
        return FP8
    raise InputError(
        f"{where} keeps KV in {short(algo if scheme is None else scheme)}, and only bf16 and fp8 "
        "are priced; give another model"
    )


def _list(where: str, given: Section, key: str) -> list[Any]:
    found = given.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise InputError(f"{where}: {key!r} is {short(found)}, no list; mend it")
    return found


def _compressed_tensors(where: str, given: Section, are_experts_alone: bool) -> str:
    """The format of weights that all groups have; int4 where it is of experts alone."""
    groups = given.get("config_groups")
    groups = list(groups.values()) if _is_table(groups) else []
    formats = set()
    for group in groups:
        both: list[Any] = [group.get(part) for part in _QUANTISED] if _is_table(group) else []
        if are_experts_alone and both and _is_int4(both[0]) and both[1] is None:
            formats.add(INT4)
            continue
        if not both or not (all(map(_is_fp8, both)) or all(map(_is_nvfp4, both))):
            raise InputError(
                f"{where} ({short(given.get('format'))}) has weights or activations that are "
                f"neither both fp8 nor both nvfp4; {_ADVICE}"
            )
        if group.get("targets", ["Linear"]) != ["Linear"]:
            raise InputError(
                f"{where} is of {short(group['targets'])} alone, and layers of two formats are "
                f"not priced; {_ADVICE}"
            )
        formats.add(NVFP4 if _is_nvfp4(both[0]) else _of_strategy(where, both[0]))
    if len(formats) != 1:
        raise InputError(f"{where} has {len(formats)} formats of weights; {_ADVICE}")
    return str(formats.pop())


def _of_strategy(where: str, weights: Section) -> str:
    """The format of weights by what has a scale of its own."""
    strategy = weights.get("strategy", "tensor")
    if strategy == "block":
        return _of_blocks(where, weights.get("block_structure", 0))
    if strategy not in ("tensor", "channel"):
        raise InputError(f"{where} has scales by {short(strategy)}; {_ADVICE}")
    return FP8


def _of_blocks(where: str, block: Any) -> str:
    """The format of weights with a scale for each block of that size, None for none."""
    if block is None:
        return FP8
    if block != _BLOCK:
        raise InputError(f"{where} has blocks of {short(block)}, not {_BLOCK}; {_ADVICE}")
    return FP8_BLOCK


def _is_fp8(scheme: Any) -> TypeGuard[Section]:
    return _is_table(scheme) and (scheme.get("num_bits"), scheme.get("type")) == (8, "float")


def _is_nvfp4(scheme: Any) -> TypeGuard[Section]:
    parts = ("num_bits", "type", "group_size")
    return _is_table(scheme) and tuple(map(scheme.get, parts)) == (4, "float", 16)


def _is_int4(scheme: Any) -> TypeGuard[Section]:
    parts = ("num_bits", "type", "strategy", "group_size")
    return _is_table(scheme) and tuple(map(scheme.get, parts)) == (4, "int", "group", 32)


def _stays(name: str, has_experts: bool) -> bool:
    """Whether a part that is not quantised is not in any fp8 model that is priced here."""
    ending = name.removesuffix(".*").rstrip("*$")
    is_router = has_experts and (ending.endswith(_ROUTERS) or ending in _ROUTER_NAMES)
    return is_router or any(part in name for part in _LEFT_IN_BF16)


def _is_table(value: Any) -> TypeGuard[Section]:
    return isinstance(value, Mapping)
