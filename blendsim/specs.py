"""What runs and on what: the tables of models, GPUs and links, and how a name is found in them.

Figures are the vendors' public ones: Hugging Face `config.json` of each model, NVIDIA's data sheets
(dense bf16 peak, memory bandwidth) and the memory each card reports to its driver.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from blendsim.errors import InputError, UnknownName
from blendsim.formats import (
    FP8_BLOCK,
    IN_FP8,
    INT4,
    MXFP4,
    NVFP4,
)
from blendsim.model_config import read_config
from blendsim.model_spec import BYTES_PER_VALUE as BYTES_PER_VALUE
from blendsim.model_spec import ModelSpec as ModelSpec
from blendsim.names import (
    GPU_NAMES,
    MODEL_NAMES,
    OTHER_GPUS,
    Upload,
    called_so,
    canonical,
    fp8_upload,
    not_modelled,
)


@dataclass(frozen=True, slots=True)
class Link:
    """A connection that KV moves over. SI units; both directions at once, each at `bandwidth`."""

    name: str
    bandwidth: float  # bytes/s, one way
    latency: float = 0.0  # seconds a message

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth < float("inf") or not 0 <= self.latency < float("inf"):
            raise InputError(
                f"link {self.name!r}: {self.bandwidth:g} bytes/s at {self.latency:g} s a message "
                "moves nothing; give a bandwidth above 0 and a latency of 0 or more"
            )

    @property
    def is_pcie(self) -> bool:
        """Whether it is the bus that GPUs share with the host."""
        return self.name.startswith("pcie")


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One GPU. SI units: FLOP/s (dense bf16 peak, and dense fp8 and fp4 peaks, 0 where it has
    none), bytes/s, bytes. One that a file describes (gpu_file.py) was not measured: it is `like`
    one that was.
    """

    name: str
    flops: float
    bandwidth: float
    memory_bytes: int
    sm_count: int
    link: Link  # to the other GPUs of its server
    fp8_flops: float = 0.0
    fp4_flops: float = 0.0
    like: str = ""  # the GPU of the tables whose kernels are scaled to it; empty: it has its own

    @property
    def measured_as(self) -> str:
        """The GPU whose kernels were measured."""
        return self.like or self.name

    def flops_in(self, weights: str) -> float:
        """The peak with weights in a format of formats.WEIGHTS."""
        if weights == NVFP4:
            return self.fp4_flops
        return self.fp8_flops if weights in IN_FP8 else self.flops


_MIB = 1 << 20

#: Peak of one direction as the vendors state it: NVLink per GPU, PCIe ×16, one network card a GPU.
LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Link("nvlink3", 300e9, 5e-6),  # A100
        Link("nvlink4", 450e9, 5e-6),  # H100, H200
        Link("nvlink5", 900e9, 5e-6),  # B200
        Link("pcie4", 32e9, 10e-6),
        Link("pcie5", 64e9, 10e-6),
        Link("ib-200g", 25e9, 10e-6),
        Link("ib-400g", 50e9, 10e-6),
    )
}

GPUS: dict[str, GpuSpec] = {
    gpu.name: gpu
    for gpu in (
        GpuSpec("a100-80g", 312e12, 2.039e12, 81_920 * _MIB, 108, LINKS["nvlink3"]),
        GpuSpec("h100", 989.5e12, 3.35e12, 81_559 * _MIB, 132, LINKS["nvlink4"], 1979e12),
        GpuSpec("h200", 989.5e12, 4.8e12, 143_771 * _MIB, 132, LINKS["nvlink4"], 1979e12),
        GpuSpec("l40s", 362.05e12, 0.864e12, 46_068 * _MIB, 142, LINKS["pcie4"], 733e12),
        GpuSpec("b200", 2250e12, 8.0e12, 183_359 * _MIB, 148, LINKS["nvlink5"], 4500e12, 9000e12),
    )
}


def _mixture(dense: ModelSpec, experts: int, per_token: int) -> ModelSpec:
    """The same with experts instead of every MLP."""
    return replace(dense, experts=experts, experts_per_token=per_token)


def _in_contexts(model: ModelSpec, others: dict[str, int]) -> tuple[ModelSpec, ...]:
    """The model, and by name those of its sizes whose config.json says another context."""
    return (model, *(replace(model, name=name, context=size) for name, size in others.items()))


def _qwen3_moe(
    name: str,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    experts: int,
    context: int,
) -> ModelSpec:
    """A token goes through 8 experts."""
    dense = ModelSpec(
        name, layers, hidden, intermediate, heads, kv_heads, 128, 151_936, context, qk_norm=True
    )
    return _mixture(dense, experts, 8)


