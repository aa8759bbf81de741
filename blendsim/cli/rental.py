"""`blendsim plan` on several systems, or with prices or limits: which of them to rent."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.cli import options as o
from blendsim.cli.idle import idle
from blendsim.cli.lists import Systems, read_seconds
from blendsim.cli.output import print_json, print_lines, tell, width
from blendsim.cli.places import require_tables
from blendsim.cli.progress import Progress
from blendsim.cli.ranges import range_told, true_seconds, unchecked
from blendsim.cli.remarks import not_yours, saving_told, unseen
from blendsim.cli.stopping import ends_at_once
from blendsim.errors import InputError
from blendsim.formats import BF16

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.report.rental import Goal
    from blendsim.search import Prices, Rental
    from blendsim.settings import Settings


class Wanted(NamedTuple):
    """What a user wants of the systems, as written."""

    systems: Systems
    price: Path | None
    deadline: str | None
    max_cost: float | None

    @property
    def is_rental(self) -> bool:
        """Systems are to be compared, or one to be priced."""
        return self.systems.are_several or any(each is not None for each in self[1:])


def rent(params: dict[str, Any], wanted: Wanted, output: Path | None, json: bool) -> None:
    """Plan the pool on every system, show them all, and write the chosen one's plan if it is to be
    kept. InputError, after showing them, if none meets the limits.
    """
    with Progress(is_whole_run=True) as say:
        from blendsim.plan import write_plan
        from blendsim.search import find_candidates
        from blendsim.search import rent as rent_systems
        from blendsim.search.caveats import unfollowed
        from blendsim.search.priced import pricing_notes

        asked = o.resolve(params)
        require_tables([output], o.files_read(params))
        settings, systems = asked.settings, wanted.systems
        gpus = systems.gpus or [settings.gpu]
        goal, prices = _goal(wanted, settings, gpus)
        tps, dps = systems.tps or [settings.tp], systems.dps or [settings.dp]
        formats, stages = systems.quantizations, systems.pps
        candidates = find_candidates(settings, gpus, tps, dps, formats, stages)
        say(asked.reading)
        with ends_at_once():
            began = time.monotonic()
            workload = asked._replace(settings=candidates.roomiest).load(say)
            slow = saving_told(asked, time.monotonic() - began)
            rental = rent_systems(workload, candidates, goal, prices, say)
        notes = [
            *unfollowed(settings, rental.plan),
            *idle(candidates.settings, [each.row.policy for each in rental.rows], workload),
            *rental.notes,
            *unseen(asked, workload, rental.plan),
            *not_yours(settings),
            *pricing_notes(candidates.settings),
        ]
        rental = rental._replace(notes=notes)
        if output is not None and rental.plan is not None:
            meta = {**rental.plan.meta, "source": asked.source}
            write_plan(replace(rental.plan, meta=meta), output)
    if slow is not None:
        tell(slow)
    if json:
        print_json(_object(rental, goal, output))
    else:
        spec = settings.spec
        if candidates.differ_in_weights:  # the rows say which
            spec = replace(spec, weights=BF16)
        apart = "" if settings.ep is None else f" over {settings.ep} GPUs"
        where = f"{settings.model}{spec.in_formats}{apart}, engine {settings.engine}"
        is_sampled = settings.sample != 1.0
        unsure = unchecked(candidates.settings)
        true = true_seconds((rental.chosen or rental.rows[0]).row, workload)
        lines = _text(rental, goal, where, output, unsure, is_sampled=is_sampled, true=true)
        print_lines(lines)
    if rental.chosen is None:
        from blendsim.report.rental_advice import nothing_meets

        nearest = nothing_meets(rental.rows, goal)
        of = f"of {len(rental.rows):,} systems " if len(rental.rows) > 1 else ""
        raise InputError(f"{of}{nearest}; loosen a limit or name others")


def _goal(wanted: Wanted, settings: "Settings", gpus: list[str]) -> "tuple[Goal, Prices | None]":
    """What the user wants, and the prices of these GPUs; InputError for what cannot be meant."""
    from blendsim.report.rental import Goal
    from blendsim.search import read_prices

    deadline = None if wanted.deadline is None else read_seconds(wanted.deadline, "--deadline")
    if wanted.max_cost is not None and not 0 < wanted.max_cost < math.inf:
        raise InputError(f"--max-cost {wanted.max_cost:g} must be above 0")
    if wanted.price is None:
        if wanted.max_cost is not None:
            raise InputError("--max-cost needs --price FILE: no prices are built in")
        return Goal(deadline), None
    prices = read_prices(wanted.price)
    # NOTE: a name that is wrong is not one that has no price.
    prices.require(replace(settings, gpu=gpu).found_gpu.name for gpu in gpus)
    return Goal(deadline, wanted.max_cost, prices.currency), prices


def _object(rental: "Rental", goal: "Goal", output: Path | None) -> dict[str, Any]:
    from blendsim.report.rental import rental_json
    from blendsim.report.rental_advice import rental_advice

    rows, chosen = rental.rows, rental.chosen
    return {
        "chosen": rental_json(chosen, chosen) if chosen else None,
        "rows": [rental_json(row, chosen) for row in rows],
        "ranked_by": goal.objective,
        "currency": goal.currency,
        "deadline_seconds": goal.deadline,
        "max_cost": goal.max_cost,
        "left_out": rental.left_out,
        "advice": rental_advice(rows, chosen, goal),
        "notes": rental.notes,
        "worlds": rental.spread.seconds,
        "plan": output if chosen else None,
    }


def _text(
    rental: "Rental",
    goal: "Goal",
    where: str,
    output: Path | None,
    unsure: list[str],
    *,
    is_sampled: bool,
    true: float | None,
) -> list[str]:
    from blendsim.report.rental import rental_table
    from blendsim.report.rental_advice import limits_missed, rental_advice
    from blendsim.report.tables import paragraphs, pool_line

    rows, chosen, columns = rental.rows, rental.chosen, width()
    shown = chosen or rows[0]
    advice = rental_advice(rows, chosen, goal)
    advice += range_told(
        rental.spread,
        shown.row.predicted_seconds,
        is_sampled=is_sampled,
        missed=limits_missed(shown, goal),
        true=true,
    )
    advice += unsure
    lines = [
        *paragraphs([pool_line(shown.row, f"{where}; densities on {shown.system}")], columns),
        "",
        *rental_table(rows, chosen, goal, columns),
        "",
        *paragraphs([*advice, *rental.left_out], columns),
        *paragraphs([f"Note: {note}" for note in rental.notes], columns),
    ]
    kept = f"plan written to {output}" if output else "-o plan.parquet keeps the chosen plan"
    return [*lines, "", kept] if chosen else lines
