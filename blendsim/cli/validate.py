"""`blendsim validate SIMULATED MEASURED`: how far the performance model is from the machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_places
from blendsim.cli.progress import Progress
from blendsim.printable import printable

if TYPE_CHECKING:
    from blendsim.report.validate import Validation

PICTURE, TABLE = "validation.png", "strata.csv"


def validate(
    simulated: Annotated[Path, typer.Argument(help="A step log of `blendsim simulate`.")],
    measured: Annotated[Path, typer.Argument(help="One of `blendsim replay`, of the same plan.")],
    against: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="SIMULATED MEASURED", help="Another policy's logs: compares the speed-ups."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory for the picture and the table of strata."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Compare a simulated run with a measured one, step by step and as a whole."""
    pairs = [(simulated, measured), *([against] if against else [])]
    with Progress() as say:
        from blendsim.report import validate as report

        if output is not None:
            _require_places_in(output, pairs)
        say("comparing step logs")
        runs = [_read(*pair) for pair in pairs]
        ratio = report.speedup(*runs) if against else None
        files = [] if output is None else _write(runs, pairs, output)
    if json:
        told = [
            report.as_json(run) | {"simulated": pair[0], "measured": pair[1]}
            for run, pair in zip(runs, pairs, strict=True)
        ]
        print_json(
            told[0]
            | {
                "against": told[1] if against else None,
                "speedup": ratio._asdict() if ratio else None,
                "files": files,
            }
        )
        return
    from blendsim.report.validation_text import speedup_line, validation_lines

    for run, pair in zip(runs, pairs, strict=True):
        print_lines([*validation_lines(run, str(pair[1]), width()), ""])
    if against:
        print_lines([speedup_line(ratio)])
    written = [f"written: {', '.join(map(str, files))}"]
    print_lines(written if files else ["-o DIR draws a picture"])


def _require_places_in(directory: Path, pairs: list[tuple[Path, Path]]) -> None:
    """InputError unless both files can be written, and are not among the logs."""
    from blendsim.files import require_directory

    require_directory(directory)
    if directory.is_dir():
        written = [directory / PICTURE, directory / TABLE]
        require_places(written, [path for pair in pairs for path in pair])


def _read(simulated: Path, measured: Path) -> "Validation":
    from blendsim.errors import InputError
    from blendsim.report.validate import validate as compare
    from blendsim.steplog import read_steplog

    ours, theirs = read_steplog(simulated), read_steplog(measured)
    if "runtime" not in theirs.meta:
        raise InputError(
            f"{measured}: is a simulated run; give a log of `replay -o` of the same plan"
        )
    return compare(ours, theirs, (str(simulated), str(measured)))


def _write(runs: "list[Validation]", pairs: list[tuple[Path, Path]], directory: Path) -> list[Path]:
    from blendsim.files import make_directory, write_text
    from blendsim.report.plots.validation import draw_validation
    from blendsim.report.validation_text import strata_csv

    make_directory(directory)
    picture, table = directory / PICTURE, directory / TABLE
    titled = [(printable(run.policy or str(p[1])), run) for run, p in zip(runs, pairs, strict=True)]
    draw_validation(titled, picture)
    write_text(table, strata_csv(titled))
    return [picture, table]
