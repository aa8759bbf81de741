"""How the command's process ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blendsim.cli.leaving import Leaving


def ended(tmp_path: Path, body: str) -> "subprocess.CompletedProcess[str]":
    """A process in which `app()` is `body`, with what else is registered to be done at exit."""
    script = tmp_path / "command.py"
    script.write_text(
        "import sys, atexit\n"
        "from blendsim.cli import app as module\n"
        "def app():\n"
        f"    {body}\n"
        "    atexit.register(lambda: print('cleaned up'))\n"
        "    sys.exit(CODE)\n"
        "class Late:\n"
        "    def __del__(self): print('taken apart')\n"
        "module.app = app\n"
        "late = Late()\n"
        "module.main()\n"
    )
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("status", [0, 2, 3, 143])
def test_it_ends_with_its_status_after_all_that_is_to_be_done(tmp_path: Path, status: int) -> None:
    done = ended(tmp_path, f"CODE = {status}; print('an unfinished line', end=' ')")
    assert done.returncode == status
    assert done.stdout == "an unfinished line cleaned up\n", "flushed, and nothing is taken apart"
    assert done.stderr == ""


def test_a_text_is_printed_and_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    text = ended(tmp_path, "CODE = 'no such thing'")
    assert (text.returncode, text.stderr) == (1, "no such thing\n")
    bug = ended(tmp_path, "raise AssertionError('a bug')")
    assert bug.returncode == 1
    assert bug.stderr.endswith("AssertionError: a bug\n")


def test_what_cannot_be_flushed_is_no_success() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no full device")
    code = (
        "import sys; from blendsim.cli.leaving import Leaving; "
        "Leaving().note(0); print('x'); sys.exit(0)"
    )
    with full.open("w") as out:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # else print itself fails
        done = subprocess.run([sys.executable, "-c", code], stdout=out, env=buffered, check=False)
    assert done.returncode == 120


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (2, 2), ("text", None)])
def test_statuses_of_exits(
    code: object, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atexit.register", lambda function: None)
    leaving = Leaving()
    assert leaving.status is None
    leaving.note(code)
    assert leaving.status == status


@pytest.mark.parametrize(
    "how", [("-m", "blendsim"), ("-c", "from blendsim.cli import main; main()")]
)
def test_an_interrupt_while_the_command_is_loaded_is_quiet(
    tmp_path: Path, how: tuple[str, str]
) -> None:
    # NOTE: whoever runs this in the background ignores interrupts, and so do its children.
    (tmp_path / "typer.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *how, "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
