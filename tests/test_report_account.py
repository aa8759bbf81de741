"""The account of a run's seconds on the page: the bound and every cause, of the whole run."""

import re

import numpy as np
import pytest
from report_pages import Page

from blendsim.report.account import account_parts, digits_of
from blendsim.report.gist import Hindsight
from blendsim.report.losses import CAUSES as STEP_CAUSES
from blendsim.report.losses import PHASES, Losses
from blendsim.report.optimum import Bounds, Work


def account(run: float, bound: float, again: float = 0.0) -> Losses:
    """Of a run whose steps lose the rest to their sizes."""
    steps = np.zeros((PHASES, len(STEP_CAUSES)))
    steps[0, STEP_CAUSES.index("size")] = run - bound - again
    return Losses(run, bound, steps, again)


def told(found: Losses | None, reachable: float = 50.0, why: str = "") -> str:
    """The text of the account's part of a page."""
    work = Work(*[0] * len(Work._fields))
    limits = Bounds(reachable, reachable, 0.0, 0.0, 0.0, work)
    parts = account_parts(Hindsight(0, 0, 0, limits, found, why, []))
    return Page("".join(parts)).text


@pytest.mark.parametrize(("seconds", "digits"), [(99.99, 4), (100.0, 1), (5_000.0, 1)])
def test_runs_of_minutes_are_told_to_tenths_of_a_second(seconds: float, digits: int) -> None:
    assert digits_of(account(seconds, 50.0)) == digits


def test_every_cause_is_told_in_seconds_and_of_the_run() -> None:
    text = told(account(200.0, 120.0, again=30.0), 120.0)
    rows = re.findall(r"^(.*?)(?:: .*?)?(\d+\.\d)(\d+\.\d %)$", text, re.MULTILINE)
    assert rows == [
        ("reachable bound", "120.0", "60.0 %"),
        ("overlap", "0.0", "0.0 %"),
        ("attention", "0.0", "0.0 %"),
        ("head, prefill", "0.0", "0.0 %"),
        ("step size", "50.0", "25.0 %"),
        ("tail", "0.0", "0.0 %"),
        ("KV, mix", "0.0", "0.0 %"),
        ("done again", "30.0", "15.0 %"),
        ("the run", "200.0", "100.0 %"),
    ]


@pytest.mark.parametrize(
    ("bound", "word"), [(50.0, "reachable bound"), (45.0, "bound of the work")]
)
def test_the_bound_is_called_reachable_unless_one_request_takes_longer(
    bound: float, word: str
) -> None:
    """A solver's bound may be off by as much as a millionth."""
    for off in (-5e-7, 5e-7):
        text = told(account(80.0, bound * (1 + off)))
        assert f"{word}: what all of it takes" in text


def test_where_there_is_no_account_the_page_says_why() -> None:
    assert "No account of the seconds: the log is of two replicas." in told(
        None, why="the log is of two replicas"
    )
    assert account_parts(None) == []
