"""`blendsim search`: try many schedules in the simulator and keep the one it predicts fastest."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.pooled import takes_pool
from blendsim.cli.progress import Progress

if TYPE_CHECKING:
    from blendsim.search.schedule_search import Found

SHOWN = 8  # lines of the leaderboard; the fixed policies besides


@takes_pool("planner")
def search(
    ctx: typer.Context,
    evaluations: Annotated[
        int | None, typer.Option(help="Schedules to try; the same number finds the same plan.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="60s", help="Stop early after so long, as in 90s or 2m.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|pdf", help="Draw what each parameter does by itself."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the found plan here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Search for the schedule with the least predicted seconds, the fixed policies among those
    tried.
    """
    with Progress(is_whole_run=True) as say:
        from blendsim.files import require_place
        from blendsim.plan import write_plan
        from blendsim.search.schedule_search import Effort
        from blendsim.search.schedule_search import search as find

        seconds = None if budget is None else _seconds(budget)
        effort = Effort(evaluations, seconds, is_swept=picture is not None)
        asked = o.resolve(ctx.params)
        for path in (output, picture):
            if path is not None:
                require_place(path)
        if picture is not None:
            _require_kind(picture)
        say("reading traces")
        found = find(asked.load(), asked.settings, effort, say)
        if output is not None:
            meta = {**found.plan.meta, "source": asked.source}
            write_plan(replace(found.plan, meta=meta), output)
        if picture is not None:
            from blendsim.report.plots import draw_sensitivities

            draw_sensitivities(found.sensitivities, found.chosen.predicted_seconds, picture)
    if json:
        print_json(_object(found, output, picture))
        return
    print_lines(_text(found, f"{o.platform(asked.settings)}, engine {asked.settings.engine}"))
    kept = f"plan written to {output}" if output else "-o plan.parquet keeps this plan"
    print_lines(["", kept])


def _seconds(text: str) -> float:
    """A time in words such as 60s, 2m or 90."""
    from blendsim.errors import InputError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", text.strip())
    if match is None:
        raise InputError(f"--budget {text!r} is not a time; give it as in 60s, 2m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def _require_kind(picture: Path) -> None:
    from blendsim.errors import InputError

    if picture.suffix.lower() not in (".png", ".pdf"):
        raise InputError(f"--picture {picture}: draws .png or .pdf; give a name that ends so")


def _object(found: "Found", plan: Path | None, picture: Path | None) -> dict[str, Any]:
    from blendsim.report.metrics import as_json

    return as_json(found.chosen) | {
        "rows": [as_json(row) | {"chosen": row is found.chosen} for row in found.rows],
        "leaderboard": [
            {"predicted_seconds": entry.seconds, "is_fixed": entry.is_fixed, **entry.values}
            for entry in found.leaderboard
        ],
        "sensitivities": [each._asdict() for each in found.sensitivities],
        "search": found.tally._asdict(),
        "notes": found.notes,
        "plan": plan,
        "picture": picture,
    }


def _text(found: "Found", where: str) -> list[str]:
    from blendsim.report.tables import (
        leaderboard_table,
        paragraphs,
        policy_table,
        pool_line,
    )

    columns, tally = width(), found.tally
    best_fixed = found.rows[0].predicted_seconds
    gain = 1 - found.chosen.predicted_seconds / best_fixed
    fixed = [k for k, entry in enumerate(found.leaderboard) if entry.is_fixed]
    shown = sorted({*range(min(SHOWN, len(found.leaderboard))), *fixed})
    entries = [(k + 1, found.leaderboard[k]) for k in shown]
    told = (
        f"{tally.evaluations} evaluations in {tally.seconds:,.1f} s: {tally.whole} simulations of "
        f"the whole pool and {tally.thinned} of smaller ones. --evaluations {tally.evaluations} "
        "repeats this search."
    )
    better = (
        f"Found: predicted {found.chosen.predicted_seconds:,.1f} s, {gain:.1%} less than the best "
        f"fixed policy."
        if gain > 0
        else "No schedule is predicted to be faster than the best fixed policy."
    )
    return [
        *paragraphs([pool_line(found.chosen, where)], columns),
        "",
        *policy_table(found.rows, found.chosen.policy, columns),
        "",
        *leaderboard_table(entries, columns),
        "",
        *paragraphs([better, told, *(f"Note: {note}" for note in found.notes)], columns),
    ]
