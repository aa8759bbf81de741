"""What a synthetic pool shall be: targets, sources, size. The paper's workloads as rows."""

from dataclasses import dataclass, replace

from blendsim.errors import InputError, UnknownName

DEFAULT_SOURCES = ("burstgpt", "mmlu", "openvid")
#: The compute-heavy sources of the paper's four grids (Figures 11 and 13–15).
GRID_SOURCES = ("burstgpt", "azure", "sharegpt", "wildchat")
_GRID_DENSITIES = tuple(round(0.80 + 0.05 * i, 2) for i in range(13))
_GRID_SHARINGS = (0.05, 0.15, 0.25, 0.35, 0.45)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Two targets and a size, which fix the counts of three sources."""

    density: float  # (1 − s)·ΣComp / ΣMem, s the sharing below: the definition of Table 4
    sharing: float  # prompt tokens that need not be computed / prompt tokens, token by token
    requests: int = 40_000
    sources: tuple[str, ...] = DEFAULT_SOURCES
    seed: int = 0
    system_tokens: int = 5  # of each source's own system prompt: Table 4's .02 of BurstGPT's mean
    tolerance: float = 0.01  # relative, of both targets

    def __post_init__(self) -> None:
        for name, value, right in (
            ("density", self.density, 0 < self.density < float("inf")),
            ("sharing", self.sharing, 0 < self.sharing < 1),
            ("requests", self.requests, 3 <= self.requests <= 10_000_000),
            ("seed", self.seed, self.seed >= 0),
            ("system_tokens", self.system_tokens, 0 <= self.system_tokens <= 4096),
            ("tolerance", self.tolerance, 0 < self.tolerance < 1),
        ):
            if not right:
                raise InputError(f"synth: {name} {value} is out of range; {_RANGES[name]}")
        if len(self.sources) != 3 or len(set(self.sources)) != 3:
            raise InputError(
                f"synth: sources {','.join(self.sources)!r} are not three different ones; density, "
                "sharing and requests fix the counts of three, as in burstgpt,mmlu,openvid"
            )


_RANGES = {
    "density": "give a number above 0",
    "sharing": "give a share of prompt tokens between 0 and 1",
    "requests": "give 3 to 10,000,000",
    "seed": "give 0 or more",
    "system_tokens": "give 0 to 4096",
    "tolerance": "give a share between 0 and 1",
}

#: The paper's four main workloads.
RECIPES = {
    "trace1": Recipe(1.4, 0.35, 400_000),
    "trace2": Recipe(0.9, 0.35, 400_000),
    "trace3": Recipe(1.4, 0.05, 400_000),
    "trace4": Recipe(0.9, 0.05, 400_000),
}


def recipe(name: str) -> Recipe:
    """The named recipe."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]


def grid(source: str = "burstgpt", requests: int = 40_000, seed: int = 0) -> list[Recipe]:
    """The 65 points of Figure 11, or of its twins with another compute-heavy source: thirteen
    densities from .80 to 1.40 by five sharing ratios from .05 to .45.
    """
    if source not in GRID_SOURCES:
        raise UnknownName("grid source", source, GRID_SOURCES)
    base = Recipe(1.0, 0.05, requests, (source, "mmlu", "openvid"), seed)
    return [
        replace(base, density=density, sharing=sharing)
        for density in _GRID_DENSITIES
        for sharing in _GRID_SHARINGS
    ]
