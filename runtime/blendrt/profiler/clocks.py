"""At which clock a GPU works, told by itself: a kernel that spins for so many cycles, between two
events.
"""

from collections.abc import Sequence
from statistics import median

import torch

CYCLES = 200_000  # a tenth of a millisecond


def spin() -> None:
    """Queue the kernel on the current stream."""
    torch.cuda._sleep(CYCLES)  # type: ignore[no-untyped-call]


def megahertz(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """The clock of a spin between two events that have come."""
    milliseconds: float = begin.elapsed_time(end)
    return CYCLES / (milliseconds / 1e3) / 1e6


def summary(clocks: Sequence[float]) -> str:
    """The median of some clocks, and from where to where they go."""
    return f"{median(clocks):,.0f} MHz in the median ({min(clocks):,.0f} to {max(clocks):,.0f})"
