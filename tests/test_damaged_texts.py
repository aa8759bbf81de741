"""Settings, prices and lengths as users write them, with one value or some bytes changed: refused
in one line, or read and then usable.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_damaged_tables import refusal

from blendsim.cli.options import Asked, resolve
from blendsim.search.prices import read_prices
from blendsim.settings import Settings
from blendsim.traces.results import read_results
from blendsim.traces.seam import ReadOptions

WORDS = (
    *("true", "-1", "0", "1", "1.5", "nan", "inf", "-inf", "1e300", "9223372036854775807"),
    *("1" + "0" * 30, '""', '"x"', '"a\\u0000b"', "[]", "[[]]", "{}", "{x = 1}", "2024-01-01"),
)


def asked(path: Path) -> Asked:
    return resolve({"config": path, "trace": []})


def use_config(path: Path) -> None:
    """As a command does before it reads a trace."""
    settings = asked(path).settings
    json.dumps(asdict(settings), allow_nan=False, default=str)
    assert settings.system.kv_blocks > 0


def use_lengths(path: Path) -> None:
    assert all(
        type(tokens) is int and tokens >= 1 for tokens in read_results(path).lengths.values()
    )


def lines(base: Any, section: str) -> list[str]:
    """Every field of a section, and of the sections in it, with every word."""
    found = []
    for field in fields(base):
        inner = getattr(base, field.name)
        found += [f"[{section}]\n{field.name} = {word}\n" for word in WORDS]
        if is_dataclass(inner):
            found += lines(inner, f"{section}.{field.name}")
    return found


@pytest.mark.parametrize(("base", "section"), [(Settings(), "settings"), (ReadOptions(), "read")])
def test_any_value_of_a_setting_is_refused_or_can_be_used(
    base: object, section: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.toml"
    for text in lines(base, section):
        path.write_text(text)
        told = refusal(use_config, path)
        assert told is None or len(told) < 600


RESULT = {
    "custom_id": "a",
    "response": {"status_code": 200, "body": {"usage": {"completion_tokens": 5}}},
    "error": None,
}


@pytest.mark.parametrize("place", [["custom_id"], ["response"], ["response", "body"], ["error"]])
def test_any_word_in_a_result_is_refused_or_read(place: list[str], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for word in ("null", "true", "-1", "NaN", "Infinity", "1e400", '"\\ud800"', "[]", "{}", "[{}]"):
        for depth in range(len(place), 5):
            keys = [*place, *["body", "usage", "completion_tokens"][: depth - 1]][:depth]
            row: Any = json.loads(json.dumps(RESULT))
            inner = row
            for key in keys[:-1]:
                inner = inner.setdefault(key, {}) if isinstance(inner, dict) else {}
            if isinstance(inner, dict):
                inner[keys[-1]] = json.loads(word)
            path.write_text(json.dumps(row) + "\n")
            refusal(use_lengths, path)


PRICES = 'currency = "EUR"\n[gpu_hour]\nh100 = 2.5\n[[offer]]\ngpu = "h200"\ngpu_hour = 1\n'


@pytest.mark.parametrize(
    ("good", "use"),
    [
        (PRICES, lambda path: read_prices(path)),
        (json.dumps(RESULT) + "\n", use_lengths),
        ("[settings]\nseed = 2\ndp = 1\n[read]\nseed = 1\n", use_config),
    ],
    ids=["prices", "lengths", "config"],
)
def test_changed_bytes_are_refused_or_read(
    good: str, use: Callable[[Path], None], tmp_path: Path
) -> None:
    rng, path, data = np.random.default_rng(0), tmp_path / "text", good.encode()
    for at in rng.integers(0, len(data), 100).tolist():
        for changed in (data[:at], data[:at] + rng.bytes(1) + data[at + 1 :], data[:at] + b"\xff"):
            path.write_bytes(changed)
            refusal(use, path)
