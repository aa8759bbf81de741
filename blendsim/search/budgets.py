"""The best of several policies, and of several token budgets and running limits beside an engine's
own: which are tried, and when another one is worth taking.

Orders do not depend on either, so a plan is made once and only run again.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.planner.make import LONGEST_FIRST, PACED
from blendsim.search.judging import judge, sure_gain
from blendsim.search.problem import Problem, with_worlds
from blendsim.search.trial import find_engine
from blendsim.search.world_run import timed_in
from blendsim.serving.flavour import PROMPT_FITS, Flavour
from blendsim.settings import AUTO

#: Tokens a step that are tried. Blended order is often best at 384 or 512, at times at 256.
BUDGETS = (256, 384, 512, 1_024, 2_048, 4_096, 8_192)
#: Tried where the least of those is best, as blended order's is of 40,000 requests whose few
#: longest fill the KV cache to the end. They take the most steps to simulate, so not otherwise.
SMALLER_BUDGETS = (192, 128)
#: Requests at once that are tried beneath an engine's own limit where it preempts. With 24 and
#: 32 GB of KV memory on an H200 vLLM took less at 320 and 384 than at 1,024 (docs/serving.md).
RUNNING_LIMITS = (96, 128, 192, 256, 320, 384, 512, 768)
#: Share of the predicted seconds that another budget or limit must gain to be taken.
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
_PREFERRED = ("dfs", *LONGEST_FIRST, "blend", PACED, "fcfs", "random")
#: A policy is tried at other budgets where it is behind the best by at most this share of the
#: seconds: at another budget it may be ahead. And no more of them than so many, the best included.
#: In a pipeline all are, since how long stages wait hangs on both: on four stages prefix order took
#: 28 % more than the longest first at 8,192 tokens a step, and 5 % less at 512 (docs/pipeline.md).
CLOSE, MOST_LEADING = 0.01, 3


class Contender(NamedTuple):
    """A policy's plan and what it takes at the engine's own budget, by prediction."""

    policy: str
    plan: Plan
    seconds: float


class _Run(NamedTuple):
    """A contender on an engine, and what it takes there by prediction."""

    contender: Contender
    engine: Flavour
    seconds: float
    preempts: bool | None = None  # None: not looked at


_Pair = tuple[Contender, Flavour]


def leading_runs(problem: Problem, runs: Sequence[Contender]) -> list[Contender]:
    """Of the policies' runs the one to choose, and then those that are close to it (in a pipeline
    all), the fastest first, and the one with the longest answers first: what that gains, it gains
    where fewer run at once. The fastest is chosen, but where lengths are not known, of those that
    tie with it the preferred.
    """
    ranked = sorted(runs, key=lambda run: (run.seconds, _place(run.policy)))
    least = ranked[0].seconds
    chosen = ranked[0]
    if not problem.lengths.is_visible.all():
        ties = [run for run in ranked if run.seconds <= least * (1 + TIE)]
        chosen = min(ties, key=lambda run: _place(run.policy))
    leading = {chosen.seconds: chosen}  # one of those that take equally long: they are one run
    is_pipelined = problem.settings.pp > 1
    for run in ranked:
        if is_pipelined or run.seconds <= least * (1 + CLOSE):
            leading.setdefault(run.seconds, run)
    found = list(leading.values())
    if not is_pipelined:
        found = found[:MOST_LEADING]
    seconds = [run.seconds for run in found]
    others = (run for run in ranked if run.policy in LONGEST_FIRST and run.seconds not in seconds)
    return [*found, *others]


def can_run_at(problem: Problem, token_budget: int) -> bool:
    """Whether the kernel profile reaches that far, and a step has a token for every request that
    the knobs let run at once. A running limit that is asked for gives way to the budget.
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


def smaller_budgets(problem: Problem, best: int) -> list[int]:
    """Those to try beneath a `best` one: none where that is not the least of all, is asked for, or
    prefill and decode have pools of their own.
    """
    settings = problem.settings
    if best != BUDGETS[0] or settings.token_budget or settings.cluster.is_disaggregated:
        return []
    return [n for n in SMALLER_BUDGETS if can_run_at(problem, n)]


def other_budgets(problem: Problem, own: int) -> list[int]:
    """Those beside the engine's `own` that the best policies are tried at: none for a policy or a
    budget that is asked for, nor where prefill and decode have pools of their own, since those take
    long to simulate.
    """
    settings = problem.settings
    if settings.planner != AUTO or settings.token_budget or settings.cluster.is_disaggregated:
        return []
    return [n for n in covered_budgets(problem) if n != own]


def lower_limits(problem: Problem, engines: Iterable[Flavour]) -> list[Flavour]:
    """The engines at the running limits below their own that are worth trying where they preempt:
    none for one that admits by predicted peak, which seldom does and has not gained by them, for a
    limit that is asked for, nor where prefill and decode have pools of their own.
    """
    settings = problem.settings
    is_asked = settings.max_running or settings.knobs.max_num_active_seqs
    if is_asked or settings.cluster.is_disaggregated:
        return []
    return [
        find_engine(problem, one.name, one.token_budget, most)
        for one in dict.fromkeys(engines)
        if one.admission == PROMPT_FITS
        for most in RUNNING_LIMITS
        if most < one.max_running
    ]


