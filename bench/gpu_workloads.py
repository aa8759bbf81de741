"""The pools that a GPU replays: the paper's four workloads, and the same ones short enough for a
run of every step in about 40 seconds.

A video of the paper has 16,384 tokens in the mean and up to 130,560: its steps alone take minutes.
Short ones have an eighth of the tokens, 2,048 at most, and are as many more as the recipe's density
then asks for. Prompts, questions, sharing and the order of things stay as they are.
"""

from dataclasses import replace

import numpy as np

from blendsim.perf.density import closed_form
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Ints, Workload, pool
from blendsim.specs import System, find_gpu, find_model
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES, Recipe
from blendsim.synth.solver import Reached, Totals, counts, reached
from blendsim.synth.sources import open_source
from blendsim.synth.supply import LengthSupply, Supply
from blendsim.traces.demo import OPENVID

SHORTER = 8  # times fewer tokens a video
LONGEST = 2_048  # tokens of a short video
_PILOT = 4_000  # requests of each source that counts are solved by
_VIDEO = "openvid"
#: Densities of the recipes are those of the closed form on this system.
_PAPER = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))

#: Requests of each short pool: about 40 s in prefix order on an H200, as simulated.
SHORT_REQUESTS = {"trace1": 2_400, "trace2": 1_450, "trace3": 1_700, "trace4": 740}


def full_pool(name: str) -> Workload:
    """One of the paper's workloads, 400,000 requests."""
    return blend(RECIPES[name], _PAPER).workload


def short_pool(name: str, requests: int | None = None) -> Workload:
    """The same recipe from short videos."""
    recipe = replace(RECIPES[name], requests=requests or SHORT_REQUESTS[name])
    supplies = [_supply(source, recipe) for source in recipe.sources]
    rates = [_per_request(supply.requests(_PILOT, 0)) for supply in supplies]
    numbers = counts(recipe, rates).tolist()
    parts = [supply.requests(n, 1) for supply, n in zip(supplies, numbers, strict=True)]
    told = ", ".join(f"{n:,} of {s.name}" for s, n in zip(supplies, numbers, strict=True))
    return replace(
        pool(parts),
        origin=("short", name),
        notes=(f"{name} with videos of {SHORTER} times fewer tokens, {LONGEST} at most: {told}",),
    )


def density_and_sharing(workload: Workload) -> Reached:
    """What a pool has of the recipe's two targets."""
    return reached(*_totals(workload))


def _supply(source: str, recipe: Recipe) -> Supply:
    if source != _VIDEO:
        return open_source(source, None, recipe.seed, recipe.system_tokens)
    return LengthSupply(
        source,
        f"generator demo:{source}, shortened",
        _short_videos,
        is_known=True,
        seed=recipe.seed,
        system_tokens=recipe.system_tokens,
    )


def _short_videos(n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    drawn = OPENVID.sample(n, rng)
    return drawn.prompt, np.clip(drawn.output // SHORTER, 1, LONGEST)


def _totals(workload: Workload) -> Totals:
    costs = closed_form(_PAPER, workload.prompt_len, workload.output_len)
    return Totals(
        float(costs.compute.sum()),
        float(costs.memory.sum()),
        float(workload.prompt_len.sum()),
        float(shareable_tokens(workload, sort_prompts(workload))),
    )


def _per_request(workload: Workload) -> Totals:
    return Totals(*(value / len(workload) for value in _totals(workload)))
