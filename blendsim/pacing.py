"""Pacing: how a plan for both ends chooses each step's tokens, as numbers that travel in the plan.

The rule itself is serving/pacing.py's. What it needs to know of the machine (what steps of some
sizes take, how kinds of work overlap) and of the pool (how far its unknown lengths spread) is
resolved when the plan is made, so that a simulator and a runtime with the same plan decide alike.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from blendsim.arrays import Bools, Floats
from blendsim.fields import Range, require_ranges, settle

_MOST_TOKENS = 1 << 20  # of a step
_NO_CROWD = 1e9  # that many times the even ones never end together
#: Densities within so much of each other are about the same.
ABOUT_THE_SAME = 2.0
EXACTLY = 1.0 + 1e-9  # the same but for rounding
#: Lengths of a source that are enough to say that all are alike. Of one no variance at all is seen;
#: eight whose standard deviation is 0.3 of their mean look so once in 230 to 300 times.
LEAST_ALIKE = 8


def is_compute_heavy(density: Floats, root_density: float, is_visible: Bools) -> Bools:
    """(n,), which requests of a paced plan are of its compute-heavy end: those that are denser than
    the pool, and, where lengths are visible, not about as dense. Who is about as dense can be
    paired with nobody; but of a length that is not visible that cannot be said.
    """
    return np.asarray(density > np.where(is_visible, ABOUT_THE_SAME, EXACTLY) * root_density)


_RANGES = {
    "most_tokens": Range(1, _MOST_TOKENS),
    "left_room": Range(0, 100),
    "fill": Range(0, 1, is_above=True),
    "slack": Range(0, 1),
    "efficiency": Range(0, 1),
    "caution": Range(0, 10),
    "trust": Range(0, 1e9),
    "look_steps": Range(1, 1 << 20),
    "crowd": Range(0, _NO_CROWD),
    "longest_fill": Range(0, 1),
}


@dataclass(frozen=True, slots=True)
class Gains:
    """The free choices of pacing, which a search may vary."""

    most_tokens: int = 8_192  # of a step; a smaller budget of the engine binds too
    left_room: float = 3.0  # standard deviations kept free for the compute-heavy end
    fill: float = 0.93  # share of the KV cache that reading is expected to fill
    #: How far a step's marginal cost may be from the price of a token, and its own cost above that
    #: of larger and smaller ones by turns.
    slack: float = 0.05
    #: Of the best rate of tokens a second. Sizes of less are taken only where what is left, spread
    #: over the steps there are anyway, makes no larger ones.
    efficiency: float = 0.85
    caution: float = 1.0  # standard deviations kept free for lengths that are not known
    trust: float = 1.0  # in the planner's mean lengths: requests that ended, per sampled one
    look_steps: int = 256  # steps from one reckoning to the next
    #: How much of the memory-heavy end may end together, as a multiple of what would if its ends
    #: were spread evenly.
    crowd: float = 1.0
    #: Share of the KV cache that reads may fill where they are spread over the longest visible
    #: length; where they would fill more, the cache is kept full. At 0 it always is.
    longest_fill: float = 0.55
    #: Idle prefixes that somebody waits for are evicted last, whatever the engine does by itself:
    #: the compute-heavy end is taken from both its ends, so a prefix may wait for long.
    keeps_awaited: bool = True

    def __post_init__(self) -> None:
        require_ranges(self, _RANGES, "pacing")
        settle(self)


@dataclass(frozen=True, slots=True)
class Pacing:
    """What a paced plan is served by."""

    gains: Gains
    sizes: tuple[int, ...]  # tokens a step, ascending
    seconds: tuple[float, ...]  # compute of a step of each size
    lines: tuple[tuple[float, float], ...]  # f(c, m) = max of a·c + b·m
    read_seconds: float  # of one context token at the best bandwidth
    spread: tuple[float, ...]  # by source, E[d²] / E[d]² of the lengths that are not visible
    #: m/c and f/c of an overlap that was measured, ascending: then f is this, and no maximum of
    #: lines.
    measured: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for is_right, what in (
            (
                self.sizes
                and all(type(n) is int and n <= _MOST_TOKENS for n in self.sizes)
                and _rise(self.sizes),
                f"sizes must be whole numbers that rise from above 0 to {_MOST_TOKENS:,} at most",
            ),
            (
                len(self.seconds) == len(self.sizes) and all(_above_0(c) for c in self.seconds),
                "seconds must be above 0, one a size",
            ),
            (
                bool(self.lines) and all(0.0 <= x < float("inf") for ab in self.lines for x in ab),
                "lines must be pairs of at least 0",
            ),
            (
                _rise(tuple(r for r, _ in self.measured))
                and all(1.0 <= t < float("inf") for _, t in self.measured),
                "measured must be pairs that rise from above 0, of at least 1",
            ),
            (_above_0(self.read_seconds), "read_seconds must be above 0"),
            (all(1.0 <= each < float("inf") for each in self.spread), "spread must be at least 1"),
        ):
            if not is_right:
                raise ValueError(what)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a plan file's head."""
        return asdict(self)


