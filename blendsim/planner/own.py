"""An order of one's own: any plan of a pool, with its requests as somebody lists them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.plan import IN_ORDER, Plan
from blendsim.planner.make import POLICIES
from blendsim.planner.sample import AUTO

Order = Sequence[int] | Ints  # row numbers of a workload, each once


def require_name(name: str) -> None:
    """InputError for what an order of one's own cannot be called."""
    if not name.strip():
        raise InputError("an order of your own needs a name, and this one's is empty; give one")
    if name != name.strip() or not name.isprintable():
        raise InputError(
            f"an order of your own called {name!r}: a name is one line of printable text without "
            "blanks around it; give it another name"
        )
    if name.casefold() in (*POLICIES, AUTO):
        raise InputError(
            f"an order of your own called {name!r} would pass for a plan of that policy; give "
            "it another name"
        )


def reordered(plan: Plan, order: Order, policy: str = "own") -> Plan:
    """The requests of `plan` in an order of your own: `order` lists the workload's rows, each once,
    and they are admitted as listed, sampled ones too. Of a plan for several ranks each keeps its
    requests and runs them in this order. `policy` is what the plan is called:
    any name but those of our policies, whose plans have more than an order.

    InputError if the order is no permutation of the rows, or the name is taken.
    """
    require_name(policy)
    rows = np.asarray(order)
    n = len(plan)
    if rows.shape != (n,) or not np.issubdtype(rows.dtype, np.integer):
        raise InputError(
            f"order {policy!r}: an order of {n} requests is {n} row numbers in one line, not "
            f"{rows.dtype} of shape {rows.shape}"
        )
    if (wrong := rows[(rows < 0) | (rows >= n)]).size:
        raise InputError(f"order {policy!r} names row {wrong[0]}; rows are 0 to {n - 1}")
    times = np.bincount(rows, minlength=n)
    if (wrong := np.flatnonzero(times > 1)).size:
        raise InputError(
            f"order {policy!r} names row {wrong[0]} {times[wrong[0]]} times; name every row once"
        )
    at = np.empty(n, np.int64)
    at[plan.order] = np.arange(n)
    place = at[rows]
    place = place[np.argsort(plan.rank[place], kind="stable")]
    columns = ("order", "rank", "is_visible", "expected_output", "density")
    # NOTE: nothing is first: who is said to be would have to stand before all others of its rank.
    made = replace(
        plan,
        policy=policy,
        admission=IN_ORDER,
        is_first=np.zeros(n, np.bool_),
        pacing=None,
        **{name: getattr(plan, name)[place] for name in columns},
    )
    made.check()
    return made
