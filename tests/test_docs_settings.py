"""What docs/commands.md and `--help` say of settings is what the dataclasses and tables have."""

import re
import tomllib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.cli.config import read_config
from blendsim.cli.options import resolve
from blendsim.cli.pooled import OPTIONS
from blendsim.pacing import Gains
from blendsim.planner.make import POLICIES
from blendsim.search.schedule_search import DEFAULT_EVALUATIONS
from blendsim.serving.flavour import FLAVOURS
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.traces.seam import ReadOptions

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "commands.md").read_text().split("## Config files\n")[1].split("\n## ")[0]
SECTIONS = {
    "settings": Settings,
    "settings.knobs": Knobs,
    "settings.pacing": Gains,
    "read": ReadOptions,
}


def told_of(section: str) -> str:
    """What the page says below the section's heading."""
    return PAGE.split(f"### `[{section}]`\n")[1].split("\n### ")[0]


def rows_of(section: str) -> dict[str, str]:
    """Keys of the section's table, and the defaults it gives."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", told_of(section), re.MULTILINE))


def option_keys(section: str) -> list[str]:
    """Keys that the section lists by name alone, as they are options, too."""
    lists = re.findall(r"^(?:`\w+`(?:, )?)+$", told_of(section), re.MULTILINE)
    return [key for each in lists for key in re.findall(r"\w+", each)]


def default_of(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


@pytest.mark.parametrize("section", SECTIONS)
def test_documented_keys_are_the_fields(section: str) -> None:
    documented = [*option_keys(section), *rows_of(section)]
    assert sorted(documented) == sorted(field.name for field in fields(SECTIONS[section]))


def test_keys_without_a_row_are_options() -> None:
    assert [key for key in option_keys("settings") if key not in OPTIONS] == []
    assert [key for key in rows_of("settings") if key in OPTIONS] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_documented_defaults_are_those_of_the_fields(section: str) -> None:
    """One in code marks is the value; one in words stands for None, or for a section."""
    for field in fields(SECTIONS[section]):
        said = rows_of(section).get(field.name)
        if said is None:
            continue
        default = default_of(field)
        if said.startswith("`"):
            assert tomllib.loads(f"value = {said.strip('`')}")["value"] == default, field.name
        else:
            is_section = f"settings.{field.name}" in SECTIONS
            assert is_section or default is None or (section, field.name) == ("read", "seed")


def test_documented_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(PAGE.split("```toml\n")[1].split("```")[0])
    sections = read_config(path, {"settings": Settings(), "read": ReadOptions()})
    asked = resolve({"trace": ["demo:mixed"], "config": path, "gpu": "h100"})
    assert asked.settings.gpu == "h100", "options win"
    assert asked.settings.kv_bytes == sections["settings"]["kv_bytes"]
    assert asked.settings.pacing == Gains(caution=2.0)
    assert asked.read.tokenizer == "my/model"


def test_the_table_of_engines_holds_their_rules() -> None:
    """Its rows name every engine, with its token budgets and running limit."""
    table = (DOCS / "serving.md").read_text().split("## Engines\n")[1].split("\n## ")[0]
    found = {}
    for row in re.findall(r"^\| (`.*) \|$", table, re.MULTILINE):
        names, _, enters, operators, sizes = row.split(" | ")
        most = [int(size.replace(",", "")) for size in re.findall(r"\d,\d{3}", sizes)]
        for name in re.findall(r"`([\w-]+)`", names)[:4]:
            if name in FLAVOURS:
                found[name] = (most, operators == "one after another", enters)
    assert {name: told[:2] for name, told in found.items()} == {
        name: (
            [*filter(None, (each.token_budget, each.max_running, each.large_gpu_budget))],
            not each.overlaps,
        )
        for name, each in FLAVOURS.items()
    }
    same = [name for name, told in found.items() if told[2] == "as `nanoflow`"]
    assert {FLAVOURS[name].admission for name in same} == {FLAVOURS["nanoflow"].admission}


def help_of(command: str) -> str:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"]).stdout
    told = " ".join(re.sub(r"[│|]", " ", shown).split())
    return re.sub(r"(?<=\w)- ", "-", told)  # lines break behind hyphens


@pytest.mark.parametrize("command", ["plan", "run"])
def test_help_names_every_policy(command: str) -> None:
    assert f"{', '.join(POLICIES)}, or auto" in help_of(command)


def test_help_says_how_many_schedules_are_tried() -> None:
    assert f"Schedules to try, {DEFAULT_EVALUATIONS} unless" in help_of("search")


@pytest.mark.parametrize("command", ["plan", "simulate", "search"])
def test_help_names_every_engine(command: str) -> None:
    told = help_of(command)
    assert [name for name in FLAVOURS if name.removeprefix("sglang") not in told] == []
