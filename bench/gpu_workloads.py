"""The pools that a GPU replays: the paper's four workloads, and the same ones short enough for a
run of every step in about 40 seconds.

A video of the paper has 16,384 tokens in the mean and up to 130,560: its steps alone take minutes.
Short ones have an eighth of the tokens and are cut at 1,024 or 2,048, and are as many more as the
recipe's density then asks for: that of the GPU they are run on, since so short videos are too light
for an A100's. Prompts, questions and sharing stay as they are.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.perf.density import closed_form
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, pool
from blendsim.specs import find_gpu, find_model
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES, Recipe
from blendsim.synth.solver import Reached, Totals, counts, reached
from blendsim.synth.sources import open_source
from blendsim.synth.supply import LengthSupply, Supply
from blendsim.system import System
from blendsim.traces.demo import OPENVID

SHORTER = 8  # times fewer tokens a video
_PILOT = 4_000  # requests of each source that counts are solved by
_VIDEO = "openvid"
#: Whose KV memory `FILLED` is told of, and whose density the pools have.
MODEL = find_model("llama-3.1-8b")
#: Densities of the paper's recipes are those of the closed form on this GPU.
PAPER_GPU = "a100-80g"


class Short(NamedTuple):
    """A short pool: about 40 s in prefix order on an H200, as simulated."""

    requests: int
    longest: int  # tokens of a video


SHORT = {
    "trace1": Short(3_000, 1_024),
    "trace2": Short(1_700, 1_024),
    "trace3": Short(2_000, 1_024),
    "trace4": Short(1_300, 1_536),  # lighter ones do not reach its density
}

#: Bytes of KV memory that a short pool is to fill and empty many times, as its 400,000 requests do
#: with all of a GPU's. Without, a short run never fills it, and no order of admission matters.
FILLED = {"trace1": 24 * 10**9, "trace2": 32 * 10**9, "trace3": 32 * 10**9, "trace4": 32 * 10**9}


def full_pool(name: str) -> Workload:
    """One of the paper's workloads, 400,000 requests."""
    return blend(RECIPES[name], _system(PAPER_GPU)).workload


def short_pool(name: str, gpu: str, requests: int | None = None) -> Workload:
    """The same recipe from short videos, for a GPU."""
    short = SHORT[name]
    recipe = replace(RECIPES[name], requests=requests or short.requests)
    supplies = [_supply(source, recipe, short.longest) for source in recipe.sources]
    rates = [_per_request(supply.requests(_PILOT, 0), gpu) for supply in supplies]
    numbers = counts(recipe, rates).tolist()
    parts = [supply.requests(n, 1) for supply, n in zip(supplies, numbers, strict=True)]
    told = ", ".join(f"{n:,} of {s.name}" for s, n in zip(supplies, numbers, strict=True))
    about = f"videos of {SHORTER} times fewer tokens, {short.longest} at most"
    return replace(
        pool(parts), origin=("short", name), notes=(f"{name} for {gpu} with {about}: {told}",)
    )


def density_and_sharing(workload: Workload, gpu: str) -> Reached:
    """What a pool has of the recipe's two targets on a GPU."""
    return reached(*_totals(workload, gpu))


def _system(gpu: str) -> System:
    return System(MODEL, find_gpu(gpu))


def _supply(source: str, recipe: Recipe, longest: int) -> Supply:
    if source != _VIDEO:
        return open_source(source, None, recipe.seed, recipe.system_tokens)
    return LengthSupply(
        source,
        f"generator demo:{source}, shortened",
        partial(_short_videos, longest),
        is_known=True,
        seed=recipe.seed,
        system_tokens=recipe.system_tokens,
    )


def _short_videos(longest: int, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    drawn = OPENVID.sample(n, rng)
    return drawn.prompt, np.clip(drawn.output // SHORTER, 1, longest)


def _totals(workload: Workload, gpu: str) -> Totals:
    costs = closed_form(_system(gpu), workload.prompt_len, workload.output_len)
    return Totals(
        float(costs.compute.sum()),
        float(costs.memory.sum()),
        float(workload.prompt_len.sum()),
        float(shareable_tokens(workload, sort_prompts(workload))),
    )


def _per_request(workload: Workload, gpu: str) -> Totals:
    return Totals(*(value / len(workload) for value in _totals(workload, gpu)))
