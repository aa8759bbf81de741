"""A pool on a system, prepared once: prompts sorted, lengths estimated, steps priced. Plans are
made from it.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np

from blendsim import __version__
from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError, ProfileError
from blendsim.perf.density import RequestCosts, closed_form
from blendsim.perf.measured import chosen_model
from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.planner.blend import BlendSettings
from blendsim.planner.lengths import Lengths
from blendsim.planner.make import PACED, Groundwork, make_plan
from blendsim.planner.outlook import (
    Outlook,
    look_ahead,
    possible_worlds,
    reported_lengths,
    sort_pool,
)
from blendsim.planner.pace import pace
from blendsim.planner.partition import partition, sharing_lost
from blendsim.planner.together import share_reads
from blendsim.planner.tree import PoolTree
from blendsim.prefix import SortedPrompts, shared_tokens
from blendsim.request import Workload
from blendsim.search.balance import balanced
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.settings import Settings, model_kept
from blendsim.sim.run import require_modelled
from blendsim.sim.timing import rank_ends
from blendsim.traces.limits import without_oversize
from blendsim.wording import Lacking, Say

BALANCING_WORLDS = 4  # in which ranks are to end together, where lengths are not known


class Problem(NamedTuple):
    """A pool on a system: all that planning and simulating it needs, computed once."""

    workload: Workload
    prompts: SortedPrompts
    tree: PoolTree  # token by token, of who is answered too: along it lengths are estimated, drawn
    settings: Settings
    model: StepModel
    lengths: Lengths
    drawn: Ints  # (n,) outputs to predict by: as varied as the sample, true where visible
    costs: RequestCosts  # of the expected lengths, in closed form
    worlds: tuple[Ints, ...] = ()  # (n,) each; more outputs to judge by, as far as they are drawn

    @property
    def true_lengths(self) -> Ints:
        """Output lengths to report on: the trace's, or the drawn ones where it gives none."""
        return reported_lengths(self.workload, self.drawn)

    @property
    def notes(self) -> list[str]:
        """What was read and guessed of the pool. Where no request has an output length, what is
        expected of them tells of it, and reading it need not.
        """
        read: list[str] = list(self.workload.notes)
        if self.lengths.notes and not self.workload.has_output.any():
            read = [note for note in read if not isinstance(note, Lacking)]
        return [*read, *self.lengths.notes]


def prepare(workload: Workload, settings: Settings, progress: Say = lambda _: None) -> Problem:
    """Sort prompts, sample and estimate output lengths, build the step model. OversizeError if a
    request is longer than what the system holds; `traces.limits.without_oversize` drops those.
    """
    system = settings.system
    without_oversize(workload, system.longest_request, skip=False)
    model = chosen_model(system, settings.overlap, settings.profile)
    progress("sorting prompts by prefix")
    prompts, tree = sort_pool(workload)
    progress("estimating output lengths")
    return expect(workload, prompts, tree, settings, model)


def expect(
    workload: Workload, prompts: SortedPrompts, tree: PoolTree, settings: Settings, model: StepModel
) -> Problem:
    """What `prepare` does once prompts are sorted: sample, estimate and draw output lengths."""
    system = settings.system
    lengths, drawn = look_ahead(
        workload,
        tree,
        system,
        settings.sample,
        settings.seed,
        settings.length_rule,
        settings.output_guess,
    )
    costs = costs_of(workload, prompts, settings, lengths.expected)
    return Problem(workload, prompts, tree, settings, model, lengths, drawn, costs)


def with_worlds(problem: Problem, count: int) -> Problem:
    """The problem with at least `count` possible worlds to judge schedules by; with none where
    lengths leave only one. A problem's worlds are always the same ones in the same order, so that
    one that has enough of them is handed back.
    """
    if len(problem.worlds) >= count:
        return problem
    settings, workload = problem.settings, problem.workload
    worlds = possible_worlds(
        workload,
        problem.tree,
        settings.system,
        problem.lengths,
        count,
        settings.seed,
        settings.length_rule,
    )
    return problem._replace(worlds=worlds)


def costs_of(
    workload: Workload, prompts: SortedPrompts, settings: Settings, expected: Ints
) -> RequestCosts:
    """What requests of these lengths cost, in closed form."""
    # NOTE: the closed form counts KV held for d steps, p·d + d²/2, which is what dual scan divides;
    # the profile's d − 1 reads would give a request with one output token no memory at all.
    costs = closed_form(settings.system, workload.prompt_len, expected)
    flavour = find_flavour(settings.engine)
    if not settings.cascade or settings.cluster.is_disaggregated:
        return costs
    system, most = flavour.divide(settings.system), flavour.most_running
    return share_reads(costs, workload, expected, prompts, system, most)


class Kind(NamedTuple):
    """A kind of replica. Settings of candidates to rent that are of one kind differ in what
    `with_settings` allows.
    """

    gpu: str
    quantization: str
    tp: int
    pp: int


def kind_of(settings: Settings) -> Kind:
    """The kind of replica that is asked for."""
    return Kind(settings.gpu, settings.quantization, settings.tp, settings.pp)


def moved(problem: Problem, settings: Settings) -> Problem:
    """The same pool on another system, which holds no longer requests than the first: what
    `prepare` would give, without sorting and sampling again.
    """
    system = settings.system
    assert system.longest_request <= problem.model.system.longest_request, (
        "lengths are cut to what a system holds, never stretched"
    )
    room = np.maximum(1, system.longest_request - problem.workload.prompt_len)
    lengths = problem.lengths._replace(expected=np.minimum(problem.lengths.expected, room))
    return problem._replace(
        settings=settings,
        model=chosen_model(system, settings.overlap, settings.profile),
        lengths=lengths,
        drawn=np.minimum(problem.drawn, room),
        worlds=tuple(np.minimum(world, room) for world in problem.worlds),
        costs=costs_of(problem.workload, problem.prompts, settings, lengths.expected),
    )


