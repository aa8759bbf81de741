"""Fields of dataclasses from plain values, as TOML sections, plans and step logs have them: names
and types are checked.
"""

import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from blendsim.errors import InputError

T = TypeVar("T")
Section = Mapping[str, Any]


class Range(NamedTuple):
    """What a number may be."""

    least: float
    most: float
    is_above: bool = False  # above `least`, which is no value itself

    def holds(self, value: float) -> bool:
        """False for a value that is no number, too."""
        return self.least <= value <= self.most and not (self.is_above and value == self.least)

    def __str__(self) -> str:
        if self.is_above:
            return f"a number above {self.least:,.0f} and at most {self.most:,.0f}"
        return f"{self.least:,.0f} to {self.most:,.0f}"


def require_ranges(made: object, ranges: Mapping[str, Range], where: str) -> None:
    """InputError that begins with `where` for the first of these fields that is a number and out of
    its range; what is none is for `settle` to refuse.
    """
    for name, allowed in ranges.items():
        value = getattr(made, name)
        if isinstance(value, Real) and not allowed.holds(cast("float", value)):
            raise InputError(f"{where}: {name} {value} is out of range; give {allowed}")


def overlay(base: T, section: Section, where: str) -> T:
    """`base` with the fields that `section` names replaced, after checking names and types."""
    return cast("T", replace(cast("Any", base), **_typed_fields(type(base), section, where, base)))


def made(kind: type[T], section: Section, where: str) -> T:
    """A dataclass of the fields that `section` names, all that have no default among them."""
    given = _typed_fields(kind, section, where)
    for field in fields(cast("Any", kind)):
        has_own = field.default is not MISSING or field.default_factory is not MISSING
        if field.name not in given and not has_own:
            raise InputError(f"{where}: {field.name} is missing; give it")
    return kind(**given)


def _typed_fields(
    kind: type[Any], section: Section, where: str, base: object = None
) -> dict[str, Any]:
    """The fields that `section` names; what is a dataclass in `base` keeps what it does not."""
    hints = _hints(cast("Any", kind))
    known = {field.name for field in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in section.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
            raise InputError(f"{where}: no setting {name!r}; nearest known: {', '.join(near)}")
        now = getattr(base, name, None)
        if isinstance(value, dict) and is_dataclass(now) and not isinstance(now, type):
            given[name] = overlay(now, value, f"{where}.{name}")
        else:
            given[name] = _typed(value, hints[name], f"{where}: {name} = {value!r}")
    return given


def settle(made: object) -> None:
    """For `__post_init__` of a frozen dataclass: what was given for its fields from Python, as
    their types have it (numpy's numbers too), or InputError.
    """
    of: Any = type(made)
    for name, hint in _hints(of).items():
        value = getattr(made, name)
        # NOTE: settings are made often, and a text on a value takes longer than all else. Numbers
        # of an ordinary size are in range; no comparison holds for one that is none.
        if type(value) is hint and (hint not in (int, float) or abs(value) < 1 << 62):
            continue
        typed = _typed(value, hint, f"{of.__name__}: {name} = {value!r}")
        if typed is not value:
            object.__setattr__(made, name, typed)


@cache
def _hints(of: Any) -> dict[str, Any]:
    return typing.get_type_hints(of)


def in_range(value: T, where: str) -> T:
    """A value as it is, or InputError beginning with `where` for a number that no column and no
    kernel holds: a whole one of more than 64 bits, or one that is not finite.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{where} is beyond 64 bits; give a smaller number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is not finite; give a number")
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the field's type, or InputError."""
    choices = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (types.UnionType, typing.Union)
        else (hint,)
    )
    for choice in choices:
        kind = typing.get_origin(choice) or choice
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            return made(kind, value, where.partition(" = ")[0])
        if kind is tuple and isinstance(value, list):
            return tuple(value)
        if kind is Path and isinstance(value, Path | str):
            return Path(value)
        if kind in (int, float) and not isinstance(value, bool) and type(value) is not kind:
            # NOTE: a wide whole number may be beyond all floats, so its range is looked at first.
            if isinstance(value, Integral):
                whole = in_range(int(value), where)
                return whole if kind is int else float(whole)
            if kind is float and isinstance(value, Real):
                return in_range(float(value), where)
        if isinstance(kind, type) and type(value) is kind:
            return in_range(value, where)
    names = " or ".join(getattr(c, "__name__", str(c)) for c in choices if c is not type(None))
    is_whole = int in choices and isinstance(value, float) and value.is_integer()
    raise InputError(
        f"{where} is not of type {names}; {f'write {int(value):_}' if is_whole else 'mend it'}"
    )
