"""Counts of three sources from two targets: three linear equations.

With n requests of a source needing C compute seconds, M memory seconds, P prompt tokens and S
shared ones each, the recipe says Σn = N, Σn·(S − s·P) = 0 and Σn·((1 − s)·C − ρ·M) = 0.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError
from blendsim.synth.recipes import Recipe


class Totals(NamedTuple):
    """What some requests of one source need; also, divided by their number, what one needs."""

    compute: float  # seconds, nothing shared
    memory: float  # seconds
    prompt: float  # tokens
    shared: float  # prompt tokens that need not be computed


class Reached(NamedTuple):
    """Density (Table 4's definition) and prefix sharing ratio of a pool."""

    density: float
    sharing: float

    def error(self, recipe: Recipe) -> float:
        """The larger of the two relative errors."""
        return max(
            abs(self.density / recipe.density - 1.0), abs(self.sharing / recipe.sharing - 1.0)
        )


def reached(compute: float, memory: float, prompt: float, shared: float) -> Reached:
    """Density and sharing of a pool with these totals."""
    sharing = shared / prompt
    return Reached((1.0 - sharing) * compute / memory if memory > 0.0 else float("inf"), sharing)


def counts(recipe: Recipe, rates: list[Totals]) -> Ints:
    """Requests of each source, `recipe.requests` in all and one at least of each; InputError where
    no mix of the sources has that density and sharing.
    """
    matrix, wanted = _equations(recipe, rates)
    try:
        share: Floats = np.asarray(np.linalg.solve(matrix, wanted), np.float64)
    except np.linalg.LinAlgError as error:
        raise _infeasible(recipe, rates) from error
    if not (share > 0.0).all():
        raise _infeasible(recipe, rates)
    return _whole(share * recipe.requests)


def reachable_density(sharing: float, rates: list[Totals]) -> tuple[float, float] | None:
    """Lowest and highest density of any mix with that sharing, or None where none has it.

    Density is a ratio of linear forms, so its extremes lie where only two sources take part.
    """
    found = []
    for a, b in combinations(rates, 2):
        above, below = a.shared - sharing * a.prompt, b.shared - sharing * b.prompt
        if above * below >= 0.0:
            continue
        n, m = abs(below), abs(above)
        compute, memory = n * a.compute + m * b.compute, n * a.memory + m * b.memory
        found.append((1.0 - sharing) * compute / memory)
    return (min(found), max(found)) if found else None


def _equations(recipe: Recipe, rates: list[Totals]) -> tuple[Floats, Floats]:
    """The three equations over shares of all requests, each row scaled to its largest entry."""
    each = np.array(rates, np.float64)
    rows = np.stack(
        (
            np.ones(len(rates)),
            each[:, 3] - recipe.sharing * each[:, 2],
            (1.0 - recipe.sharing) * each[:, 0] - recipe.density * each[:, 1],
        )
    )
    scale = np.abs(rows).max(axis=1)
    scale[scale == 0.0] = 1.0
    return rows / scale[:, None], np.array([1.0, 0.0, 0.0])


def _whole(wanted: Floats) -> Ints:
    """Whole numbers near `wanted` with the same sum, none below one; the largest takes the rest."""
    whole = np.maximum(1, np.rint(wanted)).astype(np.int64)
    whole[np.argmax(whole)] += round(float(wanted.sum())) - int(whole.sum())
    return whole


def _infeasible(recipe: Recipe, rates: list[Totals]) -> InputError:
    names = ", ".join(recipe.sources)
    density = reachable_density(recipe.sharing, rates)
    if density is None:
        each = [rate.shared / rate.prompt for rate in rates]
        return InputError(
            f"synth: sharing {recipe.sharing:g} is out of reach: mixes of {names} share "
            f"{min(each):.3f} to {max(each):.3f} of their prompt tokens; ask for a value between"
        )
    return InputError(
        f"synth: density {recipe.density:g} is out of reach: mixes of {names} with sharing "
        f"{recipe.sharing:g} have {density[0]:.3f} to {density[1]:.3f}; ask for a value between or "
        "choose other sources"
    )
