"""What a run can expect of its requests' outputs, made of what planning may see and of nothing
else.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.planner.lengths import SUBTREE_MEAN, Lengths, draw, expect_lengths
from blendsim.planner.tree import PoolTree
from blendsim.request import Workload
from blendsim.system import System


class Outlook(NamedTuple):
    """Output lengths before the run."""

    lengths: Lengths
    drawn: Ints  # (n,) one possible world: as varied as the sample, true where visible


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
    expected either. `tree` is the token-level tree of the whole workload.
    """
    rng = np.random.default_rng(seed)
    lengths = expect_lengths(workload, tree, share, rng, None, rule, system, guess)
    room = np.maximum(1, system.longest_request - workload.prompt_len)
    lengths = lengths._replace(expected=np.minimum(lengths.expected, room))
    return Outlook(lengths, np.minimum(draw(workload, tree, lengths, rng, rule), room))


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
        np.minimum(draw(workload, tree, lengths, rng, rule, is_doubted=True), room) for rng in rngs
    )


def reported_lengths(workload: Workload, drawn: Ints) -> Ints:
    """Output lengths to run and report on: the trace's, or the drawn ones where it gives none."""
    return np.where(workload.has_output, workload.output_len, drawn)
