"""Import measured kernel tables from the installed `aiconfigurator_core` package (Apache-2.0).

One backend for everything: vLLM's rows of the newest collected version, bf16, and other formats
where there are any. Only rows that were measured are read; the package's own interpolation is not
used. Same package, same bytes out.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.errors import Unavailable
from blendsim.files import require_directory, sha256
from blendsim.formats import BF16, FP8, FP8_BLOCK, INT4, KV_FORMATS, MXFP4, NVFP4
from blendsim.perf.atlas import (
    ATTENTION,
    DIRECTORY,
    EXCHANGE,
    PROJECTIONS,
    WIDE,
    KernelAtlas,
    read_atlas,
    table_of,
    write_atlas,
)
from blendsim.perf.atlas import FILES as KERNEL_FILES
from blendsim.perf.derive import derive_profile
from blendsim.perf.grids import (
    AttentionGrid,
    DeltaGrid,
    DeltaShape,
    ExpertGrid,
    ExpertShape,
    Floats,
    GemmGrid,
    HeadShape,
    ReduceGrid,
)
from blendsim.perf.latent import is_used, latent_grids
from blendsim.perf.recurrent import TABLE as DELTA_TABLE
from blendsim.perf.recurrent import delta_grids
from blendsim.perf.recurrent import is_used as is_of_delta
from blendsim.perf.small import WRITES_KV
from blendsim.perf.store import FILES, write_profile
from blendsim.perf.waves import fit_waves
from blendsim.specs import (
    BYTES_PER_VALUE,
    GPUS,
    MODELS,
    GpuSpec,
    ModelSpec,
    gpu_name,
    model_name,
    unknown_gpu,
    unknown_model,
)

PACKAGE = "aiconfigurator_core"
_SYSTEMS = {
    "a100-80g": "a100_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "b200": "b200_sxm",
}
_BACKENDS = ("vllm", "sglang")  # NOTE: never trtllm: its A100 attention exceeds the chip's peak.
_HEAD_DIMS = (64, 128)
#: Of heads of another size Qwen3.5's are read, in layers beside gated delta nets. NOTE: with tables
#: of their own, so that none of another model's grows or is fitted to them.
_WIDE_DIMS = (WIDE,)
_MILLI = 1e-3  # the package counts in ms


class _Source(NamedTuple):
    """Where a table of ours is in the package, and which of the rows there are its own."""

    directory: str
    name: str
    rows: Mapping[str, tuple[str, ...]]  # what a column may hold
    is_windowed: bool = False  # attention to a window
    head_dims: tuple[int, ...] = _HEAD_DIMS  # of attention


#: The package's names of the formats of weights.
_WEIGHTS = {
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
_TABLES = {
    "gemm": _Source("gemm", "gemm_perf", {"gemm_dtype": _BF16}),
    "decode_attention": _Source("attention", "generation_attention_perf", _ATTENTION),
    "prefill_attention": _Source("attention", "context_attention_perf", _ATTENTION),
    "all_reduce": _Source("comm", "custom_allreduce_perf", {"allreduce_dtype": _BF16}),
}
#: What a GPU has beside them. NOTE: no GEMMs of fp8_block: the package timed those without CUDA
#: graphs, so that most are what the host took to launch them (docs/profiles.md).
_MORE_TABLES = {
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
    "experts": _Source("moe", "moe_perf", {"moe_dtype": tuple(_WEIGHTS)}),
}
#: Whole modules of latent attention, of prompts and of decodes. A GPU may have none.
_MODULES = ("mla_context_module_perf", "mla_generation_module_perf")
#: NCCL's collectives, timed by nccl-tests, and which of them are read: within a server, in 16 bits.
_COLLECTIVES, _EXCHANGED, _SERVER = "nccl_perf", ("all_gather", "reduce_scatter"), (2, 4, 8)
_DELTAS = ("linear_attention", "gdn_perf")  # kernels of gated delta nets, likewise
#: Of attention to windows only gpt-oss's is read: the window, a head's size, heads to a KV head.
_WINDOWED = (128, 64, 8)
#: The package's own choices, for the mixtures of our table and for DeepSeek-V3 and Kimi-K2.
_ROUTING, _DEEPSEEK_ROUTING = "power_law_1.2", "power_law_1.01"
_DEEPSEEK_HIDDEN = 7_168
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
#: vLLM's version from which attention was timed with the write of new KV (docs/profiles.md). How it
#: was timed before is not known.
_WRITES_KV_SINCE = [0, 24]

Row = dict[str, Any]


def import_profiles(
    out: Path,
    gpus: Sequence[str] = tuple(GPUS),
    models: Sequence[str] = tuple(MODELS),
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write `out/<gpu>/kernels` and `out/<gpu>/<model>/tp<N>` for every fitting pair; returns the
    directories written.
    """
    gpus, models = [gpu_name(name) for name in gpus], [model_name(name) for name in models]
    for name in models:
        if name not in MODELS:
            raise unknown_model(name)
    for name in gpus:
        if name not in _SYSTEMS:
            raise unknown_gpu(name, _SYSTEMS)
    _require_room(out, gpus, models)
    systems = _package_directory() / "systems"
    written = []
    for name in gpus:
        progress(f"{name}: reading kernel tables of {_SYSTEMS[name]}")
        directory = out / name / DIRECTORY
        write_atlas(read_package(systems, GPUS[name]), directory)
        atlas = read_atlas(directory)  # what is cut from it is cut from what is on disk
        written.append(directory)
        for model in (MODELS[m] for m in models):
            for tp in sensible_tp(model, GPUS[name]):
                place = out / name / model.name / f"tp{tp}"
                write_profile(derive_profile(atlas, GPUS[name], model, tp), place)
                written.append(place)
        progress(f"{name}: wrote {sum(out / name in path.parents for path in written)} tables")
    return written