def _rise(values: tuple[float, ...]) -> bool:
    return all(map(_above_0, values)) and all(a < b for a, b in pairwise(values))


def _above_0(value: float) -> bool:
    return 0.0 < value < float("inf")


def pacing_from_json(values: object) -> Pacing:
    """The reverse of `as_json`. ValueError says which field does not fit, InputError which gain is
    out of range.
    """
    given = {"measured": [], **_object("it", values)}  # plans of earlier versions have none
    _require_names("field", given, {field.name for field in fields(Pacing)})
    return Pacing(
        gains=_gains(given["gains"]),
        sizes=tuple(_list("sizes", given["sizes"])),
        seconds=_numbers("seconds", given["seconds"]),
        lines=_pairs("lines", given["lines"]),
        read_seconds=_number("read_seconds", given["read_seconds"]),
        spread=_numbers("spread", given["spread"]),
        measured=_pairs("measured", given["measured"]),
    )


def _gains(values: object) -> Gains:
    # NOTE: plans of earlier versions are served as they were, without these gains.
    given = {
        "keeps_awaited": False,
        "crowd": _NO_CROWD,
        "longest_fill": 0.0,
        **_object("gains", values),
    }
    usual = asdict(Gains())
    _require_names("gain", given, set(usual))
    for name, value in given.items():
        if isinstance(usual[name], float):
            _number(name, value)
        elif type(value) is not type(usual[name]):
            kind = "true or false" if isinstance(usual[name], bool) else "a whole number"
            raise ValueError(f"{name} must be {kind}, not {_told(value)}")
    return Gains(**given)


def _require_names(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in sorted(given.keys() - known):
        raise ValueError(f"{what} {name!r:.40} is unknown")
    for name in sorted(known - given.keys()):
        raise ValueError(f"{what} {name!r} is missing")


def _object(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {_told(value)}")
    return value


def _list(name: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {_told(value)}")
    return value


def _pairs(name: str, values: object) -> tuple[tuple[float, float], ...]:
    pairs = [_numbers(f"a pair of {name}", pair) for pair in _list(name, values)]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{name} must be a list of pairs")
    return tuple((a, b) for a, b in pairs)


def _numbers(name: str, values: object) -> tuple[float, ...]:
    return tuple(_number(f"a value of {name}", value) for value in _list(name, values))


def _number(name: str, value: object) -> float:
    """A JSON number, whose whole ones may be of any length, as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {_told(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} has a number that is too large") from error


def _told(value: object) -> str:
    """A JSON value in a few letters."""
    for kind, word in ((str, "a text"), (list, "a list"), (Mapping, "an object")):
        if isinstance(value, kind):
            return word
    return json.dumps(value)[:20]
