"""What a search may change of a schedule: a table of axes, each with its values and who takes them.

A new parameter is a row more. A point is a value's index on every axis; where an axis means nothing
for the rest of the point it stays at its default, so that equal schedules are equal points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from blendsim.arrays import Floats
from blendsim.errors import BlendsimError
from blendsim.planner.blend import BOTH_ENDS, ENDS, BlendSettings
from blendsim.planner.make import PACED, POLICIES
from blendsim.search.budgets import BUDGETS, can_run_at, lower_limits
from blendsim.search.problem import Problem, with_settings
from blendsim.search.trial import find_engine
from blendsim.serving.flavour import EVICTIONS, Flavour
from blendsim.settings import AUTO, Settings
from blendsim.sim.run import require_modelled

TOKEN_BUDGET = "token budget"
NO_LIMIT = "none"  # of tokens that a split may cost
BLEND, DFS = "blend", "dfs"
_BLENDED = (BLEND, PACED)  # policies that order by density; all others know none

Point = tuple[int, ...]


class Schedule(NamedTuple):
    """All that decides what a pool's run is like."""

    policy: str
    blend: BlendSettings
    settings: Settings  # the engine's rules among them

    @property
    def is_blended(self) -> bool:
        """Whether its order is by density."""
        return self.policy in _BLENDED

    @property
    def is_dual(self) -> bool:
        """Whether both ends of its order are scanned."""
        return self.is_blended and self.blend.ends == BOTH_ENDS


