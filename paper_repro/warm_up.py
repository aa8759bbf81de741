"""Every simulated engine run once on a tiny pool, so that its kernels are compiled, each by one
process, before two processes need them at the same time.
"""

import numpy as np

from blendsim.request import from_lengths
from blendsim.search.comparison import compare
from blendsim.settings import Settings
from paper_repro.systems import DFS, PACED, POOLS, SGLANG, system

REQUESTS = 64
#: One of each loop that is compiled apart, the dearest first.
ENGINES = (PACED, DFS, SGLANG, POOLS[0])


def compile_engine(name: str) -> None:
    """Run the system of that name on a tiny pool."""
    n = np.arange(1, REQUESTS + 1)
    compare(from_lengths(100 + n, n), Settings(token_budget=2_048), [system(name)])
