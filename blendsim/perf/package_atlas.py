"""One GPU's kernel atlas out of the source package's tables, and where each of its tables is from.

One backend for everything: vLLM's rows of the newest collected version, bf16, and other formats
where there are any. Only rows that were measured are read; the package's own interpolation is not
used. Same package, same bytes out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blendsim.formats import BF16, FP8, NVFP4
from blendsim.perf.atlas import (
    ATTENTION,
    DECODE,
    EXCHANGE,
    PREFILL,
    PROJECTIONS,
    KernelAtlas,
    table_of,
)
from blendsim.perf.grids import AttentionGrid, HeadShape
from blendsim.perf.latent import LatentGrids, latent_grids
from blendsim.perf.package import (
    SYSTEMS,
    backend_of,
    field_of,
    source,
    system_file,
    version_numbers,
)
from blendsim.perf.package_grids import attention_grids, expert_grid, gemm_grid, reduce_grids
from blendsim.perf.package_rows import (
    DEEPSEEK_HIDDEN,
    DEEPSEEK_ROUTING,
    EXCHANGED,
    MORE_TABLES,
    ROUTING,
    TABLES,
    Table,
    read_deltas,
    read_exchanges,
    read_modules,
    read_tables,
)
from blendsim.perf.recurrent import TABLE as DELTA_TABLE
from blendsim.perf.recurrent import delta_grids
from blendsim.perf.small import WRITES_KV
from blendsim.perf.waves import fit_waves
from blendsim.specs import GpuSpec

#: vLLM's version from which attention was timed with the write of new KV (docs/profiles.md). How it
#: was timed before is not known.
_WRITES_KV_SINCE = [0, 24]
_GEMMS = {BF16: "gemm", FP8: "gemm_fp8", NVFP4: "gemm_nvfp4"}  # tables by format of weights


def read_package(systems: Path, gpu: GpuSpec) -> KernelAtlas:
    """The atlas of one GPU from the package's `systems` directory. Unavailable where that lacks a
    table.
    """
    data = systems / "data" / SYSTEMS[gpu.name]
    backend = backend_of(data, gpu.name)
    tables = read_tables(data, backend)
    modules = read_modules(data, backend)
    latent = latent_grids(gpu, modules.prompts, modules.decodes) if modules else None
    exchanges = read_exchanges(data)
    gather, scatter = (
        reduce_grids(row for row in exchanges.rows if row["op_name"] == name) for name in EXCHANGED
    )
    deltas = read_deltas(data, backend)
    besides = dict.fromkeys(_cut_from(latent), modules.told) if modules and latent else {}
    besides[EXCHANGE] = exchanges.told
    if deltas:
        besides[DELTA_TABLE] = deltas.told
    return KernelAtlas(
        gemms={
            weights: gemm_grid(tables[name].rows)
            for weights, name in _GEMMS.items()
            if tables[name].rows
        },
        decode=_attention(tables, DECODE) | (latent.decode if latent else {}),
        prefill=_attention(tables, PREFILL) | (latent.prefill if latent else {}),
        experts=expert_grid(tables["experts"].rows) if tables["experts"].rows else None,
        projections=latent.projections if latent else None,
        reduce=reduce_grids(tables["all_reduce"].rows),
        gather=gather,
        scatter=scatter,
        meta=_stated(gpu, backend, tables, has_latent=latent is not None)
        | _origins(tables, besides)
        | _small_and_waves(gpu, tables, system_file(systems, gpu.name)),
        deltas=delta_grids(deltas.rows) if deltas else {},
    )


def _attention(tables: Mapping[str, Table], name: str) -> dict[HeadShape, AttentionGrid]:
    """Grids of DECODE or PREFILL attention: of the first table and of those in other formats, of
    windows and of wide heads.
    """
    several = [attention_grids(t.rows) for key, t in tables.items() if key.startswith(name)]
    return {shape: grid for grids in several for shape, grid in grids.items()}


def _cut_from(latent: LatentGrids) -> list[str]:
    """Tables that whole modules of latent attention are cut into."""
    return [PROJECTIONS, *(table_of(name, s) for s in latent.decode for name in ATTENTION)]


def _stated(
    gpu: GpuSpec, backend: str, tables: Mapping[str, Table], *, has_latent: bool
) -> dict[str, Any]:
    """What the atlas is of, and what holds for all of its tables."""
    return {
        "gpu": gpu.name,
        "device": tables["gemm"].rows[0]["device"],
        "source": source(),
        "backend": backend,
        "dates": "the package gives no collection dates; the version of each table stands for them",
        "measured": "every value in these tables was measured; empty cells were not"
        + (
            "; of latent attention, parts of measured modules or what the data sheet allows"
            if has_latent
            else ""
        ),
        "routing": f"experts.csv: {ROUTING}, and {DEEPSEEK_ROUTING} on {DEEPSEEK_HIDDEN} hidden "
        "values, the package's own choices for these mixtures",
    }


def _origins(tables: Mapping[str, Table], besides: Mapping[str, str]) -> dict[str, Any]:
    """Where each table is from; `besides` says it of files that are not one table's rows."""
    told = {name: table.told for name, table in tables.items() if table.rows}
    return {
        "tables": {name: text for name, text in told.items() if name in TABLES},
        "more_tables": {name: text for name, text in told.items() if name in MORE_TABLES}
        | {file.removesuffix(".csv"): text for file, text in besides.items()},
    }


def _small_and_waves(gpu: GpuSpec, tables: Mapping[str, Table], system: str) -> dict[str, Any]:
    """What small operators are priced by, of the text of the GPU's `system` file, and the waves of
    decode attention in bf16.
    """
    decodes = tables[DECODE].rows
    return {
        "small_operators": {
            "model": "launch + bytes / (bandwidth_share × peak bandwidth), not measured",
            "bandwidth_share": field_of(system, "mem_bw_empirical_scaling_factor"),
            "launch_seconds": field_of(system, "mem_empirical_constant_latency"),
            WRITES_KV: version_numbers(decodes[0]["version"]) >= _WRITES_KV_SINCE,
        },
        "waves": fit_waves(attention_grids(decodes), gpu.sm_count)._asdict(),
    }
