"""`blendsim simulate PLAN`: run a plan again, on the workload it was made for."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from blendsim import __version__
from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_places
from blendsim.cli.planned import given, read_planned
from blendsim.cli.progress import Progress


def simulate(
    plan: Annotated[Path, typer.Argument(help="A plan that `blendsim plan -o` wrote.")],
    workload: Annotated[
        Path | None,
        typer.Option(help="The workload, if not the traces that the plan remembers."),
    ] = None,
    engine: o.Engine = None,
    topology: o.Topology = None,
    link: o.Link = None,
    token_budget: o.TokenBudget = None,
    cascade: o.Cascade = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the step log here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Simulate a plan step by step."""
    with Progress(is_whole_run=True) as say:
        from blendsim.files import sha256
        from blendsim.search import simulate_plan
        from blendsim.steplog import write_steplog

        made, asked = read_planned(plan, workload)
        require_places([output], [plan, *asked.traces])
        changes = given(
            {
                "engine": engine,
                "topology": topology,
                "link": link,
                "token_budget": token_budget,
                "cascade": cascade,
            }
        )
        if topology is not None:  # its pools replace the ranks the plan was made for
            changes |= {"dp": 1, "steals": False}
        settings = replace(asked.settings, **changes)
        say("reading traces")
        row, log, notes = simulate_plan(asked.load(), made, settings, say)
        if output is not None:
            meta = {"plan_sha256": sha256(plan), "settings": asdict(settings)}
            meta |= {"blendsim": __version__}
            write_steplog(replace(log, meta={**log.meta, **meta, "source": asked.source}), output)
    if json:
        from blendsim.report.metrics import as_json

        print_json(as_json(row) | {"engine": settings.engine, "notes": notes, "log": output})
        return
    from blendsim.report.tables import paragraphs, policy_table, pool_line

    where = f"{o.platform(settings)}, engine {settings.engine}"
    kept = f"{len(log):,} steps written to {output}" if output else "-o steps.parquet keeps the log"
    print_lines(
        [
            *paragraphs([pool_line(row, where)], width()),
            "",
            *policy_table([row], None, width()),
            "",
            *paragraphs([f"Note: {note}" for note in notes], width()),
            kept,
        ]
    )
