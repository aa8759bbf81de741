"""Topology: how replicas stand together, a row of fields; `run` builds the world from it."""

import re
from dataclasses import dataclass

from blendsim.errors import InputError
from blendsim.specs import Link

_POOLS = re.compile(r"(\d+)P(\d+)D", re.IGNORECASE)


#: A step takes longer: to look more often sees nothing else.
LEAST_STEAL_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class Topology:
    """Colocated replicas (each does prefill and decode), or a pool of prefill and one of decode
    replicas with a link between them.
    """

    prefill: int = 0  # replicas that only prefill; 0: every replica does both
    decode: int = 0  # replicas that only decode
    link: Link | None = None  # KV moves over it from the prefill pool to the decode pool
    #: Colocated ranks without waiting requests take some from the rank that has most left.
    steals: bool = False
    steal_seconds: float = 1.0  # simulated time between two looks at who has nothing to do

    def __post_init__(self) -> None:
        if (self.prefill > 0) != (self.decode > 0) or min(self.prefill, self.decode) < 0:
            raise InputError(
                f"{self.prefill}P{self.decode}D lacks a pool; give at least 1P1D, or no pools"
            )
        if self.prefill and self.link is None:
            raise InputError(f"{self.name} needs a link between its pools; name one")
        if self.prefill and self.steals:
            raise InputError(
                f"{self.name}: only colocated ranks steal from each other; leave out steals"
            )
        if not LEAST_STEAL_SECONDS <= self.steal_seconds < float("inf"):
            raise InputError(
                f"steal_seconds = {self.steal_seconds:g} must be {LEAST_STEAL_SECONDS:g} or more: "
                "ranks are looked at so often; give 1 or so"
            )

    @property
    def is_disaggregated(self) -> bool:
        """Whether prefill and decode run on different replicas."""
        return self.prefill > 0

    @property
    def name(self) -> str:
        """ "1P2D", or "colocated"."""
        return f"{self.prefill}P{self.decode}D" if self.prefill else "colocated"


COLOCATED = Topology()


def pools(text: str, link: Link) -> Topology:
    """The topology that "1P2D" names, with this link between its pools."""
    match = _POOLS.fullmatch(text)
    if match is None:
        raise InputError(f"topology {text!r} is not of the form 1P2D; name both pools' replicas")
    prefill, decode = int(match[1]), int(match[2])
    if not prefill or not decode:
        raise InputError(f"topology {text} lacks a pool; give at least 1P1D, or colocated")
    return Topology(prefill=prefill, decode=decode, link=link)
