"""The blended order (§5): the pool by density, for the dual scanner to take from both ends."""

from dataclasses import dataclass, field

import numpy as np

from blendsim.arrays import Bools
from blendsim.errors import UnknownName
from blendsim.fields import Range, require_ranges, settle
from blendsim.perf.density import RequestCosts
from blendsim.planner.arrange import Arrangement, arrange
from blendsim.planner.split import SplitRule
from blendsim.planner.tree import pool_tree
from blendsim.prefix import SortedPrompts, subset
from blendsim.request import Workload
from blendsim.system import BLOCK_TOKENS

BOTH_ENDS = "both"  # dual scan
DENSE_FIRST, MEMORY_FIRST = "dense", "memory"  # in order, from that end on
ENDS = (BOTH_ENDS, DENSE_FIRST, MEMORY_FIRST)
_RANGES = {name: Range(1, 1e9) for name in ("block_tokens", "merge_size", "least_nodes")}


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """How the blended order is made."""

    split: SplitRule = field(default_factory=SplitRule)
    block_tokens: int = (
        BLOCK_TOKENS  # sharing counts in full KV blocks; 1 is the paper's token tree
    )
    merge_size: int = 64  # requests a merged node may hold, so that ρ of the ends moves slowly
    least_nodes: int = 64  # a small pool is merged less, to keep about so many nodes to scan
    ends: str = BOTH_ENDS  # from which the order is taken

    def __post_init__(self) -> None:
        require_ranges(self, _RANGES, "blend")
        settle(self)
        if self.ends not in ENDS:
            raise UnknownName("ends", self.ends, ENDS)


def blend(
    workload: Workload,
    prompts: SortedPrompts,
    rows: Bools,
    costs: RequestCosts,
    settings: BlendSettings,
) -> Arrangement:
    """The requests `rows` (a mask) from the dense end to the memory-heavy end."""
    if not rows.all():
        prompts = subset(prompts, np.flatnonzero(rows))
    tree = pool_tree(workload, prompts, settings.block_tokens)
    merge_size = min(settings.merge_size, len(tree.order) // settings.least_nodes)
    return arrange(tree, costs, settings.split, merge_size)