def _gpt_oss(name: str, layers: int, experts: int) -> ModelSpec:
    """Every second layer has a window. Their weights are published in mxfp4 alone."""
    dense = ModelSpec(name, layers, 2880, 2_880, 64, 8, 64, 201_088, 131_072, qkv_bias=True)
    mixture = _mixture(dense, experts, 4)
    return replace(mixture, window=128, windowed_layers=layers // 2, weights=MXFP4)


def _deepseek(
    name: str, heads: int, experts: int, dense: int, vocab: int, context: int
) -> ModelSpec:
    """DeepSeek-V3, and what is built like it, as they were published: in fp8 by block."""
    return ModelSpec(
        name, 61, 7168, 2_048, heads, 1, 128, vocab, context,
        experts=experts, experts_per_token=8, dense_layers=dense, dense_intermediate=18_432,
        shared_intermediate=2_048, q_rank=1_536, kv_rank=512, rope_dim=64, weights=FP8_BLOCK,
    )  # fmt: skip


def _qwen3_5(
    name: str, layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, delta: int
) -> ModelSpec:
    """Every fourth layer attends, the others are gated delta nets with 16 heads of keys."""
    dense = ModelSpec(name, layers, hidden, intermediate, heads, kv_heads, 256, 248_320, 262_144)
    return replace(
        dense, qk_norm=True, window=1, windowed_layers=layers // 4 * 3, delta_key_heads=16,
        delta_heads=delta, tower_parameters=_TOWER,
    )  # fmt: skip


def _qwen3_5_moe(dense: ModelSpec, experts: int, per_token: int) -> ModelSpec:
    """With one expert more, as wide as the others, that every token goes through."""
    mixture = _mixture(dense, experts, per_token)
    return replace(mixture, shared_intermediate=dense.intermediate)


_KIMI_INT4 = replace(_deepseek("kimi-k2-thinking", 64, 384, 1, 163_840, 262_144), weights=INT4)
#: Of Kimi-K2.5 and of Qwen3.5, as model_config.py counts towers.
_TOWER = 27 * (4 * 1_152**2 + 2 * 1_152 * 4_304)
_MISTRAL_SMALL = ModelSpec("mistral-small-24b", 40, 5120, 32_768, 32, 8, 128, 131_072, 32_768)

MODELS: dict[str, ModelSpec] = {
    model.name: model
    for model in (
        ModelSpec("llama-2-7b", 32, 4096, 11_008, 32, 32, 128, 32_000, 4_096),
        ModelSpec("llama-3.1-8b", 32, 4096, 14_336, 32, 8, 128, 128_256, 131_072),
        ModelSpec("llama-3.1-70b", 80, 8192, 28_672, 64, 8, 128, 128_256, 131_072),
        ModelSpec(
            "llama-3.2-3b", 28, 3072, 8_192, 24, 8, 128, 128_256, 131_072, tied_embeddings=True
        ),
        *_in_contexts(
            ModelSpec("qwen-2.5-7b", 28, 3584, 18_944, 28, 4, 128, 152_064, 131_072, qkv_bias=True),
            {"qwen-2.5-7b-instruct": 32_768},
        ),
        *_in_contexts(
            ModelSpec(
                "qwen-2.5-14b", 48, 5120, 13_824, 40, 8, 128, 152_064, 131_072, qkv_bias=True
            ),
            {"qwen-2.5-14b-instruct": 32_768},
        ),
        *_in_contexts(
            ModelSpec(
                "qwen-2.5-32b", 64, 5120, 27_648, 40, 8, 128, 152_064, 131_072, qkv_bias=True
            ),
            {"qwen-2.5-32b-instruct": 32_768, "qwq-32b": 40_960},
        ),
        *_in_contexts(
            ModelSpec(
                "qwen-2.5-72b", 80, 8192, 29_568, 64, 8, 128, 152_064, 131_072, qkv_bias=True
            ),
            {"qwen-2.5-72b-instruct": 32_768},
        ),
        *_in_contexts(
            replace(
                ModelSpec("qwen3-4b", 36, 2560, 9_728, 32, 8, 128, 151_936, 40_960, qk_norm=True),
                tied_embeddings=True,
            ),
            {"qwen3-4b-2507": 262_144},
        ),
        ModelSpec("qwen3-8b", 36, 4096, 12_288, 32, 8, 128, 151_936, 40_960, qk_norm=True),
        ModelSpec("qwen3-14b", 40, 5120, 17_408, 40, 8, 128, 151_936, 40_960, qk_norm=True),
        ModelSpec("qwen3-32b", 64, 5120, 25_600, 64, 8, 128, 151_936, 40_960, qk_norm=True),
        ModelSpec("deepseek-67b", 95, 8192, 22_016, 64, 8, 128, 102_400, 4_096),
        ModelSpec("mistral-7b", 32, 4096, 14_336, 32, 8, 128, 32_768, 32_768),
        _MISTRAL_SMALL,
        replace(
            _MISTRAL_SMALL,
            name="mistral-small-3.1-24b",
            context=131_072,
            tower_parameters=24 * (4 * 1_024**2 + 3 * 1_024 * 4_096),
        ),
        ModelSpec("phi-4", 40, 5120, 17_920, 40, 10, 128, 100_352, 16_384),
        _mixture(ModelSpec("mixtral-8x7b", 32, 4096, 14_336, 32, 8, 128, 32_000, 32_768), 8, 2),
        _mixture(ModelSpec("mixtral-8x22b", 56, 6144, 16_384, 48, 8, 128, 32_768, 65_536), 8, 2),
        *_in_contexts(
            _qwen3_moe("qwen3-30b-a3b", 48, 2048, 768, 32, 4, 128, 40_960),
            {"qwen3-30b-a3b-2507": 262_144},
        ),
        *_in_contexts(
            _qwen3_moe("qwen3-235b-a22b", 94, 4096, 1_536, 64, 4, 128, 40_960),
            {"qwen3-235b-a22b-2507": 262_144},
        ),
        _qwen3_moe("qwen3-coder-480b-a35b", 62, 6144, 2_560, 96, 8, 160, 262_144),
        replace(
            _mixture(
                ModelSpec(
                    "minimax-m2", 62, 3072, 1_536, 48, 8, 128, 200_064, 196_608, qk_norm=True
                ),
                256,
                8,
            ),
            weights=FP8_BLOCK,
        ),
        _gpt_oss("gpt-oss-20b", 24, 32),
        _gpt_oss("gpt-oss-120b", 36, 128),
        _deepseek("deepseek-v3", 128, 256, 3, 129_280, 163_840),
        _deepseek("kimi-k2", 64, 384, 1, 163_840, 131_072),
        _KIMI_INT4,
        replace(_KIMI_INT4, name="kimi-k2.5", tower_parameters=_TOWER),
        _qwen3_5("qwen3.5-9b", 32, 4096, 12_288, 16, 4, 32),
        _qwen3_5("qwen3.5-27b", 64, 5120, 17_408, 24, 4, 48),
        _qwen3_5_moe(_qwen3_5("qwen3.5-35b-a3b", 40, 2048, 512, 16, 2, 32), 256, 8),
        _qwen3_5_moe(_qwen3_5("qwen3.5-122b-a10b", 48, 3072, 1_024, 32, 2, 64), 256, 8),
        _qwen3_5_moe(_qwen3_5("qwen3.5-397b-a17b", 60, 4096, 1_024, 32, 2, 64), 512, 10),
    )
}


def gpu_name(name: str) -> str:
    """The name in GPUS of what users call otherwise (`H200`, `A100-SXM4-80GB`); any other name as
    it is.
    """
    return name if name in GPUS else canonical(name, GPUS, GPU_NAMES) or name


def model_name(name: str) -> str:
    """The name in MODELS of what users call otherwise (`Qwen/Qwen2.5-7B-Instruct`); a path to a
    model and any other name as they are.
    """
    if name in MODELS:
        return name
    found = canonical(name, MODELS, MODEL_NAMES)
    return name if found is None or _is_model_path(Path(name)) else found


_OTHER_GPU = (
    "another is measured (docs/extending.md), or described by a FILE.toml (docs/profiles.md)"
)


def find_gpu(name: str) -> GpuSpec:
    """The GPU of that name, or UnknownName with the nearest ones."""
    found = gpu_name(name)
    if found not in GPUS:
        raise unknown_gpu(name, others=_OTHER_GPU)
    return GPUS[found]


def unknown_gpu(name: str, known: Iterable[str] | None = None, others: str = "") -> UnknownName:
    """The error for a GPU's name that is in none of `known`, all of GPUS by itself; `others` says
    how else one is had.
    """
    known = GPUS if known is None else known
    called = called_so(name, known, {**GPU_NAMES, **OTHER_GPUS})
    return UnknownName("GPU", name, known, called, others)


def unknown_model(name: str, others: str = "") -> UnknownName:
    """The error for a model's name that is none; `others` says how else one is had."""
    return UnknownName("model", name, MODELS, called_so(name, MODELS, MODEL_NAMES), others)


def find_link(name: str) -> Link:
    """The link of that name, or UnknownName with the nearest ones."""
    if name not in LINKS:
        raise UnknownName("link", name, LINKS)
    return LINKS[name]


def find_model(name: str) -> ModelSpec:
    """The model of that name, or the one a path to a Hugging Face `config.json` (or its directory)
    describes; InputError for a model that is not modelled.
    """
    found = model_name(name)
    if found in MODELS:
        return MODELS[found]
    path = Path(name)
    if not _is_model_path(path):
        if why := not_modelled(name):
            raise InputError(f"{name} is not modelled: {why}; choose another --model")
        if upload := fp8_upload(name, MODELS, MODEL_NAMES):
            raise UnknownName("model", name, [upload.row], (), _as_uploaded(upload))
        raise unknown_model(name, "another one by the directory of its config.json")
    if path.is_dir():
        path = path / "config.json"
        if not path.exists():
            raise InputError(f"{path}: no such file; give a Hugging Face model directory")
    return read_config(path)


def _as_uploaded(upload: Upload) -> str:
    return (
        f"give --model {upload.row} --quantization {upload.weights} for these weights, or the "
        "directory of its config.json"
    )


def _is_model_path(path: Path) -> bool:
    try:
        return path.is_dir() or (path.suffix == ".json" and path.exists())
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False
