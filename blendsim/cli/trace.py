"""`blendsim trace`: what is in a trace, how to keep it as tokens, which public ones there are, and
how to get them.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, tell, width
from blendsim.cli.places import require_tables
from blendsim.cli.progress import Progress
from blendsim.cli.remarks import saving_told

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at traces, keep them as tokens, fetch them.",
)


@app.command("list")
def list_sources(json: o.Json = False) -> None:
    """List the demo sources and the public traces."""
    from blendsim.report.tables import Column, lay_out
    from blendsim.traces.catalog import CATALOG
    from blendsim.traces.demo import DEMOS

    demos = [{"name": f"demo:{name}", "about": demo.about} for name, demo in DEMOS.items()]
    public = [source._asdict() for source in CATALOG]
    if json:
        print_json({"demo": demos, "public": public})
        return
    for rows in (demos, public):
        columns = [
            Column("name", [str(row["name"]) for row in rows], is_text=True),
            Column("licence", [str(row.get("licence", "")) for row in rows], 1, is_text=True),
            Column("what it is", [str(row["about"]) for row in rows], is_text=True),
        ]
        print_lines([*lay_out(columns[:: 2 if rows is demos else 1], width()), ""])
    print_lines(["demo sources are built in; `blendsim trace fetch NAME` downloads the others"])


@app.command(cls=o.WithDefaults)
def info(
    ctx: typer.Context,
    trace: Annotated[
        list[str], typer.Argument(metavar="FILE|NAME", help="Traces; several are one pool.")
    ],
    model: o.Model = None,
    gpu: o.Gpu = None,
    tp: o.Tp = None,
    quantization: o.Quantization = None,
    kv_cache_dtype: o.KvCacheDtype = None,
    seed: o.Seed = None,
    lengths: o.Lengths = None,
    rest: o.Rest = None,
    tokenizer: o.Tokenizer = None,
    format: o.Format = None,
    skip_unusable: o.SkipUnusable = None,
    json: o.Json = False,
) -> None:
    """Count lengths, prefix sharing and density."""
    with Progress() as say:
        from blendsim.cli.pool_files import load_files
        from blendsim.prefix import sort_prompts
        from blendsim.traces.summary import summary

        asked = o.resolve(ctx.params)
        say(asked.reading)
        began = time.monotonic()
        workload = load_files(asked.traces, asked.read, say.share)
        slow = saving_told(asked, time.monotonic() - began)
        say("sorting prompts by prefix")
        prompts = sort_prompts(workload)
        told = summary(workload, prompts)
        told["density"] = _density(workload, asked, told)
        told["density_profile"] = _density_profile(workload, prompts, asked)
    if slow is not None:
        tell(slow)
    if json:
        print_json(told)
        return
    from blendsim.report.tables import summary_lines

    print_lines(summary_lines(told, asked.settings.platform(), width()))


@app.command()
def save(
    ctx: typer.Context,
    trace: Annotated[str, typer.Argument(metavar="FILE|NAME", help="One trace.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the workload here.")],
    tokenizer: o.Tokenizer = None,
    format: o.Format = None,
    skip_unusable: o.SkipUnusable = None,
    seed: o.Seed = None,
    json: o.Json = False,
) -> None:
    """Keep a trace with its prompts as tokens: --trace reads that in seconds."""
    with Progress() as say:
        from blendsim.cli.pool_files import load_trace, saved_lines
        from blendsim.traces.workload_file import write_workload

        asked = o.resolve({**ctx.params, "trace": [trace]})
        require_tables([output], asked.inputs)
        say(asked.reading)
        lines = saved_lines(trace, asked.read)
        workload = load_trace(trace, asked.read, say.share)
        say(f"writing {output}")
        write_workload(workload, output, lines)
    told = {
        "requests": len(workload),
        "input_tokens": int(workload.prompt_len.sum()),
        "notes": workload.notes,
        "output": output,
    }
    if json:
        print_json(told)
        return
    from blendsim.wording import counted

    requests = counted(len(workload), "request")
    print_lines(
        [
            f"{requests} of {told['input_tokens']:,} prompt tokens written to {output}; "
            "name it with --trace",
            *(f"Note: {note}" for note in workload.notes),
        ]
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name from `blendsim trace list`.")],
    directory: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to store it in.")
    ] = Path("."),
    json: o.Json = False,
) -> None:
    """Download a public trace and check it."""
    with Progress() as say:
        from blendsim.files import sha256
        from blendsim.traces import catalog

        say(f"fetching {name}")
        source = catalog.find(name, catalog.CATALOG)
        path = catalog.fetch(name, directory, catalog.CATALOG)
    digest = sha256(path)
    if json:
        print_json({"name": name, "path": path, "sha256": digest, "licence": source.licence})
        return
    print_lines(
        [f"{path} ({source.licence}; cite {source.cite})", f"sha256 {digest}, {_checked(source)}"]
    )


def _density(workload: Any, asked: o.Asked, told: dict[str, Any]) -> float | None:
    """Closed-form density with token-level sharing, as in the paper's Table 4; None unless all
    output lengths are given.
    """
    from blendsim.perf.density import closed_form, table_density

    if not workload.has_output.all():
        return None
    costs = closed_form(asked.settings.system, workload.prompt_len, workload.output_len)
    return table_density(costs, told["sharing_ratio"])


def _density_profile(workload: Any, prompts: Any, asked: o.Asked) -> float | None:
    """Density by the kernel profile, as `plan` tells it; None where there is no profile, too."""
    from blendsim.errors import ProfileError
    from blendsim.perf.measured import chosen_model
    from blendsim.report.optimum import best_times, least_work

    if not workload.has_output.all():
        return None
    settings = asked.settings
    system = settings.flavour().divide(settings.system)
    try:
        model = chosen_model(system, settings.overlap, settings.profile)
    except ProfileError:
        return None
    lengths, window = workload.output_len, system.model.window
    work = least_work(workload, lengths, prompts, system.block_tokens, window)
    return best_times(work, model).density


def _checked(source: Any) -> str:
    return "as expected" if source.sha256 else "not known beforehand: note it beside your results"