Put = Callable[[Schedule, Any], Schedule]


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter."""

    name: str
    values: tuple[Any, ...]
    default: int  # index of the value that fixed policies have
    put: Put  # the schedule with that value
    matters: Callable[[Schedule], bool]
    is_ordered: bool = True  # neighbours in `values` are alike

    def shown(self, at: int) -> str:
        """The value in words."""
        value = self.values[at]
        return f"{value:,}" if isinstance(value, int) else str(value)


def axes_of(problem: Problem) -> tuple[Axis, ...]:
    """The axes of a problem. What its settings fix is no axis, nor what its engine and cluster do
    not model or its profile does not cover.
    """
    asked, own = problem.settings, find_engine(problem, problem.settings.engine)
    policies = replace(asked, planner=AUTO).policies
    rows = (
        ("policy", policies, BLEND if BLEND in policies else DFS, _field("policy"), _always),
        ("ends", ENDS, BOTH_ENDS, _blend("ends"), _open_ended),
        ("kept sharing", _KEPT, 0.99, _rule("kept_sharing"), _blended),
        ("split worth", (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0), 1.0, _rule("worth"), _blended),
        ("split threshold", (*(4**k for k in range(2, 8)), NO_LIMIT), NO_LIMIT, _limit, _blended),
        ("merge size", (1, *(2**k for k in range(3, 13))), 64, _blend("merge_size"), _blended),
        (
            "output reserved",
            () if asked.output_reserved is not None else tuple(k / 8 for k in range(13)),
            own.output_reserved,
            _setting("output_reserved"),
            _dual,
        ),
        (
            TOKEN_BUDGET,
            () if asked.token_budget else tuple(n for n in _BUDGETS if can_run_at(problem, n)),
            own.token_budget,
            _token_budget(asked.max_running),
            _always,
        ),
        (
            "running limit",  # behind the budget, which it is held against
            tuple(one.max_running for one in lower_limits(problem, [own])),
            own.max_running,
            _running_limit(own),
            _is_limited(own),
        ),
        *(
            (f"pacing {name}", values, getattr(asked.pacing, name), _gain(name), _paced)
            for name, values in _GAINS.items()
        ),
        (
            "eviction",
            () if asked.eviction else _evictions(problem),
            own.eviction,
            _setting("eviction"),
            _evicts_as_the_engine,
        ),
    )
    return tuple(
        Axis(name, values, values.index(usual), put, matters, name not in _UNORDERED)
        for name, values, usual, put, matters in (
            (name, _with(values, usual), usual, put, matters)
            for name, values, usual, put, matters in rows
            if len(values) > 1
        )
    )


def plain(problem: Problem) -> Schedule:
    """What the fixed policies start from."""
    return Schedule(POLICIES[0], BlendSettings(), problem.settings)


class Space:
    """All points of some axes around a base schedule."""

    def __init__(self, axes: Sequence[Axis], base: Schedule) -> None:
        self.axes = tuple(axes)
        self.base = base

    def schedule(self, point: Point) -> Schedule:
        """The schedule at a point."""
        made = self.base
        for axis, at in zip(self.axes, point, strict=True):
            made = axis.put(made, axis.values[at])
        return made

    def tidy(self, point: Sequence[int]) -> Point:
        """The point with every axis that means nothing there at its default."""
        made = self.schedule(tuple(point))
        return tuple(
            int(at) if axis.matters(made) else axis.default
            for axis, at in zip(self.axes, point, strict=True)
        )

    def at(self, shares: Floats, policies: Sequence[int]) -> Point:
        """The point of one of these policies at a place of the unit cube."""
        choices = [policies, *(range(len(axis.values)) for axis in self.axes[1:])]
        return self.tidy(
            [c[min(int(u * len(c)), len(c) - 1)] for u, c in zip(shares, choices, strict=True)]
        )

    def fixed(self) -> list[Point]:
        """Every policy by the engine's own rules and the planner's own settings."""
        usual = [axis.default for axis in self.axes]
        return [self.tidy([k, *usual[1:]]) for k in range(len(self.axes[0].values))]

    def fixed_everywhere(self) -> list[Point]:
        """The fixed policies, and each at every token budget that `compare` tries."""
        names = [axis.name for axis in self.axes]
        if TOKEN_BUDGET not in names:
            return self.fixed()
        at = names.index(TOKEN_BUDGET)
        tried = [k for k, n in enumerate(self.axes[at].values) if n in BUDGETS]
        moved = [(*p[:at], k, *p[at + 1 :]) for p in self.fixed() for k in tried]
        return list(dict.fromkeys((*self.fixed(), *moved)))

    def neighbours(self, point: Point, axis: int, step: int) -> list[Point]:
        """Points that differ on one axis by `step`, or take any other value where it has no
        order.
        """
        row, here = self.axes[axis], point[axis]
        others: Sequence[int] = (here - step, here + step)
        if not row.is_ordered:
            others = [k for k in range(len(row.values)) if k != here]
        found = [
            self.tidy([*point[:axis], k, *point[axis + 1 :]])
            for k in others
            if 0 <= k < len(row.values)
        ]
        return [other for other in found if other != point]

    def matters(self, point: Point, axis: int) -> bool:
        """Whether the axis means something at the point."""
        return self.axes[axis].matters(self.schedule(point))

    def told(self, point: Point) -> dict[str, Any]:
        """The values at a point, of the axes that mean something there."""
        made = self.schedule(point)  # once: it takes a settings object an axis
        return {
            axis.name: axis.values[at]
            for axis, at in zip(self.axes, point, strict=True)
            if axis.matters(made)
        }


_BUDGETS = (  # all that are tried elsewhere, and some between
    *(128, 192, 256, 384, 512, 640, 768, 1_024, 1_280, 1_536),
    *(2_048, 3_072, 4_096, 6_144, 8_192),
)
_KEPT = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
_GAINS: dict[str, tuple[float, ...]] = {  # of pacing.Gains
    "most_tokens": (512, 1_024, 2_048, 4_096, 8_192),
    "left_room": (0.0, 1.0, 2.0, 3.0, 4.0, 6.0),
    "fill": (0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 1.0),
    "slack": (0.0, 0.02, 0.05, 0.1, 0.2),
    "efficiency": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95),
    "caution": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "trust": (0.25, 1.0, 4.0),
    "look_steps": (64, 128, 256, 512, 1_024),
    "crowd": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0, 16.0),
    "longest_fill": (0.0, 0.4, 0.55, 0.7, 0.85, 1.0),
}
_UNORDERED = ("policy", "ends", "eviction")


def _with(values: tuple[Any, ...], usual: Any) -> tuple[Any, ...]:
    return values if usual in values else tuple(sorted((*values, usual)))


def _evictions(problem: Problem) -> tuple[str, ...]:
    """The evictions that are modelled on this engine and cluster."""
    settings, allowed = problem.settings, []
    for name in EVICTIONS:
        tried = with_settings(problem, eviction=name)
        try:
            flavour = find_engine(tried, settings.engine)
            require_modelled(flavour, settings.cluster, settings.host, problem.model.system)
        except BlendsimError:
            continue
        allowed.append(name)
    return tuple(allowed)


def _always(_: Schedule) -> bool:
    return True


def _evicts_as_the_engine(schedule: Schedule) -> bool:
    return schedule.policy != PACED or not schedule.settings.pacing.keeps_awaited


def _blended(schedule: Schedule) -> bool:
    return schedule.is_blended


def _paced(schedule: Schedule) -> bool:
    return schedule.policy == PACED


def _open_ended(schedule: Schedule) -> bool:
    return schedule.policy == BLEND


def _dual(schedule: Schedule) -> bool:
    return schedule.is_dual


def _field(name: str) -> Put:
    return lambda schedule, value: schedule._replace(**{name: value})


def _blend(name: str) -> Put:
    return lambda schedule, value: schedule._replace(blend=replace(schedule.blend, **{name: value}))


def _rule(name: str) -> Put:
    return lambda schedule, value: schedule._replace(
        blend=replace(schedule.blend, split=replace(schedule.blend.split, **{name: value}))
    )


def _limit(schedule: Schedule, value: int | str) -> Schedule:
    return _rule("threshold")(schedule, None if value == NO_LIMIT else value)


def _setting(name: str) -> Put:
    return lambda schedule, value: schedule._replace(
        settings=replace(schedule.settings, **{name: value})
    )


def _token_budget(limit: int | None) -> Put:
    """Puts a token budget, to which a running limit that was asked for gives way."""

    def put(schedule: Schedule, value: int) -> Schedule:
        budgeted = _setting("token_budget")(schedule, value)
        return budgeted if limit is None else _setting("max_running")(budgeted, min(limit, value))

    return put


def _running_limit(own: Flavour) -> Put:
    """Puts a limit that is below the engine's own and, as that gives way, the token budget."""

    def put(schedule: Schedule, value: int) -> Schedule:
        is_lower = value < min(own.max_running, schedule.settings.token_budget or own.token_budget)
        return _setting("max_running")(schedule, value if is_lower else None)

    return put


def _is_limited(own: Flavour) -> Callable[[Schedule], bool]:
    """Whether the running limit is one of those that were put: what a small token budget lowers is
    nobody's choice.
    """

    def is_limited(schedule: Schedule) -> bool:
        settings = schedule.settings
        has_room = (settings.token_budget or own.token_budget) >= own.max_running
        return has_room or settings.max_running is not None

    return is_limited


def _gain(name: str) -> Put:
    return lambda schedule, value: schedule._replace(
        settings=replace(
            schedule.settings, pacing=replace(schedule.settings.pacing, **{name: value})
        )
    )
