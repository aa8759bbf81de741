"""Partition a plan over data-parallel replicas: equal work for each, cut where the plan's order
allows (§5.5). Only the prefixes that a cut goes through are shared less.
"""

import numpy as np

from blendsim.errors import InputError
from blendsim.perf.density import RequestCosts
from blendsim.perf.shares import cut_line, equal
from blendsim.plan import DUAL_SCAN, Plan, deal
from blendsim.prefix import SortedPrompts, shareable_tokens, subset
from blendsim.report.tables import counted
from blendsim.request import Workload


def partition(plan: Plan, costs: RequestCosts, ranks: int) -> Plan:
    """`plan`, made for one replica, over `ranks` of them; `costs` has a row a request of the
    workload.

    The sampled requests are dealt out first, then the rest. A rank may stay empty where others hold
    requests of more than an equal share each.
    """
    if ranks > len(plan):
        raise InputError(
            f"{ranks:,} ranks are more than the pool's {counted(len(plan), 'request')}; "
            f"give at most {len(plan):,}"
        )
    rank = cut_line(
        costs.compute[plan.order],
        costs.memory[plan.order],
        int(plan.is_first.sum()),
        plan.admission == DUAL_SCAN,
        equal(ranks),
    )
    return deal(plan, rank)


def sharing_lost(plan: Plan, workload: Workload, prompts: SortedPrompts, block_tokens: int) -> int:
    """Prompt tokens that the whole pool can share, in full blocks, and the plan's ranks on their
    own cannot.
    """
    kept = sum(
        shareable_tokens(workload, subset(prompts, plan.order[plan.rank == rank]), block_tokens)
        for rank in np.unique(plan.rank)
    )
    return shareable_tokens(workload, prompts, block_tokens) - kept
