"""`plan --planner auto` with time to search: the race of the fixed policies goes on into a search
of schedules, and the best of all by prediction is kept.
"""

import time
from typing import NamedTuple

from blendsim.errors import InputError
from blendsim.report.advice import Judged
from blendsim.report.metrics import beside, with_regret
from blendsim.request import Workload
from blendsim.search.choice import Choice, advice_on, try_policies
from blendsim.search.cut import NEVER, Stop
from blendsim.search.problem import prepare
from blendsim.search.schedule_search import Effort, Found, search_prepared
from blendsim.search.trial import widest
from blendsim.settings import AUTO, Settings
from blendsim.wording import Say


class Searched(NamedTuple):
    """A choice among the fixed policies and what was searched, and how it was found."""

    choice: Choice  # a row a policy and, unless a policy is best, one of the found schedule
    found: Found


def require_auto(settings: Settings) -> None:
    """InputError for a single policy, which leaves nothing to choose."""
    if settings.planner != AUTO:
        raise InputError(
            f"--budget and --evaluations search among all policies, --planner {settings.planner} "
            "takes one; leave out the one or the others"
        )


def choose_and_search(
    workload: Workload,
    settings: Settings,
    effort: Effort,
    progress: Say = lambda _: None,
    stop: Stop = NEVER,
) -> Searched:
    """Plan with every policy, then search on until `stop` says so; never behind a policy by what
    schedules are compared by: predicted seconds, or typical ones of several worlds where lengths
    are not known.
    """
    require_auto(settings)
    start = time.perf_counter()
    problem = prepare(workload, settings, progress)
    trials = try_policies(problem, progress)
    found = search_prepared(problem, effort, progress, start, trials, stop)
    limits = widest(
        [
            *((trial.row.token_budget, trial.bounds) for trial in trials),
            (found.chosen.token_budget, found.bounds),
        ]
    )
    rows = [beside(trial.row, trial.log, limits) for trial in trials]
    if found.is_searched:
        rows.append(beside(found.chosen, found.log, limits))
    at = [row.policy for row in rows].index(found.chosen.policy)
    rows[at] = with_regret(rows[at], rows)
    choice = Choice(
        plan=found.plan,
        chosen=rows[at],
        rows=rows,
        log=found.log,
        bounds=limits,
        advice=advice_on(problem, rows, rows[at], limits, found.log, judged(found)),
        notes=found.notes,
        caveats=found.caveats,
    )
    return Searched(choice, found)


def judged(found: Found) -> Judged | None:
    """What the choice went by, where it was not the drawn lengths."""
    if not found.worlds:
        return None
    return Judged(found.worlds, {**found.fixed_seconds, found.chosen.policy: found.seconds})
