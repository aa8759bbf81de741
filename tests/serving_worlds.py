"""Small worlds for the serving core: how to draw them, and how to run one in both cores."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from hypothesis import strategies as st
from oracle_serving import SlowCore, World

from blendsim import search
from blendsim.arrays import Ints
from blendsim.pacing import Pacing
from blendsim.plan import DUAL_SCAN, IN_ORDER, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import (
    BY_PLAN,
    LRU,
    PREDICTED_PEAK,
    PROMPT_FITS,
    Flavour,
    find_flavour,
)
from blendsim.serving.knobs import Knobs
from blendsim.serving.state import DONE
from blendsim.specs import LINKS, GpuSpec, Link, ModelSpec
from blendsim.system import HostMemory, System

#: One KV token of this model takes 4 bytes.
_MODEL = ModelSpec("grain", 1, 1, 1, heads=1, kv_heads=1, head_dim=1, vocab=1, context=1 << 20)
_GPU = GpuSpec("sand", 1.0, 1.0, memory_bytes=1 << 40, sm_count=1, link=LINKS["pcie4"])


def core_of_plan(problem: search.Problem, plan: Plan, name: str = "nanoflow") -> ServingCore:
    """The compiled core that serves the plan of a problem, on the true lengths."""
    return ServingCore.from_plan(
        plan,
        problem.workload,
        problem.workload.output_len,
        problem.prompts,
        problem.model.system,
        find_flavour(name),
    )


def core_of(
    world: World,
    pacing: Pacing | None = None,
    visible: Sequence[bool] | None = None,
    source: Sequence[int] | None = None,
) -> ServingCore:
    """The compiled core for `world`, made the way the simulator makes it: from a plan. A paced one
    tells requests of `visible` length and their `source` apart.
    """
    n = len(world.prompts)
    prompts = Prompts(
        offsets=np.array([0, *accumulate(map(len, world.prompts))], np.int64),
        units=np.array([token for prompt in world.prompts for token in prompt], np.int64),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    workload = from_lengths([len(p) for p in world.prompts], world.outputs, prompts=prompts)
    if source is not None:
        names = tuple(f"source {i}" for i in range(max(source) + 1))
        workload = replace(workload, source=np.array(source, np.int32), source_names=names)
    plan = Plan(
        policy="drawn",
        admission=DUAL_SCAN if world.dual else IN_ORDER,
        order=np.arange(n),
        rank=np.zeros(n, np.int32),
        is_first=np.arange(n) < world.first,
        is_visible=np.zeros(n, np.bool_) if visible is None else np.array(visible),
        expected_output=np.array(world.estimates, np.int64),
        density=np.array(world.densities),
        root_density=world.root_density,
        workload_hash="",
        meta={},
        pacing=pacing,
    )
    flavour = Flavour(
        "drawn",
        "0",
        token_budget=world.budget,
        max_running=world.max_running,
        admission=PREDICTED_PEAK if world.predicted_peak else PROMPT_FITS,
        prefix_sharing=world.sharing,
        output_reserved=world.output_reserved,
        dense_multiple=world.multiple,
        keeps_own_blocks=world.keeps_own,
        oldest_leaves_first=world.oldest_first,
        eviction=BY_PLAN if world.knows_plan else LRU,
        cascade=world.cascade,
        knobs=Knobs(
            # half a block more, against rounding
            watermark=min(
                0.99, (world.watermark + 0.5 * (world.watermark > 0)) / (world.capacity + 1)
            ),
            prefill_schedule_interval=world.interval,
            long_prefill_token_threshold=world.slice,
        ),
    )
    # A window of one token lies in one block, of which each windowed layer holds as much as the one
    # that keeps the whole context.
    windows = {"layers": 1 + world.window, "window": 1, "windowed_layers": world.window}
    model = replace(_MODEL, **windows) if world.window else _MODEL
    size = world.block * model.kv_bytes_per_token
    kv_bytes = world.capacity * size
    system = System(model, _GPU, kv_bytes=kv_bytes, block_tokens=world.block)
    assert (system.kv_blocks, system.window_blocks) == (world.capacity, world.window)
    host = HostMemory(world.host * size, Link("straw", 1.0)) if world.host else None
    return ServingCore.from_plan(
        plan, workload, workload.output_len, sort_prompts(workload), system, flavour, host=host
    )


def triples(core: ServingCore) -> list[tuple[int, int, int]]:
    """(request, tokens computed before, tokens now) of all that runs in the step."""
    return sorted(zip(*(column.tolist() for column in core.scheduled()), strict=True))


def steps(core: ServingCore, limit: int = 20_000) -> Iterator[dict[str, int]]:
    """Run `core` to its end, with its conservation check after every step; yields their counts."""
    for _ in range(limit):
        if core.is_done:
            return
        core.step()
        core.commit()
        core.check()
        yield core.counts()
    raise AssertionError(f"not done after {limit} steps")


def compare(world: World, limit: int = 20_000) -> int:
    """Run both cores and assert that they agree in every step; returns the number of steps."""
    fast, slow = core_of(world), SlowCore(world)
    for step in range(limit):
        assert fast.is_done == slow.is_done, f"step {step}: one of the two is done"
        if slow.is_done:
            return step
        fast.step()
        slow.step()
        assert triples(fast) == slow.scheduled(), f"step {step}: other requests run"
        fast.commit()
        slow.commit()
        fast.check()
        assert fast.counts() == slow.counts, f"step {step}: other counts"
    raise AssertionError(f"not done after {limit} steps")


def some_that_can_end(core: ServingCore, rng: np.random.Generator) -> Ints:
    """Requests with a token, some that decode, more that wait and whoever recomputes, in any
    order.
    """
    requests = core.state.requests
    able = np.flatnonzero((requests.status != DONE) & (requests.generated > 0))
    chance = np.array([0.2, 1.0, 0.05])[requests.status[able]]
    return rng.permutation(able[rng.random(len(able)) < chance])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """1–12 requests in little memory, with estimates that may be far too low or too high."""
    block = draw(st.integers(1, 4))
    heads = draw(st.lists(st.integers(1, 10), min_size=1, max_size=3))  # lengths of common heads
    n = draw(st.integers(1, 12))
    stretch = draw(st.sampled_from([1] * 9 + [12]))  # long outputs see more of the forecast
    prompts, outputs, estimates = [], [], []
    for k in range(n):
        length = draw(st.integers(1, 24))
        head = draw(st.integers(0, len(heads) - 1))
        shared = min(sum(heads[: head + 1]), length) if draw(st.booleans()) else 0
        own = draw(st.sampled_from([-1, -2, 100 + k]))  # a tail others may have too, or its own
        prompts.append(tuple(range(shared)) + (own,) * (length - shared))
        outputs.append(stretch * draw(st.integers(1, 12)))
        error = draw(st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0, 5.0]))
        estimates.append(max(1, round(error * outputs[-1])))
    longest = max(len(p) + d for p, d in zip(prompts, outputs, strict=True))
    budget = draw(st.integers(1, 24))
    window = draw(st.sampled_from([0] * 5 + [1, 2, 5]))
    densities = draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0]), min_size=n, max_size=n))
    first = draw(st.sampled_from([0, 0, n // 3]))
    if draw(st.booleans()):
        densities[first:] = sorted(densities[first:], reverse=True)
    return World(
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        estimates=tuple(estimates),
        densities=tuple(densities),
        root_density=draw(st.sampled_from([0.3, 1.0, 1.2, 3.0])),
        capacity=-(-longest // block) + window + draw(st.integers(0, 8)),
        block=block,
        budget=budget,
        max_running=draw(st.integers(1, min(budget, n + 1))),
        predicted_peak=draw(st.booleans()),
        sharing=draw(st.sampled_from([True, True, True, False])),
        dual=draw(st.booleans()),
        first=first,
        output_reserved=draw(st.sampled_from([0.0, 0.5, 1.0])),
        multiple=draw(st.sampled_from([1, 1, 2, 3, 8])),
        keeps_own=draw(st.booleans()),
        oldest_first=draw(st.booleans()),
        knows_plan=draw(st.booleans()),
        host=(host := 0 if window else draw(st.sampled_from([0, 0, 1, 3, 8, 40]))),
        cascade=not host and draw(st.booleans()),  # the two do not meet: no kernels for both
        window=window,
    )


@st.composite
def worlds_with_knobs(draw: st.DrawFn) -> World:
    """Worlds for vLLM's knobs, of which slices and intervals exclude each other."""
    world = draw(worlds())
    rule = draw(st.sampled_from(["slice", "slice", "interval", "neither"]))
    return replace(
        world,
        oldest_first=True,
        multiple=1,
        host=0 if rule == "slice" else world.host,
        watermark=draw(st.integers(0, 3)),
        slice=draw(st.integers(1, 9)) if rule == "slice" else 0,
        interval=draw(st.integers(2, 6)) if rule == "interval" else 1,
    )


def worlds_without_host() -> st.SearchStrategy[World]:
    """Worlds whose KV is as the runtime keeps it: on the GPU, of the whole context."""
    return worlds().map(lambda world: replace(world, host=0, window=0))


def prompt(length: int, shared: int = 0, own: int = 100) -> tuple[int, ...]:
    """A prompt of `length` tokens that begins with `shared` common ones."""
    return tuple(range(shared)) + (own,) * (length - shared)


def trail_of(core: ServingCore) -> list[list[tuple[int, int, int]]]:
    """Every step's (request, computed before, tokens), to the core's end."""
    found = []
    while not core.is_done:
        core.step()
        found.append(triples(core))
        core.commit()
    return found
