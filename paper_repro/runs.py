"""Simulated runs as rows of a result table: systems on pools, at the common token budget and at
each system's own best.
"""

from collections.abc import Sequence
from typing import Any

from blendsim import search
from blendsim.report.metrics import Row
from blendsim.request import Workload
from blendsim.settings import Settings
from paper_repro.lab import Lab
from paper_repro.systems import system
from paper_repro.table import Cell, Table

TRACES = ("trace1", "trace2", "trace3", "trace4")
COMMON, OWN = "common", "own best"  # which token budget a row is at


def compared(
    lab: Lab, traces: Sequence[str], names: Sequence[str], same_pool: bool = False, **changes: Any
) -> Table:
    """Every system on every trace, two rows each (column `at`): at the common budget and at its own
    best one. `changes` are those of the settings.

    A trace has its density on the system it runs on, or with `same_pool` on the paper's, so that
    the requests are the same as there.
    """
    rows: list[dict[str, Cell]] = []
    for trace in traces:
        inputs = {"trace": trace, "systems": list(names), "same_pool": same_pool, **changes}
        table = lab.kept(
            "compared", inputs, lambda t=trace: _compared(lab, t, names, same_pool, changes)
        )
        rows += table.records()
    return Table.of(rows)


def _compared(
    lab: Lab, trace: str, names: Sequence[str], same_pool: bool, changes: dict[str, Any]
) -> Table:
    settings = lab.settings(**changes)
    pool = lab.pool(trace, system=None if same_pool else settings.system)
    done = search.compare(pool, settings, [system(name) for name in names])
    return Table.of(
        [
            told(row, trace=trace, at=at)
            for at, rows in ((COMMON, done.common), (OWN, done.rows))
            for row in rows
        ]
    )


def planned(workload: Workload, settings: Settings, policy: str) -> Row:
    """One policy on a pool, on the settings' own engine and token budget."""
    return search.choose(workload, _with_planner(settings, policy)).chosen


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
        "share_of_optimum": row.share_of_optimum,
        "share_of_reachable": row.share_of_reachable,
        "sharing_ratio": row.sharing_ratio,
        "sharing_optimum": row.sharing_optimum,
        "density": row.density,
        "preempted_tokens": row.preempted_tokens,
        "kv_use": row.kv_use,
        "steps": row.steps,
    }


def _with_planner(settings: Settings, policy: str) -> Settings:
    from dataclasses import replace

    return replace(settings, planner=policy)
