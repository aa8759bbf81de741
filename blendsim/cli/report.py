"""`blendsim report RUN`: what a run did, as one page that a browser opens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines
from blendsim.cli.places import require_places
from blendsim.cli.progress import Progress
from blendsim.cli.reported import Found, find, find_both, traces_of

if TYPE_CHECKING:
    from blendsim.report.contrast import Contrast, Side
    from blendsim.report.losses import Losses
    from blendsim.report.pages import Report
    from blendsim.report.second_log import Beside
    from blendsim.steplog import StepLog

PAGE = Path("report.html")
ENDINGS = (".html", ".htm")


def report(
    run: Annotated[
        Path, typer.Argument(help="A step log of `simulate -o`, `replay -o` or `run --log`.")
    ],
    plan: Annotated[
        Path | None, typer.Option(help="The plan that ran: the log must be of this one.")
    ] = None,
    workload: Annotated[
        Path | None,
        typer.Option(help="The workload, if not the traces that the log remembers."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG",
            help="A second log, set beside RUN: of the same plan, one of them measured; or a "
            "simulated one of the same pool by another plan, engine or token budget.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the page here; by itself report.html, none with --json."
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Write a page on a run: key figures, its steps over time, where the seconds went."""
    place = output if json else output or PAGE
    with Progress() as say:
        require_places([place], [run, plan, workload, against])
        say("reading the step log")
        log = _read(run)
        require_places([place], traces_of(log))
        if place is not None:
            _require_ending(place)
        found = find(log, run, plan, workload, say)
        told = _report(run, log, found, against, say)
        if place is not None:
            from blendsim.report.pages import write_report

            say("drawing the page")
            write_report(told, place)
    if json:
        print_json(_object(told, run, place))
        return
    print_lines([f"page written to {place}"])


def _require_ending(place: Path) -> None:
    from blendsim.errors import InputError

    if place.suffix.lower() not in ENDINGS:
        raise InputError(f"{place}: a page is HTML; give -o a name that ends in .html or .htm")


def _read(path: Path) -> "StepLog":
    """The log at `path`. InputError unless it has steps that took time."""
    from blendsim.errors import InputError
    from blendsim.steplog import read_steplog

    log = read_steplog(path)
    if not len(log) or not log.time("seconds")[log.is_timed].sum() > 0:
        raise InputError(f"{path}: holds no steps that took time; run it again")
    return log


def _report(
    run: Path, log: "StepLog", found: Found, against: Path | None, say: Progress
) -> "Report":
    from blendsim.report.pages import Report

    side = _side(run, log, found)
    return Report(
        name=run.name,
        log=log,
        figures=side.figures,
        capacity_blocks=side.capacity_blocks,
        work=found.work,
        hindsight=found.hindsight,
        notes=found.notes,
        against=None if against is None else _second(run, log, against, found, say),
    )


def _side(path: Path, log: "StepLog", found: Found) -> "Side":
    from blendsim.report.contrast import Side
    from blendsim.report.gist import gist

    place, known = found.ground.place if found.ground else None, found.hindsight
    return Side(
        name=path.name,
        log=log,
        figures=gist(log, place, known),
        capacity_blocks=place.capacity_blocks if place else None,
        work=found.work,
        account=known.account if known else None,
        no_account=known.no_account if known else "",
        notes=found.notes,
    )


def _second(
    run: Path, log: "StepLog", against: Path, found: Found, say: Progress
) -> "Beside | Contrast":
    """The second log beside the first: validated where one is measured, else contrasted."""
    from blendsim.errors import InputError
    from blendsim.report.gist import gist, is_measured
    from blendsim.report.second_log import Beside
    from blendsim.report.validate import validate

    other = _read(against)
    if not is_measured(log) and not is_measured(other):
        return _contrast(run, log, other, against, found, say)
    first, second = (run, log), (against, other)
    if is_measured(log) and is_measured(other):
        raise InputError(
            f"--against {against}: both logs were measured; give a simulated and a measured one, "
            "or two simulated ones"
        )
    (simulated, left), (timed, right) = (second, first) if is_measured(log) else (first, second)
    figures = gist(other, found.ground.place if found.ground else None, None)
    validation = validate(left, right, (str(simulated), str(timed)))
    return Beside(against.name, figures, validation, timed.name)


def _contrast(
    run: Path, log: "StepLog", other: "StepLog", against: Path, found: Found, say: Progress
) -> "Contrast":
    from dataclasses import replace

    from blendsim.report.contrast import Contrast, require_same_pool

    require_same_pool(log, other, str(against))
    say("looking at the second log")
    both = find_both(log, found, other, against, say)
    first, second = _side(run, log, both.first), _side(against, other, both.second)
    if second.name == first.name:
        first, second = replace(first, name=str(run)), replace(second, name=str(against))
    own = [note for note in second.notes if note not in first.notes]  # the pool's are both's
    return Contrast(first, replace(second, notes=own))


def _object(told: "Report", run: Path, page: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from blendsim.report.contrast import Contrast
    from blendsim.report.validate import as_json

    hindsight = told.hindsight
    beside, contrast = told.against, None
    if isinstance(beside, Contrast):
        beside, contrast = None, beside
    other = contrast.second if contrast else beside
    return asdict(told.figures) | {
        "losses": _losses(hindsight.account if hindsight else None),
        "advice": hindsight.advice if hindsight else [],
        "notes": [*told.notes, *(contrast.second_notes if contrast else [])],
        "against": asdict(other.figures) if other else None,
        "both_losses": [_losses(each.account) for each in (contrast.first, contrast.second)]
        if contrast
        else None,
        "difference": contrast.told if contrast else None,
        "validation": as_json(beside.validation) if beside else None,
        "log": run,
        "page": page,
    }


def _losses(account: "Losses | None") -> dict[str, float] | None:
    return {"bound": account.bound, **account.causes} if account else None
