"""`blendsim report RUN`: what a run did, as one page that a browser opens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines
from blendsim.cli.places import require_places
from blendsim.cli.progress import Progress
from blendsim.cli.reported import Found, find, traces_of

if TYPE_CHECKING:
    from blendsim.report.pages import Beside, Report
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
            metavar="MEASURED",
            help="A log of the same plan, one of them measured: sets it beside RUN.",
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
        found = find(log, plan, workload, say)
        told = _report(run, log, found, against)
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
    if not len(log) or not log.time("seconds")[log.is_measured].sum() > 0:
        raise InputError(f"{path}: holds no steps that took time; run it again")
    return log


def _report(run: Path, log: "StepLog", found: Found, against: Path | None) -> "Report":
    from blendsim.report.gist import gist
    from blendsim.report.pages import Report

    ground = found.ground
    return Report(
        name=run.name,
        log=log,
        figures=gist(log, ground.place if ground else None, found.hindsight),
        capacity_blocks=ground.place.capacity_blocks if ground else None,
        work=found.work,
        hindsight=found.hindsight,
        notes=found.notes,
        against=None if against is None else _beside(run, log, against, found),
    )


def _beside(run: Path, log: "StepLog", against: Path, found: Found) -> "Beside":
    from blendsim.errors import InputError
    from blendsim.report.gist import gist, is_measured
    from blendsim.report.pages import Beside
    from blendsim.report.validate import validate

    other = _read(against)
    place = found.ground.place if found.ground else None
    figures = gist(other, place, None)
    first, second = (run, log), (against, other)
    if figures.is_measured and not is_measured(log):
        pair = first, second
    elif is_measured(log) and not figures.is_measured:
        pair = second, first
    else:
        kind = "measured" if figures.is_measured else "simulated"
        raise InputError(
            f"--against {against}: both logs were {kind}; give a simulated and a measured one"
        )
    (simulated, left), (timed, right) = pair
    validation = validate(left, right, (str(simulated), str(timed)))
    return Beside(against.name, figures, validation, timed.name)


def _object(told: "Report", run: Path, page: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from blendsim.report.validate import as_json

    hindsight = told.hindsight
    account = hindsight.account if hindsight else None
    beside = told.against
    return asdict(told.figures) | {
        "losses": {"bound": account.bound, **account.causes} if account else None,
        "advice": hindsight.advice if hindsight else [],
        "notes": told.notes,
        "against": asdict(beside.figures) if beside else None,
        "validation": as_json(beside.validation) if beside else None,
        "log": run,
        "page": page,
    }
