"""Host memory behind the KV cache: what goes there, what comes back, and what that costs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracle_serving import World
from serving_worlds import compare, core_of, steps, triples

from blendsim import search
from blendsim.errors import InputError, UnknownName
from blendsim.request import from_lengths
from blendsim.serving.flavour import find_flavour
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.specs import Link, find_gpu, find_model
from blendsim.steplog import StepLog
from blendsim.system import HostMemory, System

#: Two requests that fit with their prompts, not with their outputs.
TIGHT = World(
    prompts=((0,) * 4, (1,) * 6),
    outputs=(9, 4),
    estimates=(9, 4),
    densities=(1.0, 1.0),
    capacity=6,
    block=2,
    budget=16,
    predicted_peak=False,
    host=8,
)
LEFT, RIGHT = (1,) * 6, (2,) * 6
#: One at a time: the second one's prompt evicts the first one's, which the third one asks for.
SWAP = World(
    prompts=((*LEFT, 7), RIGHT, (*LEFT, 8, 8), RIGHT),
    outputs=(1,) * 4,
    estimates=(1,) * 4,
    densities=(1.0,) * 4,
    capacity=4,
    block=2,
    budget=16,
    max_running=1,
    host=8,
)


def told(world: World, *names: str) -> list[list[int]]:
    """Those counts of every step."""
    return [[row[name] for name in names] for row in steps(core_of(world))]


def total(world: World, *names: str) -> list[int]:
    """Sums of counts over the run."""
    return np.sum(told(world, *names), axis=0).tolist()


def trail(world: World, request: int) -> list[tuple[int, int]]:
    """(computed before, tokens) of every step that has the request in it."""
    core, found = core_of(world), []
    while not core.is_done:
        core.step()
        found += [row[1:] for row in triples(core) if row[0] == request]
        core.commit()
    return found


def test_preempted_request_comes_back_and_computes_its_next_token_only() -> None:
    assert trail(replace(TIGHT, host=0), 1) == [(0, 6), (0, 7), (7, 1), (8, 1)]
    assert trail(TIGHT, 1) == [(0, 6), (6, 1), (7, 1), (8, 1)]
    assert total(TIGHT, "stored_blocks", "loaded_blocks", "preempted_tokens") == [3, 3, 0]
    assert compare(TIGHT) == compare(replace(TIGHT, host=0))


def test_token_computed_on_coming_back_is_a_decode() -> None:
    names = ("loaded_blocks", "prefill_tokens", "decode_requests", "context_tokens")
    assert [row for row in told(TIGHT, *names) if row[0]] == [[3, 0, 1, 7]]


def test_host_without_room_for_all_of_a_request_stores_none_of_it() -> None:
    assert total(replace(TIGHT, host=2), "stored_blocks", "preempted_tokens") == [0, 6]
    assert total(replace(TIGHT, host=3), "stored_blocks", "preempted_tokens") == [3, 0]


def test_evicted_prefix_is_loaded_instead_of_computed() -> None:
    names = ("prefill_tokens", "hit_tokens", "loaded_blocks")
    assert told(replace(SWAP, host=0), *names) == [[7, 0, 0], [6, 0, 0], [6, 2, 0], [6, 0, 0]]
    assert told(SWAP, *names) == [[7, 0, 0], [6, 0, 0], [2, 6, 2], [2, 4, 2]]


def test_block_is_on_the_gpu_or_on_the_host() -> None:
    core = core_of(SWAP)
    state: Any = core.state
    for _ in steps(core):
        there = state.scalars[0]
        assert int(there.host_cached + there.shared_held + there.idle) <= 6
    assert int(there.host_free + there.host_cached) == 8


def test_host_forgets_the_oldest_prefix_first() -> None:
    """Room for one prompt's blocks: the first one is forgotten when the second one comes."""
    third = (3,) * 6
    world = replace(
        SWAP,
        prompts=(LEFT, RIGHT, third, RIGHT, LEFT, third),
        outputs=(1,) * 6,
        estimates=(1,) * 6,
        densities=(1.0,) * 6,
        capacity=3,
        host=3,
    )
    assert [row[0] for row in told(world, "loaded_blocks")] == [0, 0, 0, 2, 0, 0]
    assert [row[0] for row in told(replace(world, host=9), "loaded_blocks")] == [0, 0, 0, 2, 2, 2]


def test_what_nobody_waits_for_is_not_stored_where_eviction_knows_the_plan() -> None:
    assert total(SWAP, "stored_blocks")[0] > 0
    world = replace(SWAP, prompts=((*LEFT, 7), (*LEFT, 8), RIGHT, RIGHT))
    assert total(replace(world, knows_plan=False), "stored_blocks") == [2]
    assert total(replace(world, knows_plan=True), "stored_blocks") == [0]


