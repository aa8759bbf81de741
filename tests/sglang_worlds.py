"""Small worlds served in rounds: how to draw them, and how to run one in both cores."""

from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import strategies as st
from oracle_sglang import RoundWorld, SlowRounds
from serving_worlds import triples

from blendsim.plan import DUAL_SCAN, IN_ORDER, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.specs import LINKS, GpuSpec, ModelSpec
from blendsim.system import System

#: One KV token of this model takes 4 bytes.
_MODEL = ModelSpec("grain", 1, 1, 1, heads=1, kv_heads=1, head_dim=1, vocab=1, context=1 << 20)
_GPU = GpuSpec("sand", 1.0, 1.0, memory_bytes=1 << 40, sm_count=1, link=LINKS["pcie4"])


def rounds_of(world: RoundWorld) -> ServingCore:
    """The compiled core for `world`, made the way the simulator makes it: from a plan."""
    n = len(world.prompts)
    prompts = Prompts(
        offsets=np.array([0, *accumulate(map(len, world.prompts))], np.int64),
        units=np.array([token for prompt in world.prompts for token in prompt], np.int64),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    workload = from_lengths([len(p) for p in world.prompts], world.outputs, prompts=prompts)
    workload = replace(workload, output_limit=np.array(world.limits, np.int64))
    plan = Plan(
        policy="drawn",
        admission=DUAL_SCAN if world.dual else IN_ORDER,
        order=np.arange(n),
        rank=np.zeros(n, np.int32),
        is_first=np.arange(n) < world.first,
        is_visible=np.zeros(n, np.bool_),
        expected_output=np.array(world.estimates, np.int64),
        density=np.array(world.densities),
        root_density=world.root_density,
        workload_hash="",
        meta={},
    )
    flavour = replace(
        find_flavour("sglang"),
        token_budget=world.budget,
        max_running=world.max_running,
        prefix_sharing=world.sharing,
        output_reserved=world.output_reserved,
        mixed_chunk=world.mixed,
        queue_order=world.order,
        conservativeness=world.conservativeness,
        cascade=world.cascade,
    )
    kv_bytes = world.capacity * _MODEL.kv_bytes_per_token
    system = System(_MODEL, _GPU, kv_bytes=kv_bytes, block_tokens=world.block)
    return ServingCore.from_plan(
        plan, workload, workload.output_len, sort_prompts(workload), system, flavour
    )


def roomy(prompts: list[tuple[int, ...]], outputs: list[int], **rules: Any) -> RoundWorld:
    """A world in which nothing runs out, unless `rules` say otherwise. Lengths are forced."""
    n = len(prompts)
    world = RoundWorld(
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        estimates=tuple(outputs),
        densities=(1.0,) * n,
        capacity=100_000,
        block=1,
        budget=2_048,
        limits=(0,) * n,
    )
    return replace(world, **{"max_running": min(64, rules.get("budget", 64)), **rules})


def compare(world: RoundWorld, limit: int = 20_000) -> int:
    """Run both cores and assert that they agree in every step; returns the number of steps."""
    fast, slow = rounds_of(world), SlowRounds(world)
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
        assert fast.rounds is not None
        assert float(fast.rounds.scalars[0].ratio) == slow.ratio, f"step {step}: another ratio"
    raise AssertionError(f"not done after {limit} steps")


@st.composite
def round_worlds(draw: st.DrawFn) -> RoundWorld:
    """1–12 requests in little memory, with limits that may be far above what is generated, and
    common heads long enough for `lpm` to let one request wait for another.
    """
    heads = draw(st.lists(st.integers(1, 10) | st.just(34), min_size=1, max_size=3))
    n = draw(st.integers(1, 16))
    forced = draw(st.sampled_from([True, False, False]))  # all lengths, or some
    stretch = draw(st.sampled_from([1] * 5 + [6]))  # long outputs are retracted more than once
    prompts, outputs, limits = [], [], []
    for k in range(n):
        head = draw(st.integers(0, len(heads) - 1))
        wanted = sum(heads[: head + 1]) if draw(st.booleans()) else 0
        length = max(1, wanted + draw(st.integers(-3, 20)))
        shared = min(wanted, length)
        own = draw(st.sampled_from([-1, -2, 100 + k]))  # a tail others may have too, or its own
        prompts.append(tuple(range(shared)) + (own,) * (length - shared))
        outputs.append(stretch * draw(st.integers(1, 24)))
        limits.append(0 if forced else outputs[-1] * draw(st.sampled_from([0, 1, 1, 2])))
    longest = max(len(p) + d for p, d in zip(prompts, outputs, strict=True))
    budget = draw(st.integers(1, 96))
    densities = draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0]), min_size=n, max_size=n))
    first = draw(st.sampled_from([0, 0, n // 3]))
    if draw(st.booleans()):
        densities[first:] = sorted(densities[first:], reverse=True)
    return RoundWorld(
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        estimates=tuple(
            max(1, round(d * draw(st.sampled_from([0.1, 0.5, 1.0, 2.0])))) for d in outputs
        ),
        densities=tuple(densities),
        root_density=draw(st.sampled_from([0.3, 1.0, 3.0])),
        capacity=longest + draw(st.integers(0, 40)),
        block=1,
        budget=budget,
        max_running=min(budget, draw(st.integers(1, n + 1) | st.just(n))),
        predicted_peak=False,
        sharing=draw(st.sampled_from([True, True, True, False])),
        dual=draw(st.sampled_from([False, False, True])),
        first=first,
        output_reserved=draw(st.sampled_from([0.0, 0.5, 1.0])),
        limits=tuple(limits),
        mixed=draw(st.booleans()),
        order=draw(st.sampled_from(["fcfs", "lpm", "dfs-weight"])),
        conservativeness=draw(st.sampled_from([0.01, 0.01, 0.3, 1.0, 2.0])),
        cascade=draw(st.booleans()),
    )
