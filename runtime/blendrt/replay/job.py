"""Job: a plan and all that running it takes but a machine."""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.system import System


class Job(NamedTuple):
    """What is replayed. Request i generates `output_len[i]` tokens, whatever the model says."""

    plan: Plan
    workload: Workload
    output_len: Ints  # (n,) by workload row
    prompts: SortedPrompts
    system: System  # the replica the plan is for: its KV blocks are the schedule's
    flavour: Flavour

    @property
    def ranks(self) -> list[int]:
        """Ranks that have requests."""
        return np.unique(self.plan.rank).tolist()  # type: ignore[no-any-return]

    def core(self, rank: int) -> ServingCore:
        """A fresh core of one rank: the scheduler the simulator runs, too."""
        return ServingCore.from_plan(
            self.plan,
            self.workload,
            self.output_len,
            self.prompts,
            self.system,
            self.flavour,
            rank,
        )
