"""Long measurements in parts, so that processes share them out and several claims use one.

A claim module that takes long has, besides `measure`, `parts(lab)`: the parts that `measure` joins.
The module that a part names measures it, `part(lab, *of)`, as a table that the lab keeps.
"""

import pkgutil
from typing import Any, NamedTuple

from paper_repro.code import reached
from paper_repro.lab import REPOSITORY, Kept, Lab
from paper_repro.runs import joined
from paper_repro.table import Table

Word = str | int | float


class Part(NamedTuple):
    """A piece of some measurement."""

    module: str  # of paper_repro, whose `part` measures it
    of: tuple[Word, ...]  # what `part` is given after the lab

    @property
    def title(self) -> str:
        """For a reader of the run's progress."""
        return " ".join(map(str, (self.module, *self.of)))


def load(name: str) -> Any:
    """A module of paper_repro."""
    return pkgutil.resolve_name(f"paper_repro.{name}")


def code_of(name: str) -> str:
    """All that a module's measuring reaches, as text to hash."""
    return reached(REPOSITORY / "paper_repro" / f"{name}.py")


def parts_of(name: str, lab: Lab) -> list[Part]:
    """What a claim module joins; none of one that is measured in one go."""
    module = load(name)
    return list(module.parts(lab)) if hasattr(module, "parts") else []


def kept(part: Part, lab: Lab) -> Kept:
    """Where the part is kept."""
    return lab.kept(part.module, [*part.of], code_of(part.module))


def take(lab: Lab, part: Part) -> Table:
    """The part, measured by whoever asks first."""
    return kept(part, lab).table(lambda: load(part.module).part(lab, *part.of))


def take_all(lab: Lab, parts: list[Part]) -> Table:
    """The parts one under the other."""
    return joined([take(lab, part) for part in parts])
