"""What a run can expect of its requests' outputs, made of what planning may see and of nothing
else.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.planner.evidence import is_unlearned
from blendsim.planner.lengths import SUBTREE_MEAN, Lengths, draw, expect_lengths
from blendsim.planner.tree import PoolTree, pool_tree
from blendsim.prefix import SortedPrompts, sort_prompts, subset
from blendsim.request import Workload, joined, without_prompts
from blendsim.system import System


class Outlook(NamedTuple):
    """Output lengths before the run."""

    lengths: Lengths
    drawn: Ints  # (n,) one possible world: as varied as the sample, true where visible


class SortedPool(NamedTuple):
    """A pool's prompts, and the tree along which lengths are estimated."""

    prompts: SortedPrompts
    tree: PoolTree  # token by token, of the pool and of those that are answered


def sort_pool(workload: Workload) -> SortedPool:
    """Sort the prompts of the pool, those that are answered in one go with them. Only lengths are
    learned from these: what they had in common with the pool is in no cache any more.
    """
    whole = joined(workload)
    every = sort_prompts(whole)
    prompts = subset(every, np.arange(len(workload)))
    return SortedPool(prompts, pool_tree(whole, every))


def look_ahead(
    workload: Workload,
    tree: PoolTree,
    system: System,
    share: float | str,
    seed: int,
    rule: str = SUBTREE_MEAN,
    guess: int | None = None,
) -> Outlook:
    """Sample `share` of the requests, estimate the others by `rule` and draw their world.

    `share` is `sample.AUTO` for as many as pay. `guess` is the tokens of an answer where no length
    says more. A request has the room its prompt leaves on `system`: what cannot be served is not
    expected either. `tree` is that of `sort_pool`.
    """
    rng = np.random.default_rng(seed)
    lengths = expect_lengths(workload, tree, share, rng, None, rule, system, guess)
    room = np.maximum(1, system.longest_request - workload.prompt_len)
    lengths = lengths._replace(expected=np.minimum(lengths.expected, room))
    return Outlook(lengths, np.minimum(_drawn(workload, tree, lengths, rng, rule), room))


def possible_worlds(
    workload: Workload,
    tree: PoolTree,
    system: System,
    lengths: Lengths,
    count: int,
    seed: int,
    rule: str = SUBTREE_MEAN,
) -> tuple[Ints, ...]:
    """`count` times (n,) outputs that what is visible leaves possible, as far from it as a sample
    of its size may be from its pool; none where every length is visible.
    """
    if lengths.is_visible.all():
        return ()
    room = np.maximum(1, system.longest_request - workload.prompt_len)
    rngs = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(count))
    return tuple(
        np.minimum(_drawn(workload, tree, lengths, rng, rule, is_doubted=True), room)
        for rng in rngs
    )


def guessed(workload: Workload, tree: PoolTree, lengths: Lengths) -> Bools:
    """(n,) requests not visible, of sources of which no length is."""
    known = _of_all(workload, lengths)
    return is_unlearned(known.workload, tree, known.lengths.is_visible)[: len(workload)]


def _drawn(
    workload: Workload,
    tree: PoolTree,
    lengths: Lengths,
    rng: np.random.Generator,
    rule: str,
    is_doubted: bool = False,
) -> Ints:
    """`draw` for the pool, from the lengths of those that are answered too."""
    known = _of_all(workload, lengths)
    return draw(known.workload, tree, known.lengths, rng, rule, is_doubted)[: len(workload)]


class _All(NamedTuple):
    """The pool and, behind it, those that are answered; without prompts."""

    workload: Workload
    lengths: Lengths


def _of_all(workload: Workload, lengths: Lengths) -> _All:
    """With what is believed of the pool, and what is known of the others."""
    answered = workload.answered
    if answered is None:
        return _All(workload, lengths)
    every = lengths._replace(
        expected=np.append(lengths.expected, answered.output_len),
        uncut=np.append(lengths.uncut, answered.output_len),
        is_visible=np.append(lengths.is_visible, answered.has_output),
        is_sampled=np.append(lengths.is_sampled, ~answered.has_output),
    )
    return _All(joined(without_prompts(workload)), every)


def reported_lengths(workload: Workload, drawn: Ints) -> Ints:
    """Output lengths to run and report on: the trace's, or the drawn ones where it gives none."""
    return np.where(workload.has_output, workload.output_len, drawn)
