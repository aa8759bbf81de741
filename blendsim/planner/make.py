"""From policy names to plans. Every policy runs the sampled requests first, then the rest."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.errors import UnknownName
from blendsim.perf.density import RequestCosts
from blendsim.plan import DUAL_SCAN, IN_ORDER, Plan
from blendsim.planner.blend import BOTH_ENDS, MEMORY_FIRST, BlendSettings, blend
from blendsim.planner.even import evened
from blendsim.planner.lengths import Lengths
from blendsim.planner.orders import dfs, fcfs, shuffled
from blendsim.planner.tree import Floats, PoolTree, density, node_costs, pool_tree
from blendsim.prefix import SortedPrompts
from blendsim.request import Ints, Workload

PACED = "paced"


def make_plan(
    policy: str,
    workload: Workload,
    prompts: SortedPrompts,
    lengths: Lengths,
    costs: RequestCosts,
    settings: BlendSettings,
    seed: int,
    meta: Mapping[str, Any],
) -> Plan:
    """The plan of `policy` (one of `POLICIES`) for the whole workload.

    `costs` are those of the expected lengths; no output length that is not visible is read. The
    plan's meta is `meta`, the seed and what the policy says about its order.
    """
    if policy not in _POLICIES:
        raise UnknownName("policy", policy, POLICIES)
    tree = pool_tree(workload, prompts, settings.block_tokens)
    whole = node_costs(tree, costs)
    leaf = np.empty(len(workload))
    leaf[tree.order] = density(whole.leaf_compute, whole.leaf_memory)
    root = float(density(whole.compute[:1], whole.memory[:1])[0])
    rng = np.random.default_rng((seed, POLICIES.index(policy)))
    scene = _Scene(workload, prompts, tree, costs, leaf, root, ~lengths.is_sampled, settings, rng)
    first = dfs(lengths.is_sampled, tree)
    rest = _POLICIES[policy](scene)
    order = np.concatenate((first, rest.order))
    plan = Plan(
        policy=policy,
        admission=rest.admission,
        order=order,
        rank=np.zeros(len(order), np.int32),  # one replica; partition.py cuts it for several
        is_first=np.arange(len(order)) < len(first),
        is_visible=lengths.is_visible[order],
        expected_output=lengths.expected[order],
        density=np.concatenate((leaf[first], rest.density)),
        root_density=rest.root_density,
        workload_hash=lengths.workload_hash,
        meta={**meta, "seed": seed, **rest.facts},
    )
    plan.check()
    return plan


class _Scene(NamedTuple):
    """What an order may be made from."""

    workload: Workload
    prompts: SortedPrompts
    tree: PoolTree  # of all requests, in full blocks
    costs: RequestCosts
    density: Floats  # (n,) ρ of each request, its share of prefixes included
    root_density: float
    rest: NDArray[np.bool_]  # (n,) requests to be ordered: all but the sampled
    settings: BlendSettings
    rng: np.random.Generator


class _Ordered(NamedTuple):
    """The requests that were to be ordered, and how they are admitted."""

    order: Ints
    density: Floats  # ρ of each one's node, in that order
    admission: str
    root_density: float  # of the requests that this admission balances
    facts: Mapping[str, Any]  # for the plan's meta


def _fcfs(scene: _Scene) -> _Ordered:
    return _in_order(fcfs(scene.rest), scene)


def _random(scene: _Scene) -> _Ordered:
    return _in_order(shuffled(scene.rest, scene.rng), scene)


def _dfs(scene: _Scene) -> _Ordered:
    return _in_order(dfs(scene.rest, scene.tree), scene)


def _in_order(order: Ints, scene: _Scene) -> _Ordered:
    return _Ordered(order, scene.density[order], IN_ORDER, scene.root_density, {})


def _blend(scene: _Scene) -> _Ordered:
    if not scene.rest.any():  # all were sampled: nothing is left to blend
        return _Ordered(fcfs(scene.rest), np.zeros(0), DUAL_SCAN, scene.root_density, {})
    done = blend(scene.workload, scene.prompts, scene.rest, scene.costs, scene.settings)
    columns = ("order", "density", "root_density")
    facts = {key: value for key, value in done._asdict().items() if key not in columns}
    admission = DUAL_SCAN if scene.settings.ends == BOTH_ENDS else IN_ORDER
    way = -1 if scene.settings.ends == MEMORY_FIRST else 1
    order, rho = done.order[::way], done.density[::way]
    return _Ordered(order, rho, admission, done.root_density, {"arrange": facts})


def _paced(scene: _Scene) -> _Ordered:
    """As `blend`; pace.py chooses what its steps compute."""
    done = _blend(scene)
    if done.admission != DUAL_SCAN:
        return done
    places = evened(done.density, done.root_density)
    return done._replace(order=done.order[places], density=done.density[places])


_POLICIES: dict[str, Callable[[_Scene], _Ordered]] = {
    "fcfs": _fcfs,
    "random": _random,
    "dfs": _dfs,
    "blend": _blend,
    PACED: _paced,
}

POLICIES = tuple(_POLICIES)
