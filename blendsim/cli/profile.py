"""`blendsim profile`: where the performance model's figures come from."""

from pathlib import Path
from typing import Annotated

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines
from blendsim.cli.progress import Progress

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Kernel profiles.")


@app.callback()
def _root() -> None:
    """Kernel profiles."""


@app.command("import")
def import_(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write the profiles in.")
    ],
    gpu: Annotated[
        list[str] | None, typer.Option(help="A GPU; repeat it. By itself all we know.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model; repeat it. By itself all we know.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Import measured kernel tables of aiconfigurator."""
    with Progress() as say:
        from blendsim.perf.importer import import_profiles
        from blendsim.specs import GPUS, MODELS

        written = import_profiles(output, gpu or tuple(GPUS), model or tuple(MODELS), say)
    if json:
        print_json({"written": written})
        return
    print_lines([*map(str, written), f"{len(written)} profiles written"])
