"""A plan file's pacing with values that no planner writes is refused in one line."""

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
