"""`blendsim synth`: a pool of a wanted density and prefix sharing, blended from several sources."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_tables
from blendsim.cli.progress import Progress

if TYPE_CHECKING:
    from blendsim.synth.blend import Blend
    from blendsim.synth.recipes import Recipe

_SHARING = "sharing is by token; in blocks: in full KV blocks of {} tokens, as most engines share"
_DEFINITION = "(1 − sharing)·ΣComp / ΣMem, closed form on peak figures, as in the paper's Table 4"


def synth(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(help="trace1, trace2, trace3 or trace4: the paper's workloads.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Compute seconds per memory second, sharing counted.")
    ] = None,
    sharing: Annotated[
        float | None, typer.Option(help="Share of prompt tokens that need not be computed.")
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(help="Three of azure, burstgpt, mmlu, openvid, sharegpt and wildchat."),
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests in all.")] = None,
    system_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each source's own system prompt.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same file.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real traces to draw from where it has them.")
    ] = None,
    model: o.Model = None,
    gpu: o.Gpu = None,
    tp: o.Tp = None,
    quantization: o.Quantization = None,
    kv_cache_dtype: o.KvCacheDtype = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the workload here (Parquet).")
    ] = None,
    json: o.Json = False,
) -> None:
    """Blend sources to a wanted density and prefix sharing, or to one of the paper's workloads."""
    with Progress() as say:
        from blendsim.synth.blend import blend
        from blendsim.traces.workload_file import write_workload

        wanted = _wanted(ctx.params)
        system = o.resolve({**ctx.params, "trace": []}).settings.system
        require_tables([output], [])
        say("blending sources")
        made = blend(wanted, system, data)
        if output is not None:
            say(f"writing {output}")
            write_workload(made.workload, output)
    told = _told(wanted, made, recipe, output, system.block_tokens)
    if json:
        print_json(told)
    else:
        print_lines(_lines(told))


def _wanted(params: dict[str, Any]) -> "Recipe":
    """The named recipe with what else was given on top, or one of these options alone."""
    from dataclasses import replace

    from blendsim.errors import InputError
    from blendsim.synth.recipes import Recipe, recipe

    names = ("density", "sharing", "requests", "seed", "system_tokens")
    given = {name: params[name] for name in names if params[name] is not None}
    if params["sources"] is not None:
        given["sources"] = tuple(name.strip() for name in params["sources"].split(","))
    if params["recipe"] is not None:
        return replace(recipe(params["recipe"]), **given)
    if "density" not in given or "sharing" not in given:
        raise InputError("synth: give --recipe trace1 … trace4, or --density and --sharing")
    return Recipe(**given)


def _told(
    wanted: "Recipe", made: "Blend", name: str | None, path: Path | None, block_tokens: int
) -> dict[str, Any]:
    return {
        "recipe": name,
        "requests": len(made.workload),
        "input_tokens": int(made.workload.prompt_len.sum()),
        "output_tokens": int(made.workload.output_len.sum()),
        "density": made.reached.density,
        "density_definition": _DEFINITION,
        "sharing_ratio": made.reached.sharing,
        "block_sharing_ratio": made.block_sharing,
        "block_tokens": block_tokens,
        "target_density": wanted.density,
        "target_sharing_ratio": wanted.sharing,
        "seed": wanted.seed,
        "system_tokens": wanted.system_tokens,
        "output": path,
        "rows": [
            {
                "source": row.source,
                "origin": row.origin,
                "requests": row.requests,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "density": row.density,
                "sharing_ratio": row.sharing,
                "block_sharing_ratio": row.block_sharing,
            }
            for row in made.rows
        ],
    }


def _lines(told: dict[str, Any]) -> list[str]:
    from blendsim.report.tables import Column, lay_out, number

    rows = [*told["rows"], {**told, "source": "all", "origin": ""}]
    columns = [
        Column("source", [row["source"] for row in rows], is_text=True),
        *(
            Column(title, [number(row[key]) for row in rows])
            for title, key in (
                ("requests", "requests"),
                ("prompt tokens", "input_tokens"),
                ("output tokens", "output_tokens"),
            )
        ),
        Column("density", [number(row["density"], 3) for row in rows]),
        Column("sharing", [number(row["sharing_ratio"], 4) for row in rows]),
        Column("in blocks", [number(row["block_sharing_ratio"], 4) for row in rows]),
    ]
    return [
        *lay_out(columns, width()),
        "",
        *(f"{row['source']}: {row['origin']}" for row in told["rows"]),
        f"asked for: density {told['target_density']:g}, sharing {told['target_sharing_ratio']:g}",
        f"density is {told['density_definition']}",
        _SHARING.format(told["block_tokens"]),
        *([f"written to {told['output']}"] if told["output"] is not None else []),
    ]
