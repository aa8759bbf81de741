"""Files whose names are not UTF-8 are read, written and told of like any other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.printable import json_escapes, printable

GOOD = "num_prefill_tokens,num_decode_tokens\n" + "20,5\n" * 9


def odd(folder: Path, name: bytes) -> Path:
    return folder / os.fsdecode(name)


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """What it says on stdout and stderr, which take UTF-8 and nothing else."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = odd(tmp_path, b"\xff.csv")
    path.write_text(GOOD)
    return path


def test_bytes_of_a_name_are_escaped_and_halves_of_pairs_too() -> None:
    assert printable("ρ 😀 " + os.fsdecode(b"a\xff\x80") + "\ud800") == "ρ 😀 a\\xff\\x80\\ud800"


def test_json_gives_the_name_back_that_opens_the_file() -> None:
    name = "ρ 😀 \\" + os.fsdecode(b"a\xff") + "\ud800"
    text = json_escapes(json.dumps(name, ensure_ascii=False))
    assert json.loads(text.encode()) == name


def test_error_tells_the_name_in_one_line(tmp_path: Path) -> None:
    _, told = run("trace", "info", odd(tmp_path, b"no\xff.csv"), code=2)
    assert told == f"error: {tmp_path}/no\\xff.csv: no such file; check the path\n"


def test_wrong_usage_tells_the_word_in_one_line() -> None:
    _, told = run("plan", os.fsdecode(b"--\xff"), code=2)
    assert len(told.splitlines()) == 1
    assert "\\xff" in told


@pytest.mark.parametrize("place", [b"plan\xff.parquet", b"none\xff/plan.parquet"])
def test_plan_log_and_page_take_such_names(tmp_path: Path, trace: Path, place: bytes) -> None:
    plan, log = odd(tmp_path, place), odd(tmp_path, b"log\xff.parquet")
    page = odd(tmp_path, b"page\xff.html")
    arguments = ("plan", "--trace", trace, "--planner", "fcfs", "-o", plan)
    if b"/" in place:
        _, told = run(*arguments, code=2)
        assert "none\\xff does not exist" in told
        return
    text, _ = run(*arguments)
    assert "plan\\xff.parquet" in text
    told = json.loads(run("simulate", plan, "-o", log, "--json")[0])
    assert told["log"] == str(log)
    text, _ = run("report", log, "-o", page)
    assert "page\\xff.html" in text
    assert "log\\xff.parquet" in page.read_text(encoding="utf-8")
    assert json.loads(run("trace", "info", trace, "--json")[0])["origin"] == [str(trace)]


def test_the_command_itself_tells_the_name(tmp_path: Path) -> None:
    """A terminal that cannot show a letter gets a question mark; a name keeps its bytes."""
    path = odd(tmp_path, b"no\xff.csv")
    done = subprocess.run(
        [sys.executable, "-m", "blendsim", "trace", "info", path],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert b"no\\xff.csv: no such file" in done.stderr