def _require_room(out: Path, gpus: Sequence[str], models: Sequence[str]) -> None:
    """InputError unless all the profiles can be written."""
    for name in gpus:
        require_directory(out / name / DIRECTORY, KERNEL_FILES)
        for model in (MODELS[m] for m in models):
            for tp in sensible_tp(model, GPUS[name]):
                require_directory(out / name / model.name / f"tp{tp}", FILES)


def sensible_tp(model: ModelSpec, gpu: GpuSpec) -> list[int]:
    """Tensor-parallel sizes that divide the heads and leave a tenth of the memory for KV. None with
    experts or gated delta nets: at which sizes those were measured differs from GPU to GPU, and
    their tables are cut from the GPU's kernels when they are asked for.
    """
    if model.experts or model.delta_heads:
        return []
    fits = 0.8 * gpu.memory_bytes
    return [tp for tp in (1, 2, 4, 8) if model.heads % tp == 0 and model.parameters * 2 / tp < fits]


def _package_directory() -> Path:
    # NOTE: found, not imported: importing it pulls in pandas, and only its files are needed.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Unavailable(
            f"the {PACKAGE} package is not installed; run `pip install aiconfigurator-core`"
        )
    return Path(spec.origin).parent


def read_package(systems: Path, gpu: GpuSpec) -> KernelAtlas:
    """The atlas of one GPU from the package's `systems` directory."""
    system = _SYSTEMS[gpu.name]
    data = systems / "data" / system
    backend = next((b for b in _BACKENDS if (data / "gemm" / b).is_dir()), None)
    if backend is None:
        raise Unavailable(f"{PACKAGE} has no vLLM or SGLang tables for {gpu.name}")
    files = {name: _newest(data / t.directory / backend, t.name) for name, t in _TABLES.items()}
    files |= {
        name: _newest(data / t.directory / backend, t.name) for name, t in _MORE_TABLES.items()
    }
    all_rows = {path: _rows(path) for path in set(files.values())}
    rows = {
        name: [row for row in all_rows[files[name]] if _is_of(row, table)]
        for name, table in (_TABLES | _MORE_TABLES).items()
    }
    text = (systems / f"{system}.yaml").read_text()
    decode = _attention(rows["decode_attention"])
    modules = _modules(data / "mla" / backend)
    latent = latent_grids(gpu, *modules.rows) if modules else None
    told_besides: dict[str, str] = {}
    if modules and latent:
        cut = [PROJECTIONS, *(table_of(name, s) for s in latent.decode for name in ATTENTION)]
        told_besides = {name.removesuffix(".csv"): modules.told for name in cut}
    exchanges = _exchanges(data / "comm" / "nccl")
    told_besides[EXCHANGE.removesuffix(".csv")] = exchanges.told
    deltas, told_of_deltas = _deltas(data / _DELTAS[0] / backend)

    def told(names: Iterable[str], of: str = "") -> dict[str, str]:
        return {
            name: f"{backend} {rows[name][0]['version']}, {len(rows[name])} {of}rows, "
            f"{_kernels(rows[name])}, sha256 {sha256(files[name])[:16]}"
            for name in names
            if rows[name]
        }

    meta: Row = {
        "gpu": gpu.name,
        "device": rows["gemm"][0]["device"],
        "source": f"{PACKAGE} {package_version(PACKAGE.replace('_', '-'))} (NVIDIA, Apache-2.0)",
        "backend": backend,
        "dates": "the package gives no collection dates; the version of each table stands for them",
        "measured": "every value in these tables was measured; empty cells were not"
        + (
            "; of latent attention, parts of measured modules or what the data sheet allows"
            if modules
            else ""
        ),
        "routing": f"experts.csv: {_ROUTING}, and {_DEEPSEEK_ROUTING} on {_DEEPSEEK_HIDDEN} hidden "
        "values, the package's own choices for these mixtures",
        "tables": told(_TABLES, "bf16 "),
        "more_tables": told(_MORE_TABLES) | told_besides | told_of_deltas,
        "small_operators": {
            "model": "launch + bytes / (bandwidth_share × peak bandwidth), not measured",
            "bandwidth_share": _field(text, "mem_bw_empirical_scaling_factor"),
            "launch_seconds": _field(text, "mem_empirical_constant_latency"),
            WRITES_KV: _version(rows["decode_attention"][0]["version"]) >= _WRITES_KV_SINCE,
        },
        "waves": fit_waves(decode, gpu.sm_count)._asdict(),
    }
    return KernelAtlas(
        gemms={
            weights: _gemm(rows[name])
            for weights, name in ((BF16, "gemm"), (FP8, "gemm_fp8"), (NVFP4, "gemm_nvfp4"))
            if rows[name]
        },
        decode=decode
        | _all_attention(rows, "decode_attention")
        | (latent.decode if latent else {}),
        prefill=_attention(rows["prefill_attention"])
        | _all_attention(rows, "prefill_attention")
        | (latent.prefill if latent else {}),
        experts=_experts(rows["experts"]) if rows["experts"] else None,
        projections=latent.projections if latent else None,
        reduce=_reduce(rows["all_reduce"]),
        gather=exchanges.gather,
        scatter=exchanges.scatter,
        meta=meta,
        deltas=deltas,
    )


