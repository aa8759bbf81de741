"""`blendsim search`: try many schedules in the simulator and keep the one it predicts fastest."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.idle import idle
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_parquet, require_places
from blendsim.cli.pooled import takes_pool
from blendsim.cli.progress import Progress
from blendsim.cli.remarks import not_yours, unseen
from blendsim.cli.searching import (
    cut_told,
    effort_told,
    found_json,
    gain_told,
    measures_drawn,
    none_told,
    ranks_told,
    read_effort,
    schedule_told,
    worlds_told,
)
from blendsim.cli.stopping import Cut, ends_at_once

if TYPE_CHECKING:
    from blendsim.search.schedule_search import Found

SHOWN = 8  # lines of the leaderboard; the fixed policies besides


@takes_pool("planner")
def search(
    ctx: typer.Context,
    evaluations: o.Evaluations = None,
    budget: o.Budget = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|pdf", help="Draw what each parameter does by itself."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the found plan here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Search for the schedule that is fastest by prediction, the fixed policies among those
    tried.
    """
    with Progress(is_whole_run=True) as say:
        from blendsim.plan import write_plan
        from blendsim.search.caveats import unfollowed
        from blendsim.search.priced import pricing_notes
        from blendsim.search.schedule_search import search as find

        effort = replace(read_effort(evaluations, budget), is_swept=picture is not None)
        asked = o.resolve(ctx.params)
        require_places([output, picture], o.files_read(ctx.params))
        require_parquet(output)
        if picture is not None:
            _require_kind(picture)
        say(asked.reading)
        with ends_at_once(), Cut() as cut:
            pool = asked.load(say)
            found = find(pool, asked.settings, effort, say, cut)
        notes = [
            *unfollowed(asked.settings, found.plan),
            *idle([asked.settings], [*found.fixed_seconds], pool),
            *found.notes,
            *unseen(asked, pool, found.plan),
            *pricing_notes([asked.settings]),
            *not_yours(asked.settings),
            *cut_told(found, has_picture=picture is not None),
        ]
        found = found._replace(notes=notes)
        if output is not None:
            meta = {**found.plan.meta, "source": asked.source}
            write_plan(replace(found.plan, meta=meta), output)
        if found.tally.is_cut:
            picture = None
        if picture is not None:
            from blendsim.report.plots.sensitivities import draw_sensitivities

            where = f"{asked.settings.platform(asked.called)}, engine {asked.settings.engine}"
            title = f"{len(found.plan):,} requests of {', '.join(asked.traces)}; {where}"
            draw_sensitivities(found.sensitivities, measures_drawn(found), picture, title)
    if json:
        print_json(_object(found, output, picture))
        return
    print_lines(
        _text(found, f"{asked.settings.platform(asked.called)}, engine {asked.settings.engine}")
    )
    kept = f"plan written to {output}" if output else "-o plan.parquet keeps this plan"
    print_lines(["", kept])


def _require_kind(picture: Path) -> None:
    from blendsim.errors import InputError

    if picture.suffix.lower() not in (".png", ".pdf"):
        raise InputError(f"--picture {picture}: draws .png or .pdf; give a name that ends so")


def _object(found: "Found", plan: Path | None, picture: Path | None) -> dict[str, Any]:
    from blendsim.report.metrics import as_json

    return as_json(found.chosen) | {
        "rows": [as_json(row) | {"chosen": row is found.chosen} for row in found.rows],
        "sensitivities": [each._asdict() for each in found.sensitivities],
        **found_json(found),
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
    from blendsim.report.tables import seconds as in_seconds

    columns = width()
    gain = 1 - found.seconds / min(found.fixed_seconds.values())
    fixed = [k for k, entry in enumerate(found.leaderboard) if entry.is_fixed]
    shown = sorted({*range(min(SHOWN, len(found.leaderboard))), *fixed})
    entries = [(k + 1, found.leaderboard[k]) for k in shown]
    board = leaderboard_table(entries, columns, is_typical=found.worlds > 0)
    ranks = ranks_told(board.schedules, SHOWN, len(entries), len(found.leaderboard))
    better = (
        f"Found: {'typically' if found.worlds else 'predicted'} {in_seconds(found.seconds)} s, "
        f"{gain_told(gain)}. {schedule_told(found)}"
        if found.is_searched
        else none_told(found)
    )
    return [
        *paragraphs([pool_line(found.chosen, where)], columns),
        "",
        *policy_table(found.rows, found.chosen, columns),
        "",
        *board.lines,
        *paragraphs(ranks, columns),
        "",
        *paragraphs(
            [
                better,
                *worlds_told(found),
                effort_told(found),
                *(f"Note: {note}" for note in found.notes),
            ],
            columns,
        ),
    ]
