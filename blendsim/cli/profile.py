"""`blendsim profile`: where the performance model's figures come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.progress import Progress

if TYPE_CHECKING:
    from blendrt.profiler.measure import Measured

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
        list[str] | None, typer.Option(help="A model; repeat it. By itself those that ship.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Import measured kernel tables of aiconfigurator."""
    with Progress() as say:
        from blendsim.perf.importer import SHIPPED, import_profiles
        from blendsim.specs import GPUS

        written = import_profiles(output, gpu or tuple(GPUS), model or SHIPPED, say)
    if json:
        print_json({"written": written})
        return
    print_lines([*map(str, written), f"{len(written)} profiles written"])


@app.command()
def measure(
    model: Annotated[
        str,
        typer.Option(help="A model's name, a Hugging Face directory, or tiny to try it on a CPU."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write the profile in.")
    ],
    tp: Annotated[
        int, typer.Option(help="Measure one of so many tensor-parallel GPUs' part of the model.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    minutes: Annotated[float, typer.Option(help="Time for all tables together.")] = 4.0,
    json: o.Json = False,
) -> None:
    """Measure a model's kernels on this machine, and what overlapping them buys."""
    from blendsim.live.engine import libraries

    with Progress() as say:
        with libraries("profile measure"):
            from blendrt.profiler.measure import Request, measure_profile
            from blendrt.profiler.target import find_decoder, open_device
        decoder = find_decoder(model)
        done = measure_profile(Request(decoder, tp, open_device(device), minutes), output, say)
    if json:
        print_json(
            {
                "written": done.directory,
                "seconds": done.seconds,
                "overlap": done.profile.meta["overlap"],
                "tables": done.profile.meta["tables"],
                "notes": done.profile.notes,
            }
        )
        return
    print_lines(_summary(done))


@app.command()
def calibrate(
    logs: Annotated[
        list[Path],
        typer.Argument(help="Step logs of `replay --gpu -o` or `run --log`, all of one engine."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory for the profile and its calibration."),
    ],
    profile: o.Profile = None,
    json: o.Json = False,
) -> None:
    """Find what an engine's steps take beyond their kernels, in step logs of its own runs."""
    with Progress() as say:
        from blendsim.cli import calibrating
        from blendsim.perf.calibrated import calibrate as calibrate_by
        from blendsim.perf.calibrated import keep
        from blendsim.perf.measured import AUTO

        say("reading step logs")
        found = calibrate_by(calibrating.read_logs(logs), profile or AUTO)
        written = keep(found, output)
    if json:
        print_json(calibrating.as_json(found) | {"written": written})
        return
    print_lines([*calibrating.lines(found, width()), f"{written} written"])


def _summary(done: "Measured") -> list[str]:
    meta, (gain, ratio) = done.profile.meta, done.fit.best
    return [
        *(f"{name}: {text}" for name, text in meta["tables"].items()),
        f"overlap buys {gain:.2f}× at best, where decode reads take {ratio:.2f} of the compute",
        f"{done.directory} written in {done.seconds:.0f} s",
    ]
