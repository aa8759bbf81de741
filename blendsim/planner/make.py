"""From policy names to plans. Every policy runs the sampled requests first, then the rest."""

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import UnknownName
from blendsim.perf.density import RequestCosts
from blendsim.plan import DUAL_SCAN, IN_ORDER, Plan
from blendsim.planner.blend import BOTH_ENDS, MEMORY_FIRST, BlendSettings, blend
from blendsim.planner.even import evened
from blendsim.planner.lengths import Lengths
from blendsim.planner.orders import dfs, fcfs, longest, shuffled
from blendsim.planner.tree import density, node_costs, pool_tree
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload

PACED = "paced"


class Groundwork:
    """What a pool's plans are made from. What several policies need is computed once; they may be
    planned in threads beside each other.

    `costs` are those of the expected lengths; no output length that is not visible is read.
    """

    def __init__(
        self,
        workload: Workload,
        prompts: SortedPrompts,
        lengths: Lengths,
        costs: RequestCosts,
        settings: BlendSettings,
    ) -> None:
        self.workload, self.prompts, self.costs = workload, prompts, costs
        self.lengths, self.settings = lengths, settings
        self.tree = pool_tree(workload, prompts, settings.block_tokens)  # in full blocks
        whole = node_costs(self.tree, costs)
        #: (n,) ρ of each request, its share of prefixes included
        self.density: Floats = np.empty(len(workload))
        self.density[self.tree.order] = density(whole.leaf_compute, whole.leaf_memory)
        self.root_density = float(density(whole.compute[:1], whole.memory[:1])[0])
        self.rest = ~lengths.is_sampled  # (n,) requests to be ordered
        self._blended: _Ordered | None = None
        self._lock = Lock()

    @property
    def blended(self) -> "_Ordered":
        """The order for both ends, which takes nearly all the time of planning."""
        with self._lock:
            if self._blended is None:
                self._blended = _blend(self)
            return self._blended


def make_plan(policy: str, ground: Groundwork, seed: int, meta: Mapping[str, Any]) -> Plan:
    """The plan of `policy` (one of `POLICIES`) for the whole workload. Its meta is `meta`, the seed
    and what the policy says about its order.
    """
    if policy not in _POLICIES:
        raise UnknownName("policy", policy, POLICIES)
    lengths = ground.lengths
    row = _POLICIES[policy]
    rng = np.random.default_rng((seed, row.stream))
    first = dfs(lengths.is_sampled, ground.tree)
    rest = row.order(ground, rng)
    order = np.concatenate((first, rest.order))
    plan = Plan(
        policy=policy,
        admission=rest.admission,
        order=order,
        rank=np.zeros(len(order), np.int32),  # one replica; partition.py cuts it for several
        is_first=np.arange(len(order)) < len(first),
        is_visible=lengths.is_visible[order],
        expected_output=lengths.expected[order],
        density=np.concatenate((ground.density[first], rest.density)),
        root_density=rest.root_density,
        workload_hash=lengths.workload_hash,
        meta={**meta, "seed": seed, **rest.facts},
    )
    plan.check()
    return plan


class _Ordered(NamedTuple):
    """The requests that were to be ordered, and how they are admitted."""

    order: Ints
    density: Floats  # ρ of each one's node, in that order
    admission: str
    root_density: float  # of the requests that this admission balances
    facts: Mapping[str, Any]  # for the plan's meta


def _fcfs(ground: Groundwork, _: np.random.Generator) -> _Ordered:
    return _in_order(fcfs(ground.rest), ground)


def _random(ground: Groundwork, rng: np.random.Generator) -> _Ordered:
    return _in_order(shuffled(ground.rest, rng), ground)


def _dfs(ground: Groundwork, _: np.random.Generator) -> _Ordered:
    return _in_order(dfs(ground.rest, ground.tree), ground)


def _longest(ground: Groundwork, _: np.random.Generator) -> _Ordered:
    return _in_order(longest(ground.rest, ground.tree, ground.lengths.expected), ground)


def _in_order(order: Ints, ground: Groundwork) -> _Ordered:
    return _Ordered(order, ground.density[order], IN_ORDER, ground.root_density, {})


def _blended(ground: Groundwork, _: np.random.Generator) -> _Ordered:
    return ground.blended


def _blend(ground: Groundwork) -> _Ordered:
    if not ground.rest.any():  # all were sampled: nothing is left to blend
        return _Ordered(fcfs(ground.rest), np.zeros(0), DUAL_SCAN, ground.root_density, {})
    done = blend(ground.workload, ground.prompts, ground.rest, ground.costs, ground.settings)
    columns = ("order", "density", "root_density")
    facts = {key: value for key, value in done._asdict().items() if key not in columns}
    admission = DUAL_SCAN if ground.settings.ends == BOTH_ENDS else IN_ORDER
    way = -1 if ground.settings.ends == MEMORY_FIRST else 1
    order, rho = done.order[::way], done.density[::way]
    return _Ordered(order, rho, admission, done.root_density, {"arrange": facts})


def _paced(ground: Groundwork, _: np.random.Generator) -> _Ordered:
    """As `blend`; pace.py chooses what its steps compute."""
    done = ground.blended
    if done.admission != DUAL_SCAN:
        return done
    is_visible = ground.lengths.is_visible[done.order]
    places = evened(done.density, done.root_density, is_visible)
    return done._replace(order=done.order[places], density=done.density[places])


class _Policy(NamedTuple):
    """The facts of a policy."""

    order: Callable[[Groundwork, np.random.Generator], _Ordered]
    stream: int  # of random numbers beside the seed; never another's, and never changed
    one_line: bool  # for engines that take requests from one line, too
    overlapped: bool = True  # for engines that overlap, too
    longest_first: bool = False  # who is expected to take longest runs first, by subtrees


_POLICIES = {
    "fcfs": _Policy(_fcfs, 0, one_line=True),
    "random": _Policy(_random, 1, one_line=True),
    "dfs": _Policy(_dfs, 2, one_line=True),
    # NOTE: not overlapped, as paced is as fast there.
    "dfs-longest": _Policy(_longest, 5, one_line=True, overlapped=False, longest_first=True),
    "blend": _Policy(_blended, 3, one_line=False),
    PACED: _Policy(_paced, 4, one_line=False),
}

POLICIES = tuple(_POLICIES)  # in the order that tables have them
IN_LINE = tuple(name for name, policy in _POLICIES.items() if policy.one_line)
OVERLAPPED = tuple(name for name, policy in _POLICIES.items() if policy.overlapped)
LONGEST_FIRST = tuple(name for name, policy in _POLICIES.items() if policy.longest_first)


def dearest_first(policies: Iterable[str]) -> list[str]:
    """`policies` as they are planned soonest on several threads: the one that others wait for, and
    that takes longest, before the rest.
    """
    return sorted(policies, key=lambda policy: policy != "blend")
