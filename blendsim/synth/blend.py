"""From a recipe to the pool: solve for counts, draw, measure, solve again, until what was drawn
has the wanted density and sharing. The figures reported are measured on the requests themselves.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.perf.density import closed_form
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, pool
from blendsim.synth.recipes import Recipe
from blendsim.synth.solver import Reached, Totals, counts, reached
from blendsim.synth.sources import open_source
from blendsim.synth.supply import Supply
from blendsim.system import System

_PILOT = 4000  # requests of each source measured before the first solution
_TRIALS = 12
_REDRAWS = 64  # of the source with the longest requests, in each trial
_CLOSE = 0.2  # share of the tolerance at which no further trial is worth its time


class SourceRow(NamedTuple):
    """One source of a blend, measured on its requests."""

    source: str
    origin: str  # the file or generator
    requests: int
    input_tokens: int
    output_tokens: int
    density: float
    sharing: float
    block_sharing: float  # the same in full KV blocks of the system


class Blend(NamedTuple):
    """A pool with what it was made of."""

    workload: Workload
    reached: Reached
    rows: tuple[SourceRow, ...]
    block_sharing: float  # of its prompt tokens, those in full KV blocks of the system


class _Measured(NamedTuple):
    totals: Totals
    in_blocks: float  # shared tokens in full KV blocks


class _Trial(NamedTuple):
    numbers: list[int]  # of the draw, by source
    counts: Ints
    error: float


def blend(recipe: Recipe, system: System, data: Path | None = None) -> Blend:
    """The pool of `recipe`, both targets within its tolerance by the closed form for `system`;
    InputError where the sources cannot make it.
    """
    supplies = [
        open_source(name, data, recipe.seed, recipe.system_tokens) for name in recipe.sources
    ]
    trial = _solve(recipe, system, supplies)
    parts = [
        supply.requests(n, number)
        for supply, n, number in zip(supplies, trial.counts.tolist(), trial.numbers, strict=True)
    ]
    measured = [_measured(part, system) for part in parts]
    whole = _sum([each.totals for each in measured])
    found = reached(*whole)
    assert found.error(recipe) <= recipe.tolerance, "the pool is what the solver drew"
    rows = tuple(
        SourceRow(
            supply.name,
            supply.origin,
            len(part),
            int(part.prompt_len.sum()),
            int(part.output_len.sum()),
            *reached(*each.totals),
            each.in_blocks / each.totals.prompt,
        )
        for supply, part, each in zip(supplies, parts, measured, strict=True)
    )
    workload = replace(pool(parts), origin=("synth",), notes=_notes(recipe, rows))
    in_blocks = sum(each.in_blocks for each in measured) / whole.prompt
    return Blend(workload, found, rows, in_blocks)


def _solve(recipe: Recipe, system: System, supplies: list[Supply]) -> _Trial:
    """The counts and draws whose requests come nearest to the targets."""
    rates = [_drawn(supply, _PILOT, 0, system)[1] for supply in supplies]
    seen: list[list[Totals]] = []
    best: _Trial | None = None
    for number in range(_TRIALS):
        try:
            wanted = counts(recipe, rates)
        except InputError:
            if best is None:
                raise
            break  # what so few requests need says nothing of what more of them would
        trial, rates = _trial(recipe, system, supplies, wanted, number)
        if best is None or trial.error < best.error:
            best = trial
        if best.error <= _CLOSE * recipe.tolerance:
            break
        seen.append(rates)
        rates = [_mean(of_source) for of_source in zip(*seen, strict=True)]
    assert best is not None, "there is one trial at least"
    if best.error > recipe.tolerance:
        rarest = int(best.counts.argmin())
        raise InputError(
            f"synth: {recipe.requests:,} requests are too few: the nearest mix misses a target by "
            f"{best.error:.1%}, with only {int(best.counts[rarest]):,} of "
            f"{recipe.sources[rarest]}; ask for more requests"
        )
    return best


def _trial(
    recipe: Recipe, system: System, supplies: list[Supply], wanted: Ints, number: int
) -> tuple[_Trial, list[Totals]]:
    """Draw the wanted counts; of the source with the longest requests take the draw that fits best.

    A few dozen videos vary by several per cent from draw to draw, the others hardly: one source is
    drawn often, and what one more request of it needs is the mean over all its draws.
    """
    pairs = list(zip(supplies, wanted.tolist(), strict=True))
    totals, rates = map(list, zip(*(_drawn(s, n, number, system) for s, n in pairs), strict=True))
    numbers = [number] * len(supplies)
    errors = [reached(*_sum(totals)).error(recipe)]
    lumpy = int(np.argmax([rate.memory for rate in rates]))
    redrawn = [rates[lumpy]]
    for other in range(_TRIALS + number * _REDRAWS, _TRIALS + (number + 1) * _REDRAWS):
        if min(errors) <= _CLOSE * recipe.tolerance:
            break
        totals[lumpy], rate = _drawn(*pairs[lumpy], other, system)
        redrawn.append(rate)
        error = reached(*_sum(totals)).error(recipe)
        if error < min(errors):
            numbers[lumpy] = other
        errors.append(error)
    rates[lumpy] = _mean(redrawn)
    return _Trial(numbers, wanted, min(errors)), rates


def _drawn(supply: Supply, n: int, number: int, system: System) -> tuple[Totals, Totals]:
    """What n requests of a source need together, and what one more of them needs."""
    drawn = supply.draw(n, number)
    costs = closed_form(system, drawn.prompt, drawn.output)
    totals = Totals(
        float(costs.compute.sum()),
        float(costs.memory.sum()),
        float(drawn.prompt.sum()),
        float(drawn.shared),
    )
    return totals, Totals(*(value / n for value in totals))


def _mean(totals: Sequence[Totals]) -> Totals:
    return Totals(*np.mean(totals, axis=0).tolist())


def _measured(workload: Workload, system: System) -> _Measured:
    """The same of real requests, sharing counted in their prefix tree."""
    costs = closed_form(system, workload.prompt_len, workload.output_len)
    prompts = sort_prompts(workload)
    totals = Totals(
        float(costs.compute.sum()),
        float(costs.memory.sum()),
        float(workload.prompt_len.sum()),
        float(shareable_tokens(workload, prompts)),
    )
    return _Measured(totals, shareable_tokens(workload, prompts, system.block_tokens))


def _sum(totals: list[Totals]) -> Totals:
    # Sources never share with each other, so their shared tokens add up.
    return Totals(*np.sum(np.array(totals, np.float64), axis=0).tolist())


def _notes(recipe: Recipe, rows: tuple[SourceRow, ...]) -> tuple[str, ...]:
    """What made this pool, for its file to remember."""
    return (
        f"synth: density {recipe.density:g}, sharing {recipe.sharing:g}, seed {recipe.seed}, "
        f"system prompts of {recipe.system_tokens} tokens",
        *(f"synth: {row.requests:,} of {row.source} from {row.origin}" for row in rows),
    )