def gains_by_fewer(policy: str, *, preempts: bool) -> bool:
    """Whether a run of this policy may gain where fewer run at once: where it preempts, and with
    the longest answers first, since few of those at a time leave short ones to compute beside them
    all along.
    """
    return preempts or policy in LONGEST_FIRST


def tries_others(problem: Problem, flavour: Flavour) -> bool:
    """Whether the best policies are tried at other token budgets or running limits."""
    is_limited = problem.settings.planner == AUTO and bool(lower_limits(problem, [flavour]))
    return is_limited or bool(other_budgets(problem, flavour.token_budget))


def better_run(
    problem: Problem, leading: Sequence[Contender], flavour: Flavour
) -> tuple[Contender, Flavour] | None:
    """Of the `leading` runs at the budget of `flavour`, the chosen one first, the one that is
    fastest by prediction at another token budget, and the engine at that budget, if it gains enough
    over the chosen one; where lengths are not known, what surely gains in other possible worlds. If
    that is the least budget, the same of smaller ones. Then the same of what is best so far at
    lower running limits, if it preempts or has the longest answers first. True lengths are not
    looked at.
    """
    usual = _Run(leading[0], flavour, leading[0].seconds)
    best = _at_budgets(problem, leading, usual, other_budgets(problem, flavour.token_budget))
    if problem.settings.planner == AUTO:
        smaller = smaller_budgets(problem, best.engine.token_budget)
        best = _at_budgets(problem, leading, best, smaller)
    best = _limited(problem, leading, best, flavour) or best
    return None if best is usual else (best.contender, best.engine)


def _at_budgets(
    problem: Problem, leading: Sequence[Contender], best: _Run, budgets: Sequence[int]
) -> _Run:
    """What gains enough over the `best` run at one of the budgets, else that."""
    engines = [find_engine(problem, best.engine.name, budget) for budget in budgets]
    gaining = _gaining(problem, best, [(run, engine) for run in leading for engine in engines])
    return _taken(problem, best, gaining) or best


def _limited(
    problem: Problem, leading: Sequence[Contender], best: _Run, own: Flavour
) -> _Run | None:
    """What gains enough over the `best` run at a lower running limit, at its budget or at that of
    the engine's `own` rules: its plan and others of the `leading` ones as far as they may gain by
    it (`gains_by_fewer`); or where these gain another of them.
    """
    lower = lower_limits(problem, [best.engine, own]) if problem.settings.planner == AUTO else []
    if not lower:
        return None
    preempts = best.preempts
    if preempts is None:
        plan = best.contender.plan
        preempts = timed_in(problem, plan, best.engine, problem.drawn).preempts
    tried = [
        run
        for run in leading
        if gains_by_fewer(run.policy, preempts=preempts and run is best.contender)
    ]
    gaining = _gaining(problem, best, [(run, engine) for run in tried for engine in lower])
    engines = dict.fromkeys(run.engine for run in gaining)
    others = [run for run in leading if run not in tried]
    gaining += _gaining(problem, best, [(run, engine) for run in others for engine in engines])
    return _taken(problem, best, gaining)


def _gaining(problem: Problem, usual: _Run, pairs: Sequence[_Pair]) -> list[_Run]:
    """The runs that gain enough over the `usual` one by prediction."""
    tried = on_all_cores(
        lambda pair: timed_in(problem, pair[0].plan, pair[1], problem.drawn), pairs
    )
    return [
        _Run(*pair, *took)
        for pair, took in zip(pairs, tried, strict=True)
        if took.seconds <= usual.seconds * (1 - WORTH)
    ]


def _taken(problem: Problem, usual: _Run, gaining: Sequence[_Run]) -> _Run | None:
    """The fastest of what gains over the `usual` run; where lengths are not known, what surely
    gains most.
    """
    if not gaining:
        return None
    # Of those that take equally long the first.
    fastest = {run.seconds: run for run in reversed(gaining)}
    ranked = [fastest[seconds] for seconds in sorted(fastest)]
    worlds = with_worlds(problem, CHOOSING_WORLDS).worlds[:CHOOSING_WORLDS]
    return _surest(problem, usual, ranked, worlds) if worlds else ranked[0]


def _surest(
    problem: Problem,
    usual: _Run,
    others: Sequence[_Run],
    worlds: Sequence[Ints],
) -> _Run | None:
    """Of `others` what surely gains in these worlds, if anything does: the `usual` run at the
    limits at which it surely gains most, unless another surely gains more than a tie over that. The
    best of many by a few worlds is best by luck, so that it has to be better than one of them.
    """

    def run(tasks: Sequence[tuple[_Run, int]]) -> list[float]:
        def seconds(task: tuple[_Run, int]) -> float:
            one, k = task
            return timed_in(problem, one.contender.plan, one.engine, worlds[k]).seconds

        return on_all_cores(seconds, tasks)

    before = np.log(run([(usual, k) for k in range(len(worlds))]))
    logs = judge(others, len(worlds), run, before).logs
    best, reference, gain = None, before, 0.0
    for one, after in zip(others, logs, strict=True):
        is_usual = one.contender is usual.contender
        if is_usual and (more := sure_gain(before, after)) > gain:
            best, reference, gain = one, after, more
    gain = TIE
    for one, after in zip(others, logs, strict=True):
        is_usual = one.contender is usual.contender
        if not is_usual and (more := sure_gain(reference, after)) > gain:
            best, gain = one, more
    return best
