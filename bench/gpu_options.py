"""What bench/gpu_check.py is asked for, and what a stage of it finds out."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SEARCHED = "search"  # the plan that `blendsim search` finds
LONGEST = "longest"  # of `dfs-longest`, in one word
#: Whose plans are compared, in this order: with the first.
POLICIES = ("dfs", LONGEST, "blend", "paced", SEARCHED)


@dataclass(frozen=True, slots=True)
class Options:
    """What the check is asked for."""

    device: str
    model: str
    minutes: float
    requests: int
    sampled: int
    plans: Path
    out: Path
    is_sequential_too: bool = True  # of the plans that are compared with
    policies: tuple[str, ...] = ()  # whose plans are replayed; all there are, if none is named

    @property
    def is_gpu(self) -> bool:
        """Or a CPU that goes the same way."""
        return self.device == "cuda"

    @property
    def profiles(self) -> Path:
        """Where measured profiles are."""
        return self.out / "profiles"


class Finding(NamedTuple):
    """One line of the table. `ok` is None for what has no right or wrong."""

    what: str
    value: str
    ok: bool | None = None


def say(text: str) -> None:
    """Progress, which is no result."""
    print(text, file=sys.stderr, flush=True)
