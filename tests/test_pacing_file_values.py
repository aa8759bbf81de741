"""A plan file's pacing with values that no planner writes is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pacing_plan import small_plan, with_pacing

from blendsim.errors import InputError
from blendsim.plan import read_plan, write_plan


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes": [], "seconds": []},
        {"sizes": [16]},
        {"sizes": ["a", "b"]},
        {"sizes": [32, 16]},
        {"seconds": [0.0, 0.0]},
        {"lines": []},
        {"measured": [[0.0, 1.0]]},
        {"measured": [[0.5, 0.9]]},
        {"measured": [[1.0, 1.5], [0.5, 1.2]]},
        {"read_seconds": 0.0},
        {"read_seconds": "x"},
        {"spread": None},
        {"spread": [0.5]},
        {"spread": ["a"]},
    ],
    ids=str,
)
def test_pacing_with_values_no_planner_writes_is_one_line(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    write_plan(small_plan(), tmp_path / "plan")
    with_pacing(tmp_path / "plan", lambda pacing: pacing | wrong)
    with pytest.raises(InputError):
        read_plan(tmp_path / "plan")


def test_half_a_token_a_step_is_one_line(tmp_path: Path) -> None:
    write_plan(small_plan(), tmp_path / "plan")
    with_pacing(tmp_path / "plan", lambda p: p | {"gains": p["gains"] | {"most_tokens": 1.5}})
    with pytest.raises(InputError):
        read_plan(tmp_path / "plan")


def with_gains(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda pacing: pacing | {"gains": pacing["gains"] | changes}


def without(name: str, *of: str) -> Callable[[dict[str, Any]], Any]:
    """A change that takes a field away from the pacing, or from its field `of`."""

    def change(pacing: dict[str, Any]) -> Any:
        place = pacing[of[0]] if of else pacing
        del place[name]
        return pacing

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pacing: [1], "it must be an object, not a list"),
        (lambda pacing: False, "it must be an object, not false"),
        (without("gains"), "field 'gains' is missing"),
        (without("spread"), "field 'spread' is missing"),
        (lambda pacing: pacing | {"zzz": 1}, "field 'zzz' is unknown"),
        (lambda pacing: pacing | {"gains": 3}, "gains must be an object, not 3"),
        (lambda pacing: pacing | {"gains": None}, "gains must be an object, not null"),
        (with_gains(zzz=1), "gain 'zzz' is unknown"),
        (with_gains(**{"z" * 99: 1}), f"gain '{'z' * 39} is unknown"),
        (without("slack", "gains"), "gain 'slack' is missing"),
        (without("look_steps", "gains"), "gain 'look_steps' is missing"),
        (with_gains(slack="much"), "slack must be a number, not a text"),
        (with_gains(slack=[0.1]), "slack must be a number, not a list"),
        (with_gains(slack=True), "slack must be a number, not true"),
        (with_gains(slack=None), "slack must be a number, not null"),
        (with_gains(trust=10**400), "trust has a number that is too large"),
        (with_gains(look_steps=2.5), "look_steps must be a whole number, not 2.5"),
        (with_gains(look_steps=True), "look_steps must be a whole number, not true"),
        (with_gains(keeps_awaited=1), "keeps_awaited must be true or false, not 1"),
        (with_gains(keeps_awaited=None), "keeps_awaited must be true or false, not null"),
        (lambda pacing: pacing | {"sizes": 16}, "sizes must be a list, not 16"),
        (lambda pacing: pacing | {"sizes": [16, True]}, "sizes must be whole numbers that rise "),
        (
            lambda pacing: pacing | {"seconds": [0.5, None]},
            "a value of seconds must be a number, not n",
        ),
        (lambda pacing: pacing | {"seconds": [0.5, float("nan")]}, "seconds must be above 0, "),
        (lambda pacing: pacing | {"seconds": [-0.5, 0.75]}, "seconds must be above 0, one a size"),
        (lambda pacing: pacing | {"read_seconds": {}}, "read_seconds must be a number, not an obj"),
        (lambda pacing: pacing | {"read_seconds": float("nan")}, "read_seconds must be above 0"),
        (lambda pacing: pacing | {"read_seconds": -1e-9}, "read_seconds must be above 0"),
        (lambda pacing: pacing | {"lines": [[1.0]]}, "lines must be a list of pairs"),
        (lambda pacing: pacing | {"lines": [1.0]}, "a pair of lines must be a list, not 1.0"),
        (lambda pacing: pacing | {"lines": [["a", 1.0]]}, "a value of a pair of lines must be a n"),
        (lambda pacing: pacing | {"lines": [[1.0, -0.5]]}, "lines must be pairs of at least 0"),
        (lambda pacing: pacing | {"measured": 3}, "measured must be a list, not 3"),
        (lambda pacing: pacing | {"spread": "1.25"}, "spread must be a list, not a text"),
        (lambda pacing: pacing | {"spread": [-1.25]}, "spread must be at least 1"),
    ],
)
def test_broken_pacing_is_one_line_in_our_words(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "plan.parquet"
    write_plan(small_plan(), path)
    with_pacing(path, change)
    with pytest.raises(InputError) as refused:
        read_plan(path)
    told = str(refused.value)
    assert told.startswith(f"{path}: its pacing is broken ({message}")
    assert told.endswith("); plan again with -o")
    assert "\n" not in told


@pytest.mark.parametrize("value", [2.0, -0.5, float("nan"), float("inf")])
def test_gains_out_of_range_in_a_file_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "plan"
    write_plan(small_plan(), path)
    with_pacing(path, with_gains(fill=value))
    with pytest.raises(InputError) as refused:
        read_plan(path)
    assert str(refused.value) == (
        f"{path}: pacing: fill {value} is out of range; give a number above 0 and at most 1, "
        "or plan again with -o"
    )
