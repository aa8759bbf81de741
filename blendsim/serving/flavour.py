"""An engine flavour: which of the serving core's rules an engine uses. A row of fields, not a class
of its own.
"""

from dataclasses import dataclass, replace

from blendsim.errors import InputError, UnknownName

PROMPT_FITS = "prompt_fits"  # admit when the whole prompt fits in free blocks (vLLM)
PREDICTED_PEAK = "predicted_peak"  # admit when the running requests' expected peak fits too

LRU = "lru"  # evict the prefix that lost its last reader first
BY_PLAN = "plan"  # evict prefixes without waiting readers before those with some
EVICTIONS = (LRU, BY_PLAN)


@dataclass(frozen=True, slots=True)
class Flavour:
    """Scheduling rules of one engine at one version; tokens and requests are counts a step of one
    replica.
    """

    name: str
    version: str
    token_budget: int = 2_048  # tokens computed in a step: decodes first, prefill chunks fill up
    max_running: int = 1_024  # requests in the engine at once
    admission: str = PREDICTED_PEAK
    prefix_sharing: bool = True
    #: With prefix sharing: full blocks of a request's own stay cached when it leaves.
    keeps_own_blocks: bool = False
    #: Requests that end in one step leave oldest admission first, else decodes newest first.
    oldest_leaves_first: bool = False
    overlaps: bool = True  # runs GEMMs of one nano-batch beside attention of another
    #: Share of its expected output that a request counts with on its side (dual scan).
    output_reserved: float = 0.5
    eviction: str = LRU

    def __post_init__(self) -> None:
        if self.token_budget < 1 or self.max_running < 1:
            raise InputError(
                f"token budget {self.token_budget} and running limit {self.max_running} "
                "must be at least 1"
            )
        if self.eviction not in EVICTIONS:
            raise UnknownName("eviction", self.eviction, EVICTIONS)
        if self.max_running > self.token_budget:
            raise InputError(
                f"token budget {self.token_budget} is below the running limit {self.max_running}: "
                "every running request decodes a token a step; raise the budget or lower the limit"
            )


FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("nanoflow", "OSDI'25", max_running=2_048),
        Flavour(
            "vllm",
            "0.33",
            admission=PROMPT_FITS,
            keeps_own_blocks=True,
            oldest_leaves_first=True,
            overlaps=False,
        ),
        # NOTE: an outline, as is nanoflow: no prefill-first rounds, new_token_ratio or retraction.
        Flavour("sglang", "0.5", admission=PREDICTED_PEAK, overlaps=False),
        Flavour("sequential", "blendsim", max_running=2_048, overlaps=False),
    )
}


def find_flavour(
    name: str, token_budget: int | None = None, eviction: str | None = None
) -> Flavour:
    """The flavour of that name, with another token budget or eviction if one is given."""
    if name not in FLAVOURS:
        raise UnknownName("engine", name, FLAVOURS)
    flavour = FLAVOURS[name]
    if eviction is not None:
        flavour = replace(flavour, eviction=eviction)
    if token_budget is None:
        return flavour
    return replace(
        flavour, token_budget=token_budget, max_running=min(flavour.max_running, token_budget)
    )