def _deltas(directory: Path) -> tuple[dict[DeltaShape, DeltaGrid], dict[str, str]]:
    """Gated delta nets and where they are from; nothing where the package has none of a GPU."""
    if not directory.is_dir():
        return {}, {}
    path = _newest(directory, _DELTAS[1])
    rows = [row for row in _table(path) if is_of_delta(row)]
    text = (
        f"{directory.name} {rows[0]['version']}, {len(rows):,} rows, {_kernels(rows)}, "
        f"sha256 {sha256(path)[:16]}"
    )
    return delta_grids(rows), {DELTA_TABLE.removesuffix(".csv"): text}


class _Modules(NamedTuple):
    """Rows of whole modules of latent attention, of prompts and of decodes, and where they are."""

    rows: tuple[list[Row], list[Row]]
    told: str


def _modules(directory: Path) -> _Modules | None:
    """None where the package has none of a GPU."""
    if not directory.is_dir():
        return None
    files = [_newest(directory, name) for name in _MODULES]
    prompts, decodes = ([row for row in _table(path) if is_used(row)] for path in files)
    rows = [*prompts, *decodes]
    told = (
        f"{directory.name} {'/'.join(sorted({row['version'] for row in rows}))}, {len(rows):,} "
        f"rows of whole modules, {_kernels(rows)}, "
        f"sha256 {', '.join(sha256(path)[:16] for path in files)}"
    )
    return _Modules((prompts, decodes), told) if prompts and decodes else None


