"""Simulated runs as rows of result tables: systems on pools, at the common token budget and at each
system's own best.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from blendsim import search
from blendsim.report.metrics import Row
from blendsim.request import Workload
from blendsim.search.trial import Trial, block_size, find_bounds, find_engine, find_facts, run_trial
from paper_repro.lab import Lab
from paper_repro.systems import COMMON_BUDGET, system
from paper_repro.table import Cell, Table

TRACES = ("trace1", "trace2", "trace3", "trace4")
COMMON, OWN = "common", "own best"  # which token budget a row is at


def traces(lab: Lab, quick: int = 2) -> tuple[str, ...]:
    """The paper's workloads, or the first ones of them in a quick run."""
    return TRACES[:quick] if lab.quick else TRACES


def compared(
    lab: Lab, trace: str, names: Sequence[str], *, own_best: bool = True, **changes: Any
) -> Table:
    """The systems on one trace, two rows each (column `at`): at the common token budget and at its
    own best one, the latter unless told otherwise or in a quick run. `changes` are of the settings;
    the trace has its density on the system that they give.
    """
    own_best = own_best and not lab.quick
    pool = lab.pool(trace, system=lab.settings(**changes).system)
    return compared_on(lab, pool, names, trace, own_best=own_best, **changes)


def compared_on(
    lab: Lab,
    pool: Workload,
    names: Sequence[str],
    trace: str,
    *,
    own_best: bool = True,
    **changes: Any,
) -> Table:
    """The same for any pool, measured now."""
    settings = lab.settings(token_budget=None if own_best else COMMON_BUDGET, **changes)
    done = search.compare(pool, settings, [system(name) for name in names])
    kinds = [(COMMON, done.common), (OWN, done.rows)] if own_best else [(COMMON, done.common)]
    return Table.of([told(row, trace=trace, at=at) for at, rows in kinds for row in rows])


def trials(problem: search.Problem, policies: Sequence[str]) -> dict[str, Trial]:
    """Each policy planned and simulated on the problem's own engine."""
    flavour = find_engine(problem, problem.settings.engine)
    block = block_size(problem, [flavour])
    limits = find_bounds(problem, flavour.token_budget, block)
    facts = find_facts(problem, limits.work)
    return {
        policy: run_trial(
            problem, search.plan_policy(problem, policy), policy, flavour, limits, facts
        )
        for policy in policies
    }


def told(row: Row, **first: Cell) -> dict[str, Cell]:
    """A simulated run as a record, after the cells that say which run it is."""
    return {
        **first,
        "system": row.policy,
        "token_budget": row.token_budget,
        "gpus": row.gpus,
        "requests": row.requests,
        "seconds": row.reported_seconds,
        "tokens_per_second": row.tokens_per_second,
        "optimum_tokens_per_second": row.tokens_per_second / row.share_of_optimum,
        "share_of_optimum": row.share_of_optimum,
        "share_of_reachable": row.share_of_reachable,
        "sharing_ratio": row.sharing_ratio,
        "sharing_optimum": row.sharing_optimum,
        "density": row.density,
        "preempted_tokens": row.preempted_tokens,
        "kv_use": row.kv_use,
        "steps": row.steps,
    }


def joined(tables: Sequence[Table], **first: Cell) -> Table:
    """Tables of the same columns one under the other, after the cells that say what they are of."""
    return Table.of([{**first, **row} for table in tables for row in table.records()])


def with_longest(pool: Workload, longest: int) -> Workload:
    """The pool with outputs of at most `longest` tokens."""
    short = pool.output_len.clip(max=longest)
    return replace(pool, output_len=short)
