"""Policies are planned and simulated on as many cores as the process may use, no more."""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import cores, search
from blendsim.baselines import find_baselines
from blendsim.report.rental import Goal
from blendsim.search import choice, comparison, rental
from blendsim.settings import Settings

POOL = mixed_pool(np.random.default_rng(3), 60)
ASKED = Settings(sample=1.0, token_budget=2_048)
ROWS = find_baselines(["nanoflow"])  # four policies


def rent() -> Any:
    return rental.rent(POOL, rental.find_candidates(ASKED, ["h200"], [1], [1]), Goal())


#: How several policies are planned, and by which function each of them.
WAYS: dict[str, tuple[Callable[[], Any], ModuleType, str]] = {
    "choose": (lambda: search.choose(POOL, ASKED), choice, "plan_policy"),
    "compare": (
        lambda: search.compare(POOL, ASKED, ROWS),
        comparison,
        "plan_policy",
    ),
    "rent": (rent, rental, "plan_whole"),
}


@pytest.mark.parametrize("way", WAYS)
def test_three_cores_plan_three_policies_beside_each_other(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, module, name = WAYS[way]
    plan, together, first = getattr(module, name), threading.Barrier(3, timeout=60), [None] * 3

    def meeting(*args: Any, **named: Any) -> Any:
        if first:
            first.pop()
            together.wait()
        return plan(*args, **named)

    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    monkeypatch.setattr(module, name, meeting)
    call()
    assert not first
    assert not together.broken


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_may_use_one_core_plans_one_after_another(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, module, name = WAYS[way]
    plan, threads = getattr(module, name), set()

    def noting(*args: Any, **named: Any) -> Any:
        threads.add(threading.get_ident())
        return plan(*args, **named)

    monkeypatch.setattr(cores, "usable_cores", lambda: 1)
    monkeypatch.setattr(module, name, noting)
    call()
    assert threads == {threading.get_ident()}
