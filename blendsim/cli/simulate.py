"""`blendsim simulate PLAN`: run a plan again, on the workload it was made for."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from blendsim import __version__
from blendsim.cli import options as o
from blendsim.cli.elsewhere import pacing_notes, require_all_fit, settings_there
from blendsim.cli.idle import idle
from blendsim.cli.lists import gpu_files, one_name
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_tables
from blendsim.cli.planned import given, naming_files, read_planned
from blendsim.cli.progress import Progress
from blendsim.cli.remarks import hurried, unseen
from blendsim.cli.stopping import ends_at_once


def simulate(
    plan: Annotated[Path, typer.Argument(help="A plan that `blendsim plan -o` wrote.")],
    workload: Annotated[
        Path | None,
        typer.Option(help="The workload, if not the traces that the plan remembers."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            parser=one_name,
            metavar="NAME|FILE",
            help="A GPU's name, or a file that describes one, if not the plan's.",
        ),
    ] = None,
    engine: o.Engine = None,
    overlap: Annotated[
        str | None, typer.Option(help="sum, max, table, fit or auto, if not the plan's.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="imported, measured or a directory of `profile measure`, if not the plan's.",
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            parser=one_name,
            metavar="NAME",
            help="Weights: none, fp8, fp8-block, nvfp4, mxfp4 or int4, if not the plan's.",
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(help="KV: bf16 or fp8, if not the plan's.")
    ] = None,
    topology: o.Topology = None,
    link: o.Link = None,
    token_budget: Annotated[
        int | None,
        typer.Option(help="Tokens a step at most, if not the plan's, or else its engine's."),
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Requests in a replica at once, if not the plan's, or else its engine's.",
        ),
    ] = None,
    cascade: o.Cascade = None,
    expert_parallel: o.ExpertParallel = None,
    ep: o.ExpertGpus = None,
    worlds: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            metavar="N",
            help="Also run it in N worlds that the sample allows, to tell what it leaves open.",
        ),
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the step log here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Simulate a plan step by step."""
    with Progress(is_whole_run=True) as say:
        from blendsim.files import sha256
        from blendsim.perf.measured import chosen_place
        from blendsim.search import simulate_plan
        from blendsim.search.caveats import unfollowed
        from blendsim.search.priced import pricing_notes
        from blendsim.settings import model_kept
        from blendsim.steplog import write_steplog

        made, asked = read_planned(plan, workload)
        require_tables([output], [plan, *asked.inputs, *gpu_files(gpu)])
        changes = {
            "gpu": gpu,
            "overlap": overlap,
            "profile": profile,
            "quantization": quantization,
            "kv_cache_dtype": kv_cache_dtype,
            "topology": topology,
            "link": link,
            "token_budget": token_budget,
            "max_running": max_running,
            "cascade": cascade,
            "expert_parallel": expert_parallel,
            "ep": ep,
        }
        limited = asked.settings.max_running or 0
        if token_budget is not None and 0 < token_budget < limited and max_running is None:
            changes["max_running"] = token_budget  # the plan's limit gives way
        settings = settings_there(asked.settings, engine, given(changes))
        # NOTE: first, so that what is wrong with an option does not wait for traces.
        settings.flavour()
        system = settings.system
        chosen_place(system, settings.profile)
        told = pacing_notes(made, asked.settings, settings)
        say(asked.reading)
        with ends_at_once():
            pool = asked.load(say)  # what its own machine holds is what it is for
            require_all_fit(pool, system)
            with naming_files(asked):
                row, log, notes, seconds, _ = simulate_plan(pool, made, settings, say, worlds)
        told = [*unfollowed(settings, made), *idle([settings], [made.policy]), *told]
        told += hurried(log)
        notes = [*notes, *told, *unseen(asked, pool, made)]
        notes += pricing_notes([settings])
        if output is not None:
            meta = {"plan_sha256": sha256(plan), "settings": asdict(settings)}
            meta |= model_kept(settings, system.model)
            meta |= {"blendsim": __version__, "notes": notes}
            write_steplog(replace(log, meta={**log.meta, **meta, "source": asked.source}), output)
    if json:
        from blendsim.report.metrics import as_json

        facts = {"engine": settings.engine, "worlds": seconds, "notes": notes, "log": output}
        print_json(as_json(row) | facts)
        return
    from blendsim.report.tables import paragraphs, policy_table, pool_line
    from blendsim.wording import counted

    where = f"{settings.platform()}, engine {settings.engine}"
    steps = counted(len(log), "step")
    kept = f"{steps} written to {output}" if output else "-o steps.parquet keeps the log"
    print_lines(
        [
            *paragraphs([pool_line(row, where)], width()),
            "",
            *policy_table([row], None, width()),
            "",
            *paragraphs(_worlds_told(worlds, seconds), width()),
            *paragraphs([f"Note: {note}" for note in notes], width()),
            kept,
        ]
    )


def _worlds_told(asked: int, seconds: list[float]) -> list[str]:
    """How far apart runs in possible worlds are."""
    if not asked:
        return []
    if not seconds:
        return ["Planning sees every length, so there is one world only."]
    from statistics import geometric_mean

    from blendsim.report.tables import seconds as said
    from blendsim.report.tables import span
    from blendsim.wording import counted

    told = span(seconds[0], seconds[-1])
    if told != said(seconds[0]):
        told += f" s, typically {said(geometric_mean(seconds))}"
    return [
        f"In {counted(len(seconds), 'world')} that the sample allows it takes {told} s; where "
        "lengths were sampled, answers may be longer than the longest of them."
    ]
