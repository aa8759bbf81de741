"""What runs and on what: model and GPU tables, and a System that puts a model on tensor-parallel
GPUs.

Figures are the vendors' public ones: Hugging Face `config.json` of each model, NVIDIA's data sheets
(dense bf16 peak, memory bandwidth) and the memory each card reports to its driver.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from blendsim.errors import InputError, UnknownName
from blendsim.formats import (
    BLOCK_VALUES,
    FP8,
    FP8_BLOCK,
    IN_FP8,
    INT4,
    MXFP4,
    NVFP4,
    OF_EXPERTS,
    WEIGHTS,
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
)

BLOCK_TOKENS = 16  # of the KV cache


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
    none), bytes/s, bytes.
    """

    name: str
    flops: float
    bandwidth: float
    memory_bytes: int
    sm_count: int
    link: Link  # to the other GPUs of its server
    fp8_flops: float = 0.0
    fp4_flops: float = 0.0

    def flops_in(self, weights: str) -> float:
        """The peak with weights in a format of formats.WEIGHTS."""
        if weights == NVFP4:
            return self.fp4_flops
        return self.fp8_flops if weights in IN_FP8 else self.flops


@dataclass(frozen=True, slots=True)
class System:
    """A model replica on `tp` GPUs of one kind. `kv_bytes` overrides the KV memory (the paper's
    preset is 60e9).
    """

    model: ModelSpec
    gpu: GpuSpec
    tp: int = 1
    kv_bytes: int | None = None
    block_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        if self.tp < 1 or self.model.heads % self.tp:
            raise InputError(
                f"--tp {self.tp} does not divide the {self.model.heads} heads of "
                f"{self.model.name}; choose a divisor"
            )
        if self.model.kv_heads % self.tp and self.tp % self.model.kv_heads:
            raise InputError(
                f"--tp {self.tp} neither divides the {self.model.kv_heads} KV heads of "
                f"{self.model.name} nor is a multiple of them; choose one that does"
            )
        if self.model.weights in OF_EXPERTS and not self.model.experts:
            raise InputError(
                f"{self.model.weights} is a format of experts, and {self.model.name} has none; "
                f"use --quantization {FP8}, or none"
            )
        if not self.gpu.flops_in(self.model.weights):
            kind = NVFP4 if self.model.weights == NVFP4 else FP8
            raise InputError(
                f"{self.gpu.name} does not compute in {kind}, and kernels that widen such weights "
                "were not measured; use another --gpu or --quantization"
            )
        self._require_whole_experts()
        self._require_whole_blocks()
        least = 1 + self.window_blocks
        if self.kv_bytes is not None and self.kv_blocks < least:
            wanted = least * self.kv_bytes_per_token * self.block_tokens
            raise InputError(
                f"kv_bytes = {self.kv_bytes} holds no request of {self.model.name}, of "
                f"{self.block_tokens} tokens at least; give at least {wanted}"
            )
        if self.kv_blocks < least:
            weights = self.weight_bytes / 1e9
            raise InputError(
                f"{self.model.name} needs {weights:.0f} GB for weights and leaves no KV cache on "
                f"{self.tp} × {self.gpu.name}; use a larger --tp or another --gpu"
            )

    def _require_whole_experts(self) -> None:
        """InputError where experts are to be whole on a GPU, and there are none, or too few."""
        model = self.model
        if not model.expert_parallel:
            return
        if not model.experts:
            raise InputError(f"--expert-parallel: {model.name} has no experts; leave it out")
        if model.experts % self.tp:
            raise InputError(
                f"--expert-parallel: {self.tp} GPUs cannot share the {model.experts} experts of "
                f"{model.name} evenly; use another --tp, or leave it out"
            )

    def _require_whole_blocks(self) -> None:
        """InputError where a GPU's share of a matrix cuts through blocks of scales, which vLLM and
        SGLang refuse when they load it.
        """
        model = self.model
        if model.weights != FP8_BLOCK:
            return
        heads = model.heads // self.tp
        for what, width in (
            ("MLP", model.intermediate // (1 if model.expert_parallel else self.tp)),
            ("MLP of dense layers", model.dense_intermediate // self.tp),
            ("shared experts", model.shared_intermediate // self.tp),
            ("queries", heads * (model.head_dim + model.rope_dim)),
            ("attention", heads * model.head_dim),
            # NOTE: what a latent attention keeps is whole on every GPU.
            ("keys", 0 if model.latent else max(1, model.kv_heads // self.tp) * model.head_dim),
        ):
            if width % BLOCK_VALUES:
                or_else = ", or --expert-parallel" if what == "MLP" and model.experts else ""
                raise InputError(
                    f"--tp {self.tp} leaves each GPU {width} values of {model.name}'s {what}, no "
                    f"multiple of the {BLOCK_VALUES} of a block of fp8-block, which engines do not "
                    f"load; use a smaller --tp{or_else}"
                )

    @property
    def kv_capacity_bytes(self) -> int:
        """KV memory of the replica: 0.90 × HBM × tp − weights − 2 GiB a GPU, or `kv_bytes`.

        0.90 is what vLLM took of a GPU unless told (`gpu_memory_utilization`; newer ones take
        0.92). 2 GiB for activations, the engine's buffers and CUDA's own is our round figure.
        """
        if self.kv_bytes is not None:
            return self.kv_bytes
        free = int(0.90 * self.gpu.memory_bytes * self.tp) - (2 << 30) * self.tp
        return free - self.weight_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights on all GPUs: those of a latent attention that belong to no head are
        on every one.
        """
        repeated = (self.tp - 1) * self.model.layers * self.model.down_parameters
        return self.model.weight_bytes + int(repeated * WEIGHTS[self.model.layer_format])

    @property
    def kv_copies(self) -> int:
        """GPUs that keep the same K and V: heads of them are repeated when the GPUs outnumber them,
        as is what a latent attention keeps for all heads.
        """
        return max(1, self.tp // self.model.kv_heads)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token on all GPUs."""
        return self.model.kv_bytes_per_token * self.kv_copies

    @property
    def flops(self) -> float:
        """Peak FLOP/s of one GPU with weights in the model's format."""
        return self.gpu.flops_in(self.model.weights)

    @property
    def kv_blocks(self) -> int:
        """KV capacity in blocks of `block_tokens` tokens."""
        return max(0, self.kv_capacity_bytes) // (self.kv_bytes_per_token * self.block_tokens)

    @property
    def window_blocks(self) -> int:
        """KV blocks that a running request holds for its windowed layers, beside those of the
        layers that keep its whole context: blocks that a window of any beginning lies in, as many
        of them as there are windowed layers to others (vLLM's hybrid KV cache).
        """
        model = self.model
        if not model.windowed_layers:
            return 0
        touched = -(-(model.window - 1) // self.block_tokens) + 1
        return -(-touched * model.windowed_layers // model.full_layers)

    @property
    def longest_request(self) -> int:
        """Prompt + output tokens the longest servable request may have."""
        return min(self.model.context, self.room)

    @property
    def room(self) -> int:
        """Tokens of a request that KV memory holds if it runs alone."""
        return (self.kv_blocks - self.window_blocks) * self.block_tokens


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Host memory of a replica that its KV may go to, and the link each of its GPUs has to it."""

    capacity_bytes: int
    link: Link

    def blocks(self, system: System) -> int:
        """Capacity in KV blocks of `system`."""
        size = system.kv_bytes_per_token * system.block_tokens
        if self.capacity_bytes < size:
            raise InputError(
                f"host_memory_bytes = {self.capacity_bytes} holds no KV block of "
                f"{system.block_tokens} tokens of {system.model.name}; give at least {size}, "
                "or none"
            )
        return self.capacity_bytes // size

    def seconds_per_block(self, system: System) -> float:
        """Time that a KV block takes one way: every GPU moves its own share of it."""
        size = system.kv_bytes_per_token * system.block_tokens
        return size / (self.link.bandwidth * system.tp)


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


_KIMI_INT4 = replace(_deepseek("kimi-k2-thinking", 64, 384, 1, 163_840, 262_144), weights=INT4)
_KIMI_TOWER = 27 * (4 * 1_152**2 + 2 * 1_152 * 4_304)  # as model_config.py counts towers

MODELS: dict[str, ModelSpec] = {
    model.name: model
    for model in (
        ModelSpec("llama-2-7b", 32, 4096, 11_008, 32, 32, 128, 32_000, 4_096),
        ModelSpec("llama-3.1-8b", 32, 4096, 14_336, 32, 8, 128, 128_256, 131_072),
        ModelSpec("llama-3.1-70b", 80, 8192, 28_672, 64, 8, 128, 128_256, 131_072),
        ModelSpec("qwen-2.5-7b", 28, 3584, 18_944, 28, 4, 128, 152_064, 131_072, qkv_bias=True),
        ModelSpec("qwen-2.5-72b", 80, 8192, 29_568, 64, 8, 128, 152_064, 131_072, qkv_bias=True),
        ModelSpec("qwen3-8b", 36, 4096, 12_288, 32, 8, 128, 151_936, 40_960, qk_norm=True),
        ModelSpec("qwen3-32b", 64, 5120, 25_600, 64, 8, 128, 151_936, 40_960, qk_norm=True),
        ModelSpec("deepseek-67b", 95, 8192, 22_016, 64, 8, 128, 102_400, 4_096),
        _mixture(ModelSpec("mixtral-8x7b", 32, 4096, 14_336, 32, 8, 128, 32_000, 32_768), 8, 2),
        _mixture(ModelSpec("mixtral-8x22b", 56, 6144, 16_384, 48, 8, 128, 32_768, 65_536), 8, 2),
        _mixture(
            ModelSpec("qwen3-30b-a3b", 48, 2048, 768, 32, 4, 128, 151_936, 40_960, qk_norm=True),
            128,
            8,
        ),
        _mixture(
            ModelSpec(
                "qwen3-235b-a22b", 94, 4096, 1_536, 64, 4, 128, 151_936, 40_960, qk_norm=True
            ),
            128,
            8,
        ),
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
        replace(_KIMI_INT4, name="kimi-k2.5", tower_parameters=_KIMI_TOWER),
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


def find_gpu(name: str) -> GpuSpec:
    """The GPU of that name, or UnknownName with the nearest ones."""
    found = gpu_name(name)
    if found not in GPUS:
        raise unknown_gpu(name, others="another is measured (docs/extending.md)")
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
        f"add --quantization {upload.weights} for these weights, or give the directory of its "
        "config.json"
    )


def _is_model_path(path: Path) -> bool:
    try:
        return path.is_dir() or (path.suffix == ".json" and path.exists())
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False
