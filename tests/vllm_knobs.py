"""Worlds in which one of vLLM's knobs is turned: those of `vllm_worlds`, made to feel it."""

from collections.abc import Callable

import numpy as np
from vllm_worlds import BLOCK, World, small_worlds

Turn = Callable[[World, np.random.Generator], World]


def with_watermark(world: World, rng: np.random.Generator) -> World:
    """A share of the blocks stays free."""
    return world | {"knobs": {"watermark": float(rng.choice([0.02, 0.05, 0.1, 0.3]))}}


def with_fewer_active(world: World, rng: np.random.Generator) -> World:
    """Fewer requests run than the limit says."""
    most = int(rng.integers(1, world["max_running"]))
    return world | {"knobs": {"max_num_active_seqs": most}}


def with_interval(world: World, rng: np.random.Generator) -> World:
    """Prompts wait for their turn; more memory and room, so that a backlog ends early."""
    return world | {
        "max_running": 16 if world["budget"] < 48 else 48,
        "capacity": world["capacity"] + int(rng.integers(0, 40)),
        "knobs": {"prefill_schedule_interval": int(rng.integers(2, 9))},
    }


def with_slices(world: World, rng: np.random.Generator) -> World:
    """Long prompts in slices; what they share is no longer than a slice."""
    if not world["sharing"] or rng.random() < 0.3:
        slices = int(rng.integers(4, 48))
        return world | {"sharing": False, "knobs": {"long_prefill_token_threshold": slices}}
    prompts = []
    for k, prompt in enumerate(world["prompts"]):
        head = min(len(prompt) - 1, BLOCK * int(rng.integers(0, 3)))
        prompts.append(prompt[:1] * head + [200_000 + k] * (len(prompt) - head))
    slices = 2 * BLOCK + int(rng.integers(0, 40))
    return world | {"prompts": prompts, "knobs": {"long_prefill_token_threshold": slices}}


def with_several(world: World, rng: np.random.Generator) -> World:
    """Watermark, fewer active requests, and interval or slices."""
    knobs = with_watermark(world, rng)["knobs"] | with_fewer_active(world, rng)["knobs"]
    turned = (with_interval if rng.random() < 0.5 else with_slices)(world, rng)
    return turned | {"knobs": turned["knobs"] | knobs}


def with_slices_of_heads(world: World, rng: np.random.Generator) -> World:
    """Slices shorter than what prompts share, which vLLM stores once for each of them."""
    slices = int(rng.choice([16, 24, 48]))
    return world | {"sharing": True, "knobs": {"long_prefill_token_threshold": slices}}


#: By name: how a world is turned, each of which our core follows step by step.
EXACT: dict[str, Turn] = {
    "watermark": with_watermark,
    "active": with_fewer_active,
    "interval": with_interval,
    "slices": with_slices,
    "several": with_several,
}
KNOBS: dict[str, Turn] = EXACT | {"slices of heads": with_slices_of_heads}


def knob_worlds(name: str, number: int, start: int = 0) -> list[World]:
    """`number` worlds for a knob, the same ones for a `start`."""
    rng = np.random.default_rng([start, list(KNOBS).index(name)])
    base = small_worlds(number, False, start=1_000 * (1 + list(KNOBS).index(name)) + start)
    return [KNOBS[name](world, rng) for world in base]
