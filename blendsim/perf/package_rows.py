"""Rows of the source package's tables, as far as our models use them: which table of ours is where,
and which of the rows there are its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from blendsim.formats import BF16, FP8, FP8_BLOCK, INT4, MXFP4, NVFP4
from blendsim.perf.atlas import WIDE
from blendsim.perf.latent import is_used as is_of_latent
from blendsim.perf.package import Row, newest, provenance, rows_of
from blendsim.perf.recurrent import is_used as is_of_delta

_HEAD_DIMS = (64, 128)
#: Of heads of another size Qwen3.5's are read, in layers beside gated delta nets. NOTE: with tables
#: of their own, so that none of another model's grows or is fitted to them.
_WIDE_DIMS = (WIDE,)


class _Source(NamedTuple):
    """Where a table of ours is in the package, and which of the rows there are its own."""

    directory: str
    name: str
    rows: Mapping[str, tuple[str, ...]]  # what a column may hold
    is_windowed: bool = False  # attention to a window
    head_dims: tuple[int, ...] = _HEAD_DIMS  # of attention


#: The package's names of the formats of weights.
WEIGHTS = {
    "bfloat16": BF16,
    "fp8": FP8,
    "fp8_block": FP8_BLOCK,
    "w4a16_mxfp4": MXFP4,
    "int4_wo": INT4,
    "nvfp4": NVFP4,
}
_BF16 = ("bfloat16",)
_ATTENTION = {"attn_dtype": _BF16, "kv_cache_dtype": _BF16}  # attn_dtype: of what goes in and out
_ATTENTION_FP8 = {"attn_dtype": _BF16, "kv_cache_dtype": ("fp8",)}
#: Tables of ours that every GPU has.
TABLES = {
    "gemm": _Source("gemm", "gemm_perf", {"gemm_dtype": _BF16}),
    "decode_attention": _Source("attention", "generation_attention_perf", _ATTENTION),
    "prefill_attention": _Source("attention", "context_attention_perf", _ATTENTION),
    "all_reduce": _Source("comm", "custom_allreduce_perf", {"allreduce_dtype": _BF16}),
}
#: What a GPU has beside them. NOTE: no GEMMs of fp8_block: the package timed those without CUDA
#: graphs, so that most are what the host took to launch them (docs/profiles.md).
MORE_TABLES = {
    "gemm_fp8": _Source("gemm", "gemm_perf", {"gemm_dtype": ("fp8",)}),
    "gemm_nvfp4": _Source("gemm", "gemm_perf", {"gemm_dtype": ("nvfp4",)}),
    "decode_attention_fp8": _Source("attention", "generation_attention_perf", _ATTENTION_FP8),
    "prefill_attention_fp8": _Source("attention", "context_attention_perf", _ATTENTION_FP8),
    "decode_attention_windowed": _Source(
        "attention", "generation_attention_perf", _ATTENTION, True
    ),
    "decode_attention_windowed_fp8": _Source(
        "attention", "generation_attention_perf", _ATTENTION_FP8, True
    ),
    "prefill_attention_windowed": _Source("attention", "context_attention_perf", _ATTENTION, True),
    "prefill_attention_windowed_fp8": _Source(
        "attention", "context_attention_perf", _ATTENTION_FP8, True
    ),
    "decode_attention_wide": _Source(
        "attention", "generation_attention_perf", _ATTENTION, head_dims=_WIDE_DIMS
    ),
    "decode_attention_wide_fp8": _Source(
        "attention", "generation_attention_perf", _ATTENTION_FP8, head_dims=_WIDE_DIMS
    ),
    "prefill_attention_wide": _Source(
        "attention", "context_attention_perf", _ATTENTION, head_dims=_WIDE_DIMS
    ),
    "prefill_attention_wide_fp8": _Source(
        "attention", "context_attention_perf", _ATTENTION_FP8, head_dims=_WIDE_DIMS
    ),
    "experts": _Source("moe", "moe_perf", {"moe_dtype": tuple(WEIGHTS)}),
}
#: Whole modules of latent attention, of prompts and of decodes. A GPU may have none.
_MODULES = ("mla_context_module_perf", "mla_generation_module_perf")
#: NCCL's collectives, timed by nccl-tests, and which of them are read: within a server, in 16 bits.
_COLLECTIVES, EXCHANGED, _SERVER = "nccl_perf", ("all_gather", "reduce_scatter"), (2, 4, 8)
_DELTAS = ("linear_attention", "gdn_perf")  # gated delta nets; a GPU may have none
#: Of attention to windows only gpt-oss's is read: the window, a head's size, heads to a KV head.
_WINDOWED = (128, 64, 8)
#: The package's own choices, for the mixtures of our table and for DeepSeek-V3 and Kimi-K2.
ROUTING, DEEPSEEK_ROUTING = "power_law_1.2", "power_law_1.01"
DEEPSEEK_HIDDEN = 7_168
#: By how many GPUs an expert's width is divided, and by how many their number.
_EXPERT_GPUS = {(1, 1), *((n, 1) for n in (2, 4, 8)), *((1, n) for n in (2, 4, 8))}
#: Nemotron's experts, of two matrices and not of three: hidden, intermediate, experts, per token.
_NOT_GATED = {
    (1024, 2688, 512, 22),
    (2048, 5120, 512, 22),
    (2688, 1856, 128, 6),
    (4096, 2688, 512, 22),
}
_EXPERT_SIZES = ("hidden_size", "inter_size", "num_experts", "topk")
#: Kernels that vLLM tunes at its start and the package timed untuned: on Hopper their fp8 experts
#: take 2.4 to 2.9 times as long as bf16 ones in the median, and 4.4 to 5.2 times as long as
#: TensorRT-LLM's. Those by block, which Hopper has where experts are whole, take what Triton's do.
_UNTUNED = "_flashinfer_cutlass_"
_BY_BLOCK = "vllm_fp8moe_"


class Table(NamedTuple):
    """Rows that are read, and what meta.toml says of where they are from."""

    rows: list[Row]
    told: str  # empty where there are none


class Modules(NamedTuple):
    """Rows of whole modules of latent attention, of prompts and of decodes, and where they are."""

    prompts: list[Row]
    decodes: list[Row]
    told: str


def read_tables(data: Path, backend: str) -> dict[str, Table]:
    """Every table of TABLES and then of MORE_TABLES, of the GPU that has its own under `data`."""
    sources = TABLES | MORE_TABLES
    files = {name: newest(data / s.directory / backend, s.name) for name, s in sources.items()}
    all_rows = {path: _usable(path) for path in set(files.values())}

    def table(name: str) -> Table:
        path, of = files[name], "bf16 " if name in TABLES else ""
        rows = [row for row in all_rows[path] if _is_of(row, sources[name])]
        if not rows:
            return Table([], "")
        version, counted = f"{backend} {rows[0]['version']}", f"{len(rows)} {of}rows"
        return Table(rows, provenance(version, counted, rows, path))

    return {name: table(name) for name in sources}


def read_modules(data: Path, backend: str) -> Modules | None:
    """None where the package has none of a GPU."""
    directory = data / "mla" / backend
    if not directory.is_dir():
        return None
    files = [newest(directory, name) for name in _MODULES]
    prompts, decodes = ([row for row in rows_of(path) if is_of_latent(row)] for path in files)
    if not prompts or not decodes:
        return None
    rows = [*prompts, *decodes]
    version = f"{backend} {'/'.join(sorted({row['version'] for row in rows}))}"
    counted = f"{len(rows):,} rows of whole modules"
    return Modules(prompts, decodes, provenance(version, counted, rows, *files))


def read_exchanges(data: Path) -> Table:
    """All-gathers and reduce-scatters."""
    # NOTE: message_size counts values of what all GPUs have together, as the collector divides
    # nccl-tests' bytes by a value's: what is received then stays at what NVLink carries.
    path = newest(data / "comm" / "nccl", _COLLECTIVES)
    rows = [
        row
        for row in rows_of(path)
        if row["op_name"] in EXCHANGED
        and row["nccl_dtype"] == "half"
        and row["num_gpus"] in _SERVER
    ]
    return Table(rows, provenance(f"nccl {path.parent.name}", f"{len(rows)} rows", rows, path))


def read_deltas(data: Path, backend: str) -> Table | None:
    """Kernels of gated delta nets; None where the package has none of a GPU."""
    directory = data / _DELTAS[0] / backend
    if not directory.is_dir():
        return None
    path = newest(directory, _DELTAS[1])
    rows = [row for row in rows_of(path) if is_of_delta(row)]
    version, counted = f"{backend} {rows[0]['version']}", f"{len(rows):,} rows"
    return Table(rows, provenance(version, counted, rows, path))


def _usable(path: Path) -> list[Row]:
    """The rows of one table that our models can use, whatever their format."""
    return [
        row
        for row in rows_of(path)
        if (not row.get("window_size") or _is_window(row))
        and (row.get("head_dim", 128) in _HEAD_DIMS or _is_wide(row))
        and not str(row.get("backend", "")).endswith("_eager")  # engines decode in CUDA graphs
        and (row.get("moe_tp_size", 1), row.get("moe_ep_size", 1)) in _EXPERT_GPUS
        and row.get("distribution", ROUTING) == _routing(row)
        and tuple(row.get(name) for name in _EXPERT_SIZES) not in _NOT_GATED
        and (_UNTUNED not in row["kernel_source"] or row["kernel_source"].startswith(_BY_BLOCK))
    ]


def _routing(row: Row) -> str:
    return DEEPSEEK_ROUTING if row.get("hidden_size") == DEEPSEEK_HIDDEN else ROUTING


def _is_window(row: Row) -> bool:
    group = row["num_heads"] / row["num_key_value_heads"]
    return (row["window_size"], row["head_dim"], group) == _WINDOWED


def _is_wide(row: Row) -> bool:
    """A GPU has two query heads of them or more."""
    return row["head_dim"] == WIDE and not row.get("window_size") and row["num_heads"] > 1


def _is_of(row: Row, source: _Source) -> bool:
    if (
        row.get("head_dim", 128) not in source.head_dims
        or bool(row.get("window_size")) != source.is_windowed
    ):
        return False
    return all(row[column] in values for column, values in source.rows.items())
