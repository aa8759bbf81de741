"""Commands, run as a user gives them but in this process, and what they say."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blendsim.cli.app import app


def invoke(*arguments: object) -> Result:
    """A command, however it ends."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def run(*arguments: object, code: int = 0) -> str:
    """What a command that ends with `code` says: on stdout, or on stderr where it fails."""
    done = invoke(*arguments)
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def run_json(*arguments: object) -> dict[str, Any]:
    """The one JSON object of a command that must succeed; NaN and Infinity are no JSON."""
    out = run(*arguments, "--json")
    assert out.count("\n") == 1
    parsed = json.loads(out, parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))
    assert isinstance(parsed, dict)
    return parsed


def refusal(done: Result) -> str:
    """The one line of a command that was refused."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]
