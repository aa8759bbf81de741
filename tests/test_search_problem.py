"""A prepared problem under other settings: what may change, and what has to be prepared anew."""

from dataclasses import fields, replace

import pytest

from blendsim import search
from blendsim.pacing import Gains
from blendsim.request import from_lengths
from blendsim.search.problem import with_settings
from blendsim.serving.knobs import Knobs

PROBLEM = search.prepare(from_lengths([300] * 12, [20] * 12), search.Settings())

#: Another value of each setting that may be replaced.
FREE = {
    "dp": 2,
    "topology": "1P1D",
    "steals": True,
    "planner": "dfs",
    "engine": "vllm",
    "token_budget": 512,
    "eviction": "plan",
    "output_reserved": 0.25,
    "pacing": Gains(slack=0.5),
}
#: And of some that lengths, costs or the step model were made from.
HELD = {
    "model": "llama-2-7b",
    "gpu": "h100",
    "tp": 2,
    "overlap": "sum",
    "sample": 0.5,
    "seed": 1,
    "length_rule": "shrunk",
    "output_guess": 7,
    "kv_bytes": 10**10,
    "cascade": True,
    "knobs": Knobs(watermark=0.5),
}


@pytest.mark.parametrize("name", FREE)
def test_what_only_runs_depend_on_is_replaced(name: str) -> None:
    there = with_settings(PROBLEM, **{name: FREE[name]})
    assert there.settings == replace(PROBLEM.settings, **{name: FREE[name]})
    assert there.settings != PROBLEM.settings
    assert there._replace(settings=PROBLEM.settings) == PROBLEM
    again = search.prepare(PROBLEM.workload, there.settings)
    for part in ("lengths", "costs"):
        for ours, fresh in zip(getattr(PROBLEM, part), getattr(again, part), strict=True):
            assert repr(ours) == repr(fresh), part
    assert again.drawn.tolist() == PROBLEM.drawn.tolist()


@pytest.mark.parametrize("name", HELD)
def test_what_the_problem_was_prepared_by_is_not(name: str) -> None:
    with pytest.raises(AssertionError, match=f"{name} is another"):
        with_settings(PROBLEM, **{name: HELD[name]})
    with pytest.raises(AssertionError, match=f"{name} is another"):
        with_settings(PROBLEM, replace(PROBLEM.settings, **{name: HELD[name]}))


def test_settings_and_changes_go_together() -> None:
    given = replace(PROBLEM.settings, token_budget=1_024)
    there = with_settings(PROBLEM, given, planner="blend")
    assert there.settings == replace(given, planner="blend")
    assert FREE.keys() | HELD.keys() <= {field.name for field in fields(search.Settings)}
