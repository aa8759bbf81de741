"""`blendsim simulate PLAN`: run a plan again, on the workload it was made for."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the step log here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Simulate a plan step by step."""
    with Progress(is_whole_run=True) as say:
        from blendsim.files import require_place, sha256
        from blendsim.plan import read_plan
        from blendsim.search import simulate_plan
        from blendsim.steplog import write_steplog

        made = read_plan(plan)
        if output is not None:
            require_place(output)
        asked = _asked(made.meta, plan, workload)
        changes = _given(
            {"engine": engine, "topology": topology, "link": link, "token_budget": token_budget}
        )
        settings = replace(asked.settings, **changes)
        say("reading traces")
        row, log, notes = simulate_plan(asked.load(), made, settings, say)
        if output is not None:
            meta = {"plan_sha256": sha256(plan), "settings": asdict(settings)}
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


def _asked(meta: Any, path: Path, workload: Path | None) -> o.Asked:
    """What the plan remembers of how it was made, with another place to read the pool from."""
    from blendsim.cli.config import overlay
    from blendsim.errors import InputError
    from blendsim.settings import Settings
    from blendsim.traces.seam import ReadOptions

    source = meta.get("source")
    if source is None:
        raise InputError(f"{path}: does not say which traces it is for; plan again with -o")
    settings = overlay(Settings(), _given(meta["settings"]), f"{path}: settings")
    read = overlay(ReadOptions(), _given(source["read"]), f"{path}: read")
    traces = source["traces"] if workload is None else [str(workload)]
    return o.Asked(traces, settings, read, source["skip_oversize"])


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
