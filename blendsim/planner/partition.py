"""Partition a plan over data-parallel replicas: equal work for each, cut where the plan's order
allows (§5.5). Only the prefixes that a cut goes through are shared less.
"""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.cutting import cut_line, deal_runs, equal
from blendsim.errors import InputError
from blendsim.perf.density import RequestCosts
from blendsim.plan import DUAL_SCAN, Plan, deal
from blendsim.planner.make import LONGEST_FIRST
from blendsim.prefix import SortedPrompts, shareable_tokens, subset
from blendsim.request import Workload
from blendsim.wording import counted

PIECES = 16  # of a rank's work, where a line or a node is dealt out in pieces


def partition(
    plan: Plan,
    costs: RequestCosts,
    ranks: int,
    waits: bool = False,
    shares: Floats | None = None,
) -> Plan:
    """`plan`, made for one replica, over `ranks` of them; `costs` has a row a request of the
    workload. Work is equal, or as the `shares` of ranks that do not wait.

    The sampled requests are dealt out first, then the rest. A rank may stay empty where others hold
    requests of more than an equal share each.

    Where lengths are not known work is equal by what is expected, and what is expected may be wrong
    in one way for a whole stretch of a line that is sorted by it, as where only prompts tell
    requests apart and answers go with prompts. So these requests of a line for both ends are dealt
    out node by node, and every rank gets a sample of all stretches. So are those of a line that has
    what is longest first, in pieces.

    Where each of them `waits` for the others in every step, all get a sample of the whole line: it
    is cut into pieces that they take by turns, so that they are at about the same part of it.
    """
    if ranks > len(plan):
        raise InputError(
            f"{ranks:,} ranks are more than the pool's {counted(len(plan), 'request')}; "
            f"give at most {len(plan):,}"
        )
    compute, memory = costs.compute[plan.order], costs.memory[plan.order]
    first, is_dual = int(plan.is_first.sum()), plan.admission == DUAL_SCAN
    rank = np.empty(len(plan), np.int64)
    is_sorted = plan.policy in LONGEST_FIRST and not waits
    is_dealt = ~plan.is_first if is_sorted else ~plan.is_visible & is_dual
    seen = np.flatnonzero(~is_dealt)
    turns = min(PIECES, len(plan) // ranks) if waits else 1
    assert shares is None or not waits, "ranks that wait for each other take equal turns"
    ends = equal(turns * ranks) if shares is None else np.cumsum(shares)[:-1] / shares.sum()
    rank[seen] = cut_line(compute[seen], memory[seen], first, is_dual, ends) % ranks
    # From the last on, which is the memory-heavy end: what is longest is dealt before what can make
    # up for it.
    line = np.flatnonzero(is_dealt)
    line = line[::-1] if is_sorted else line[np.argsort(-plan.density[line], kind="stable")]
    work = (compute + memory)[line]
    node = np.cumsum(np.diff(plan.density[line], prepend=np.inf) != 0)
    if is_sorted:
        node = -_shrinking(work[::-1], ranks)[::-1]
    rank[line] = deal_runs(work, node, ranks, float(work.sum()) / (ranks * PIECES), shares)
    return deal(plan, rank)


def _shrinking(work: Floats, ranks: int) -> Ints:
    """A number for each row of a line, rising, the same within a piece. Pieces are equal up to the
    last of it, where they shrink until ranks come out even (guided self-scheduling:
    Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987).
    """
    held = np.cumsum(work)
    total, starts = float(held[-1]) if len(held) else 0.0, [0]
    while starts[-1] < len(work):
        before = float(held[starts[-1] - 1]) if starts[-1] else 0.0
        size = min(total / (ranks * PIECES), (total - before) / (2 * ranks))
        end = int(np.searchsorted(held, before + size, side="right"))
        starts.append(max(end, starts[-1] + 1))
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def sharing_lost(plan: Plan, workload: Workload, prompts: SortedPrompts, block_tokens: int) -> int:
    """Prompt tokens that the whole pool can share, in full blocks, and the plan's ranks on their
    own cannot.
    """
    kept = sum(
        shareable_tokens(workload, subset(prompts, plan.order[plan.rank == rank]), block_tokens)
        for rank in np.unique(plan.rank)
    )
    return shareable_tokens(workload, prompts, block_tokens) - kept