#: Settings that change what is planned and run, not what is believed of the pool or what a step
#: takes: model, lengths, draws and costs are the same whatever they are. (But for cascade attention
#: with a topology of pools, which are planned for by the costs of colocated replicas.)
_FREE = (
    *("dp", "topology", "steals", "planner", "engine"),
    *("token_budget", "max_running", "eviction", "output_reserved", "pacing"),
)


def with_settings(problem: Problem, settings: Settings | None = None, **changes: Any) -> Problem:
    """The problem under other `settings` (its own unless given) with these `changes`. Asserts that
    they differ only in what nothing that was prepared depends on; `moved` is for other systems.
    """
    settings = replace(settings or problem.settings, **changes)
    for one in fields(Settings):
        same = getattr(settings, one.name) == getattr(problem.settings, one.name)
        assert same or one.name in _FREE, f"{one.name} is another: prepare the problem anew"
    return problem._replace(settings=settings)


def lay_ground(problem: Problem, blend: BlendSettings | None = None) -> Groundwork:
    """What plans of several policies for the problem share, on however many replicas."""
    rule = blend or BlendSettings()
    return Groundwork(problem.workload, problem.prompts, problem.lengths, problem.costs, rule)


def plan_policy(
    problem: Problem,
    policy: str,
    blend: BlendSettings | None = None,
    ground: Groundwork | None = None,
) -> Plan:
    """The plan of one policy, over all replicas, by the `blend` settings; or on the `ground` that
    was laid for the problem, which has them.
    """
    return over_replicas(problem, plan_whole(problem, policy, blend, ground))


def plan_whole(
    problem: Problem,
    policy: str,
    blend: BlendSettings | None = None,
    ground: Groundwork | None = None,
) -> Plan:
    """`plan_policy` as one replica would run it, whatever their number is."""
    if ground is None:
        ground = lay_ground(problem, blend)
    else:
        assert blend is None, "the ground was laid by other blend settings"
        assert ground.lengths is problem.lengths, "the ground is another problem's"
    plan = make_plan(
        policy,
        ground,
        problem.settings.seed,
        {
            "origin": list(problem.workload.origin),
            "settings": asdict(problem.settings),
            **model_kept(problem.settings, problem.model.system.model),
            "overlap": problem.model.overlap,
            "profile": "/".join(
                (problem.settings.gpu, problem.model.system.model.label, f"tp{problem.settings.tp}")
            ),
            "blendsim": __version__,
        },
    )
    if policy != PACED:
        return plan
    flavour = problem.settings.flavour()
    return pace(
        plan,
        problem.workload,
        Outlook(problem.lengths, problem.drawn),
        problem.model.run_by(flavour.runtime),
        flavour.costs(problem.model),
        problem.settings.pacing,
    )


def over_replicas(problem: Problem, plan: Plan) -> Plan:
    """`plan`, made for one replica of this kind, cut for as many as are asked for."""
    plan = replace(plan, meta={**plan.meta, "settings": asdict(problem.settings)})
    if problem.settings.dp == 1:  # pools too: they deal one rank's plan out themselves
        return plan
    # Ranks get work, not prompts: what a request shares with others is computed once.
    costs, block = problem.costs, problem.model.system.block_tokens
    saved = shared_tokens(problem.workload, problem.prompts, block) * costs.seconds_per_token
    costs = costs._replace(compute=costs.compute - saved)
    plan = _cut(problem, plan, costs)
    lost = sharing_lost(plan, problem.workload, problem.prompts, block)
    return replace(plan, meta={**plan.meta, "sharing_lost": lost})


def _cut(problem: Problem, plan: Plan, costs: RequestCosts) -> Plan:
    """The plan over its ranks, which end together as far as planning can see."""
    flavour, dp = _own_flavour(problem), problem.settings.dp
    if flavour is None:
        return partition(plan, costs, dp, waits=problem.model.system.is_joined)
    around = (problem.workload, problem.prompts, problem.model, flavour, dp)

    def ends_elsewhere(cuts: Sequence[Plan]) -> Floats:
        worlds = with_worlds(problem, BALANCING_WORLDS).worlds[:BALANCING_WORLDS]
        ends = [rank_ends(cut, world, *around) for cut in cuts for world in worlds]
        return np.array(ends).reshape(len(cuts), len(worlds), dp)

    return balanced(
        lambda shares: partition(plan, costs, dp, shares=shares),
        lambda cut: rank_ends(cut, problem.drawn, *around),
        dp,
        None if problem.lengths.is_visible.all() else ends_elsewhere,
    )


def _own_flavour(problem: Problem) -> Flavour | None:
    """The engine by whose runs ranks are balanced: the asked one by its own rules, since one plan
    is run at several token budgets and running limits. None where ranks are not balanced: they
    meet, have a host memory, or cannot be run so.
    """
    settings, system = problem.settings, problem.model.system
    if settings.steals or settings.host is not None or system.is_joined:
        return None
    own = settings.without_rules
    try:
        flavour = own.flavour()
        problem.model.coverage.require(flavour.token_budget)
        require_modelled(flavour, own.cluster, None, system)
    except (InputError, ProfileError):  # told where it is run
        return None
    return flavour
