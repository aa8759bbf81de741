"""The best of several policies, and of several token budgets beside an engine's own: which are
tried, and when another one is worth taking.

Orders do not depend on the budget, so a plan is made once and only run again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.planner.make import PACED
from blendsim.search.judging import judge, sure_gain
from blendsim.search.problem import Problem, with_worlds
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import AUTO

#: Tokens a step that are tried. Blended order is often best at 384 or 512, at times at 256.
BUDGETS = (256, 384, 512, 1_024, 2_048, 4_096, 8_192)
#: Share of the predicted seconds that another budget must gain to be taken.
WORTH = 0.005
#: In which a budget that gains by prediction must gain too where lengths are not known. Drawn
#: lengths are one world of many: 512 tokens a step gained 1.0 % in one of trace2 on an H200 with
#: 1 % sampled, and lost 2.6 % in the mean of eight others and 9.7 % on the true lengths. Every
#: world costs a run a budget, so there are fewer than a search takes.
CHOOSING_WORLDS = 4
#: Share of the seconds by which policies differ by chance where lengths are not known.
TIE = 0.002
#: Of policies that tie. The first ones keep prefixes together, the simplest of them first; one that
#: is not among them comes after all.
_PREFERRED = ("dfs", "blend", PACED, "fcfs", "random")
#: A policy is tried at other budgets where it is behind the best by at most this share of the
#: seconds: at another budget it may be ahead. And no more of them than so many, the best included.
CLOSE, MOST_LEADING = 0.01, 3


class Contender(NamedTuple):
    """A policy's plan and what it takes at the engine's own budget, by prediction."""

    policy: str
    plan: Plan
    seconds: float


def leading_runs(problem: Problem, runs: Sequence[Contender]) -> list[Contender]:
    """Of the policies' runs the one to choose, and then those that are close to it, the fastest
    first. The fastest is chosen, but where lengths are not known, of those that tie with it the
    preferred.
    """
    ranked = sorted(runs, key=lambda run: (run.seconds, _place(run.policy)))
    least = ranked[0].seconds
    chosen = ranked[0]
    if not problem.lengths.is_visible.all():
        ties = [run for run in ranked if run.seconds <= least * (1 + TIE)]
        chosen = min(ties, key=lambda run: _place(run.policy))
    leading = {chosen.seconds: chosen}  # one of those that take equally long: they are one run
    for run in ranked:
        if run.seconds <= least * (1 + CLOSE):
            leading.setdefault(run.seconds, run)
    return list(leading.values())[:MOST_LEADING]


def can_run_at(problem: Problem, token_budget: int) -> bool:
    """Whether the kernel profile reaches that far, and a step has a token for every request that
    the knobs let run at once.
    """
    least = problem.settings.knobs.max_num_active_seqs or 1
    return least <= token_budget <= problem.model.coverage.tokens


def _place(policy: str) -> int:
    """Where a policy comes among those that tie."""
    return _PREFERRED.index(policy) if policy in _PREFERRED else len(_PREFERRED)


def covered_budgets(problem: Problem) -> list[int]:
    """The asked token budget alone, else all that runs are possible at."""
    asked = problem.settings.token_budget
    return [asked] if asked else [n for n in BUDGETS if can_run_at(problem, n)]


def other_budgets(problem: Problem, own: int) -> list[int]:
    """Those beside the engine's `own` that the best policies are tried at: none for a policy or a
    budget that is asked for, nor where prefill and decode have pools of their own, since those take
    long to simulate.
    """
    settings = problem.settings
    if settings.planner != AUTO or settings.token_budget or settings.cluster.is_disaggregated:
        return []
    return [n for n in covered_budgets(problem) if n != own]


def better_run(
    problem: Problem, leading: Sequence[Contender], flavour: Flavour
) -> tuple[Contender, Flavour] | None:
    """Of the `leading` runs at the budget of `flavour`, the chosen one first, the one that is
    fastest by prediction at another token budget, and the engine at that budget, if it gains enough
    over the chosen one; where lengths are not known, what surely gains in other possible worlds.
    True lengths are not looked at.
    """
    budgets = other_budgets(problem, flavour.token_budget)
    engines = [find_engine(problem, flavour.name, budget) for budget in budgets]
    pairs = [(run, engine) for run in leading for engine in engines]
    tried = on_all_cores(
        lambda pair: seconds_in(problem, pair[0].plan, pair[1], problem.drawn), pairs
    )
    # Of those that take equally long the first.
    gaining: dict[float, tuple[Contender, Flavour]] = {}
    for pair, took in zip(pairs, tried, strict=True):
        if took <= leading[0].seconds * (1 - WORTH):
            gaining.setdefault(took, pair)
    if not gaining:
        return None
    ranked = [gaining[took] for took in sorted(gaining)]
    worlds = with_worlds(problem, CHOOSING_WORLDS).worlds[:CHOOSING_WORLDS]
    usual = (leading[0], flavour)
    return _surest(problem, usual, ranked, worlds) if worlds else ranked[0]


def _surest(
    problem: Problem,
    usual: tuple[Contender, Flavour],
    others: Sequence[tuple[Contender, Flavour]],
    worlds: Sequence[Ints],
) -> tuple[Contender, Flavour] | None:
    """Of `others` what surely gains in these worlds, if anything does: the `usual` run at the
    budget at which it surely gains most, unless another surely gains more than a tie over that. The
    best of many by a few worlds is best by luck, so that it has to be better than one of them.
    """

    def run(tasks: Sequence[tuple[tuple[Contender, Flavour], int]]) -> list[float]:
        def seconds(task: tuple[tuple[Contender, Flavour], int]) -> float:
            (one, engine), k = task
            return seconds_in(problem, one.plan, engine, worlds[k])

        return on_all_cores(seconds, tasks)

    before = np.log(run([(usual, k) for k in range(len(worlds))]))
    logs = judge(others, len(worlds), run, before).logs
    best, reference, gain = None, before, 0.0
    for pair, after in zip(others, logs, strict=True):
        if pair[0] is usual[0] and (more := sure_gain(before, after)) > gain:
            best, reference, gain = pair, after, more
    gain = TIE
    for pair, after in zip(others, logs, strict=True):
        if pair[0] is not usual[0] and (more := sure_gain(reference, after)) > gain:
            best, gain = pair, more
    return best