class _Exchanges(NamedTuple):
    """All-gathers and reduce-scatters by number of GPUs, and where they are."""

    gather: dict[int, ReduceGrid]
    scatter: dict[int, ReduceGrid]
    told: str


def _exchanges(directory: Path) -> _Exchanges:
    # NOTE: message_size counts values of what all GPUs have together, as the collector divides
    # nccl-tests' bytes by a value's: what is received then stays at what NVLink carries.
    path = _newest(directory, _COLLECTIVES)
    rows = [
        row
        for row in _table(path)
        if row["op_name"] in _EXCHANGED
        and row["nccl_dtype"] == "half"
        and row["num_gpus"] in _SERVER
    ]
    told = (
        f"{directory.name} {path.parent.name}, {len(rows)} rows, {_kernels(rows)}, "
        f"sha256 {sha256(path)[:16]}"
    )
    grids = [_reduce([row for row in rows if row["op_name"] == name]) for name in _EXCHANGED]
    return _Exchanges(grids[0], grids[1], told)


def _newest(directory: Path, table: str) -> Path:
    """The table of the newest collected version."""
    found = list(directory.glob(f"*/{table}.parquet"))
    if not found:
        raise Unavailable(f"{PACKAGE} has no {table} under {directory.name}; install 0.12")
    return max(found, key=lambda path: _version(path.parent.name))


