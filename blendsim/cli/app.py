"""The commands in one application, and what becomes of errors: a user's error and the machine's are
one line each, anything else is a traceback; status.py has the exit statuses.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

import blendsim
from blendsim.cli import (
    export,
    planning,
    profile,
    replay,
    report,
    run,
    search,
    simulate,
    synth,
    trace,
    validate,
)
from blendsim.cli.leaving import Leaving
from blendsim.cli.options import WithDefaults
from blendsim.cli.output import tell
from blendsim.cli.places import is_here_gone
from blendsim.cli.status import (
    BROKEN_PIPE,
    INTERRUPTED,
    MACHINE,
    WRONG_INPUT,
    is_interrupted,
    machine_told,
    status_of,
)
from blendsim.cli.stopping import terminated
from blendsim.errors import BlendsimError

_ALIKE = 0.8  # of names: `--engine` is meant for `--engines`, and not for `--tokenizer`
# NOTE: typer brings its own click or the installed one, by version; this is the class it raises.
_UsageError: Any = typer.BadParameter.__base__


def _told(error: Any) -> Exception:
    """The exit after wrong usage is told in one line; a bare group's help stays as it is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error  # type: ignore[no-any-return]
    if possibilities := getattr(error, "possibilities", None):
        error.possibilities = get_close_matches(error.option_name, possibilities, cutoff=_ALIKE)
    message = " ".join(error.format_message().split()).rstrip(".")
    where = error.ctx.command_path if error.ctx else "blendsim"
    tell(f"error: {message}; see {where} -h")
    return typer.Exit(WRONG_INPUT)


class Group(TyperGroup):
    """Runs a command and turns what a user can mend, or did on purpose, into an exit status."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _ending():  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _ending():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextmanager
def _ending() -> Iterator[None]:
    """Within, an error is told as its kind is, and becomes an exit status."""
    try:
        yield
    except BlendsimError as error:
        tell(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(status_of(error)) from error
    except _UsageError as error:
        raise _told(error) from error
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", ()):
            tell(f"interrupted; {note}")
        raise typer.Exit(INTERRUPTED) from error
    except SystemExit as error:  # by `terminated`
        for note in getattr(error, "__notes__", ()):
            tell(f"terminated; {note}")
        raise
    except BrokenPipeError as error:
        _leave_stdout()
        raise typer.Exit(BROKEN_PIPE) from error
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        if is_interrupted(error):
            raise typer.Exit(INTERRUPTED) from error
        if isinstance(error, FileNotFoundError) and is_here_gone():  # libraries look at it
            tell("error: the current directory no longer exists; change to one that does")
            raise typer.Exit(WRONG_INPUT) from error
        if status_of(error) != MACHINE:
            raise
        told = machine_told(error)
        if told is None:
            traceback.print_exc()
        else:
            tell(f"error: {told}")
        try:
            sys.stdout.flush()
        except OSError:  # it is what is full
            _leave_stdout()
        raise typer.Exit(MACHINE) from error


def _have_streams() -> None:
    """Give what the command was started without, as by `>&-`, somewhere to go: else the first files
    that are opened take the numbers of the streams, and what libraries print ends in them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _leave_stdout() -> None:
    """The interpreter flushes stdout once more at exit; give it somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=Group,
    name="blendsim",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"blendsim {blendsim.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Plan offline batch LLM inference and simulate it: which order of requests wins, by how much,
    how far from the optimum, and why.
    """


app.command(cls=WithDefaults)(planning.plan)
app.command()(simulate.simulate)
app.command()(export.export)
app.command()(replay.replay)
app.command()(run.run)
app.command(cls=WithDefaults)(planning.compare)
app.command(cls=WithDefaults)(search.search)
app.command()(synth.synth)
app.command()(validate.validate)
app.command()(report.report)
app.add_typer(trace.app, name="trace")
app.add_typer(profile.app, name="profile")


def main() -> None:
    """What `blendsim` does once this is loaded; it ends the process."""
    _have_streams()
    leaving = Leaving()
    signal.signal(signal.SIGTERM, terminated)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show ρ gets a question mark, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        app()
    except SystemExit as ending:
        leaving.note(ending.code)
        raise