def test_blocks_left_behind_go_to_the_host_as_prefixes_do() -> None:
    world = replace(TIGHT, keeps_own=True)
    assert total(world, "stored_blocks", "loaded_blocks")[0] > 0
    assert trail(world, 1)[1] == (6, 1)
    compare(world)


def test_stored_blocks_are_lost_when_the_path_before_them_is() -> None:
    """Nobody keeps the prefix of a preempted request where the host is full of its own blocks."""
    shared = (5,) * 4
    world = World(
        prompts=((3,) * 4, (*shared, 1, 1), (*shared, 2, 2)),
        outputs=(20, 10, 1),
        estimates=(1, 1, 1),
        densities=(1.0,) * 3,
        capacity=12,
        block=2,
        budget=16,
        max_running=2,
        predicted_peak=False,
        host=4,
    )
    compare(world)
    names = ("preempted", "stored_blocks", "admitted", "loaded_blocks", "preempted_tokens")
    moved = [row for row in told(world, *names) if any(row)]
    assert moved == [[0, 0, 2, 0, 0], [1, 4, 0, 0, 0], [0, 0, 2, 0, 8]]


def test_without_host_nothing_moves() -> None:
    world = replace(TIGHT, host=0)
    assert total(world, "stored_blocks", "loaded_blocks") == [0, 0]
    assert core_of(world).state.host == ()


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("host_free", "not its capacity"),
        ("host_cached", "blocks on the host, counted"),
        ("host_private", "stored blocks, counted"),
    ],
)
def test_check_finds_a_host_total_that_is_off(field: str, sentence: str) -> None:
    core = core_of(SWAP)
    core.step()
    core.commit()
    core.check()
    core.state.scalars[0][field] += 1
    with pytest.raises(AssertionError, match=sentence):
        core.check()


def crowded() -> tuple[search.Problem, Any]:
    """Requests whose outputs are three times the memory for them, and their plan."""
    rng = np.random.default_rng(1)
    workload = from_lengths(rng.integers(200, 900, 80), rng.integers(300, 900, 80))
    problem = search.prepare(workload, Settings(sample=1.0, kv_bytes=3_000_000_000))
    return problem, search.plan_policy(problem, "fcfs")


def log_of(link: Link | None) -> tuple[search.Problem, StepLog]:
    """The crowd as vLLM would admit it, with 40 GB behind `link`."""
    problem, plan = crowded()
    host = None if link is None else HostMemory(40_000_000_000, link)
    flavour = replace(find_flavour("vllm"), keeps_own_blocks=False)
    output = problem.workload.output_len
    log = simulate(
        plan, problem.workload, output, problem.prompts, problem.model, flavour, host=host
    )
    return problem, log


def test_step_takes_as_long_as_its_slower_direction_if_that_is_longer() -> None:
    link = Link("straw", 4e9, 1e-4)
    problem, log = log_of(link)
    moved = np.maximum(log.count("stored_blocks"), log.count("loaded_blocks"))
    block_bytes = problem.model.system.kv_bytes_per_token * 16
    asked = np.where(moved > 0, moved * block_bytes / 4e9 + 1e-4, 0.0)
    assert np.allclose(log.time("link_seconds"), asked, rtol=1e-12)
    alone = log.time("compute_seconds") + log.time("memory_seconds")
    assert np.allclose(log.time("seconds"), np.maximum(alone, asked), rtol=1e-12)
    assert (asked > alone).any()


def test_wide_link_saves_the_recomputation_and_a_thin_one_costs_more_than_it() -> None:
    seconds = {}
    for name, link in (("none", None), ("wide", Link("w", 64e9)), ("thin", Link("t", 2e8))):
        log = log_of(link)[1]
        seconds[name] = float(log.time("seconds").sum())
        assert (log.count("preempted_tokens").sum() == 0) == (link is not None)
    assert seconds["wide"] < seconds["none"] < seconds["thin"]


def test_every_gpu_moves_its_own_share_of_a_block() -> None:
    host = HostMemory(1 << 30, Link("link", 1e9))
    one, two = (System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), tp=tp) for tp in (1, 2))
    assert host.seconds_per_block(one) == 2 * host.seconds_per_block(two) == 131_072 * 16 / 1e9
    assert host.blocks(one) == (1 << 30) // (131_072 * 16)


def test_host_memory_too_small_for_a_block_is_refused() -> None:
    with pytest.raises(InputError, match="host_memory_bytes = 5 holds no KV block of 16 tokens"):
        _ = Settings(host_memory_bytes=5).host


def test_unknown_host_link_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown link 'pcie3'; nearest known: pcie"):
        _ = Settings(host_memory_bytes=1 << 30, host_link="pcie3").host