def _version(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _table(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def _rows(path: Path) -> list[Row]:
    """The rows of one table that our models can use, whatever their format."""
    return [
        row
        for row in _table(path)
        if (not row.get("window_size") or _is_window(row))
        and (row.get("head_dim", 128) in _HEAD_DIMS or _is_wide(row))
        and not str(row.get("backend", "")).endswith("_eager")  # engines decode in CUDA graphs
        and (row.get("moe_tp_size", 1), row.get("moe_ep_size", 1)) in _EXPERT_GPUS
        and row.get("distribution", _ROUTING) == _routing(row)
        and tuple(row.get(name) for name in _EXPERT_SIZES) not in _NOT_GATED
        and (_UNTUNED not in row["kernel_source"] or row["kernel_source"].startswith(_BY_BLOCK))
    ]


def _routing(row: Row) -> str:
    return _DEEPSEEK_ROUTING if row.get("hidden_size") == _DEEPSEEK_HIDDEN else _ROUTING


def _is_window(row: Row) -> bool:
    group = row["num_heads"] / row["num_key_value_heads"]
    return (row["window_size"], row["head_dim"], group) == _WINDOWED


def _is_wide(row: Row) -> bool:
    """A GPU has two query heads of them or more."""
    return row["head_dim"] == WIDE and not row.get("window_size") and row["num_heads"] > 1


def _is_of(row: Row, table: _Source) -> bool:
    if (
        row.get("head_dim", 128) not in table.head_dims
        or bool(row.get("window_size")) != table.is_windowed
    ):
        return False
    return all(row[column] in values for column, values in table.rows.items())


def _kernels(rows: Iterable[Row]) -> str:
    return "kernel " + "/".join(sorted({str(row["kernel_source"]) for row in rows}))


def _field(text: str, name: str) -> float:
    found = re.search(rf"^\s*{name}:\s*([0-9.eE+-]+)", text, re.MULTILINE)
    assert found, f"the package's system file gives {name}"
    return float(found[1])


def _gemm(rows: Iterable[Row]) -> GemmGrid:
    rows = list(rows)
    m, n, k = (np.unique([row[c] for row in rows]).astype(np.int64) for c in "mnk")
    seconds = np.full((len(n), len(k), len(m)), np.nan)
    for row in rows:
        at = (
            np.searchsorted(n, row["n"]),
            np.searchsorted(k, row["k"]),
            np.searchsorted(m, row["m"]),
        )
        seconds[at] = row["latency"] * _MILLI
    return GemmGrid(m, n, k, seconds)


def _all_attention(rows: Mapping[str, list[Row]], table: str) -> dict[HeadShape, AttentionGrid]:
    """Grids of all but the first of a kind's tables."""
    kinds = ("fp8", "windowed", "windowed_fp8", "wide", "wide_fp8")
    several = [_attention(rows[f"{table}_{kind}"]) for kind in kinds]
    return {shape: grid for grids in several for shape, grid in grids.items()}


def _attention(rows: Iterable[Row]) -> dict[HeadShape, AttentionGrid]:
    """Grids by head shape; a point measured twice is its mean."""
    shapes: dict[HeadShape, dict[tuple[int, int], list[float]]] = {}
    for row in rows:
        value_bytes = KV_FORMATS[FP8 if row["kv_cache_dtype"] == "fp8" else BF16]
        heads = (row["num_heads"], row["num_key_value_heads"], row["head_dim"])
        shape = HeadShape(*heads, value_bytes, row.get("window_size") or 0)
        point = (row["batch_size"], row["isl"] + row["step"])
        shapes.setdefault(shape, {}).setdefault(point, []).append(row["latency"] * _MILLI)
    grids = {}
    for shape, points in sorted(shapes.items()):
        batches = np.unique([b for b, _ in points]).astype(np.float64)
        lengths = np.unique([s for _, s in points]).astype(np.float64)
        seconds = np.full((len(batches), len(lengths)), np.nan)
        for (b, s), times in points.items():
            at = (np.searchsorted(batches, b), np.searchsorted(lengths, s))
            seconds[at] = sum(times) / len(times)
        grids[shape] = AttentionGrid(batches, lengths, seconds)
    return grids


def _experts(rows: Iterable[Row]) -> ExpertGrid:
    """Every shape over all numbers of tokens; each point was measured once."""
    rows = list(rows)
    tokens = np.unique([row["num_tokens"] for row in rows]).astype(np.int64)
    seconds: dict[ExpertShape, Floats] = {}
    for row in rows:
        shape = ExpertShape(
            weights=_WEIGHTS[row["moe_dtype"]],
            hidden=row["hidden_size"],
            intermediate=row["inter_size"],
            experts=row["num_experts"],
            per_token=row["topk"],
            tp=row["moe_tp_size"],
            ep=row["moe_ep_size"],
        )
        times = seconds.setdefault(shape, np.full(len(tokens), np.nan))
        times[np.searchsorted(tokens, row["num_tokens"])] = row["latency"] * _MILLI
    return ExpertGrid(tokens, seconds)


def _reduce(rows: Iterable[Row]) -> dict[int, ReduceGrid]:
    groups: dict[int, dict[int, float]] = {}
    for row in rows:
        # NOTE: message_size counts 16-bit values: only so do its figures stay at what NVLink and
        # PCIe carry, and vLLM's own kernel end at its limit of 8 MiB.
        size = row["message_size"] * BYTES_PER_VALUE
        groups.setdefault(row["num_gpus"], {})[size] = row["latency"] * _MILLI
    return {
        gpus: ReduceGrid(
            np.array(sorted(points), np.float64), np.array([points[s] for s in sorted(points)])
        )
        for gpus, points in sorted(groups.items())
    }
