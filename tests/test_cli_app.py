"""What becomes of errors, interrupts and closed pipes, whatever the command."""

import re
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

import blendsim
from blendsim.cli.app import BROKEN_PIPE, INTERRUPTED, Group, app
from blendsim.cli.stopping import terminated
from blendsim.errors import InputError
from blendsim.specs import GPUS, MODELS

RUN = [sys.executable, "-c", "from blendsim.cli import main; main()"]


def failing(error: BaseException) -> typer.Typer:
    world = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)

    @world.callback()
    def root() -> None: ...

    @world.command()
    def fail() -> None:
        raise error

    return world


def test_user_error_is_one_line_and_exit_2() -> None:
    result = CliRunner().invoke(failing(InputError("a.csv: empty;\n give\tanother")), ["fail"])
    assert result.exit_code == 2
    assert result.stderr == "error: a.csv: empty; give another\n"
    assert result.stdout == ""


def test_bug_keeps_its_traceback() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("oh")), ["fail"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_interrupt_is_quiet_and_exits_as_shells_expect() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == INTERRUPTED
    assert result.output == ""


def test_interrupt_while_a_library_is_imported_is_one_too() -> None:
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.output) == (INTERRUPTED, "")
    bug = CliRunner().invoke(failing(ImportError("no module")), ["fail"])
    assert bug.exit_code == 1


def test_closed_pipe_is_quiet() -> None:
    code = (
        "import typer, blendsim.cli.app as a\n"
        "@a.app.command()\n"
        "def talk():\n"
        "    for i in range(100_000): typer.echo(i)\n"
        "a.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().strip() == b"0"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == BROKEN_PIPE


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["plan"], ["plan", "--tp", "x"]])
def test_wrong_usage_is_one_line_and_exits_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(" -h\n")


def test_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"blendsim {blendsim.__version__}\n"


def test_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "blendsim", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"blendsim {blendsim.__version__}\n"


def test_plan_help_shows_the_defaults_that_live_in_settings() -> None:
    from blendsim.settings import Settings

    shown = " ".join(CliRunner().invoke(app, ["plan", "--help"]).stdout.split())
    for name in ("model", "gpu", "tp", "engine", "planner", "sample", "seed"):
        assert f"[default: {getattr(Settings(), name)}]" in shown, name


def test_main_survives_a_terminal_without_greek() -> None:
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    done = subprocess.run(
        [*RUN, "trace", "info", "demo:mmlu?n=9"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Sharing: " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = "numpy scipy numba pyarrow simpy matplotlib rich.console torch"
    code = (
        "import sys; sys.argv = ['blendsim', '--help']\n"
        "from blendsim.cli import main\n"
        "try: main()\n"
        f"finally: print(*[m for m in '{heavy}'.split() if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "compare" in done.stdout
    assert done.stderr.strip() == ""


def test_help_is_instant() -> None:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([*RUN, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    # 0.12 s when measured; the bound leaves room for a busy machine.
    assert min(times) < 1.0


def test_a_terminated_command_leaves_as_an_interrupted_one_does() -> None:
    """So that a replay killed by a batch system keeps the log of its steps so far."""
    with pytest.raises(SystemExit) as left:
        terminated(15, None)
    assert left.value.code == 128 + 15


@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_help_names_every_gpu_and_model(command: str) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"]).stdout
    told = " ".join(re.sub(r"[│|]", " ", shown).split())
    assert [name for name in (*GPUS, *MODELS) if name not in told] == []
