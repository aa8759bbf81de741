"""What a step computes: prompts, decodes, sharing, preemption and the limits they keep to."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from oracle_serving import World
from serving_worlds import core_of, prompt, steps, trail_of, triples, worlds


def roomy(
    prompts: list[tuple[int, ...]], outputs: list[int], block: int = 16, budget: int = 2_048
) -> World:
    """A world in which nothing runs out."""
    return World(
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        estimates=tuple(outputs),
        densities=(1.0,) * len(prompts),
        capacity=1_000,
        block=block,
        budget=budget,
        max_running=min(budget, 64),
    )


def total(world: World, *names: str) -> list[int]:
    """Sums over the whole run of `world`."""
    rows = list(steps(core_of(world)))
    return [sum(row[name] for row in rows) for name in names]


def trail(world: World) -> list[list[tuple[int, int, int]]]:
    """Every step's (request, computed before, tokens)."""
    return trail_of(core_of(world))


def test_first_output_token_comes_with_the_prompt_and_each_further_one_with_a_decode() -> None:
    assert trail(roomy([prompt(5)], [3])) == [[(0, 0, 5)], [(0, 5, 1)], [(0, 6, 1)]]


def test_long_prompt_is_cut_at_the_budget() -> None:
    assert trail(roomy([prompt(10)], [1], budget=4)) == [[(0, 0, 4)], [(0, 4, 4)], [(0, 8, 2)]]


def test_decodes_come_before_prompts_in_the_budget() -> None:
    world = roomy([prompt(2), prompt(9, own=101)], [3, 1], budget=4)
    assert trail(world) == [
        [(0, 0, 2), (1, 0, 2)],
        [(0, 2, 1), (1, 2, 3)],
        [(0, 3, 1), (1, 5, 3)],
        [(1, 8, 1)],
    ]


def test_pairs_of_a_chunk_count_what_lies_before_it() -> None:
    core = core_of(roomy([prompt(10)], [1], budget=4))
    assert [row["prefill_pairs"] for row in steps(core)] == [10, 4 * 4 + 10, 2 * 8 + 3]


def test_equal_prefixes_share_inside_one_step() -> None:
    core = core_of(roomy([prompt(400, 256, own) for own in range(900, 904)], [2] * 4))
    batch = core.step()
    assert triples(core) == [(0, 0, 400), (1, 256, 144), (2, 256, 144), (3, 256, 144)]
    assert batch.prefill_tokens == 400 + 3 * 144
    assert core.counts()["hit_tokens"] == 3 * 256
    assert core.counts()["held_blocks"] == 16 + 4 * 9


def test_without_sharing_everybody_computes_the_whole_prompt() -> None:
    world = roomy([prompt(400, 256, own) for own in range(900, 904)], [2] * 4)
    assert total(replace(world, sharing=False), "prefill_tokens", "hit_tokens") == [1_600, 0]


def test_half_a_common_block_is_not_shared() -> None:
    world = roomy([prompt(40, 31, 900), prompt(40, 31, 901)], [1, 1])
    assert total(world, "prefill_tokens", "hit_tokens") == [64, 16]


def test_last_prompt_token_is_always_recomputed() -> None:
    assert trail(roomy([prompt(32, 32)] * 3, [1] * 3)) == [[(0, 0, 32), (1, 16, 16), (2, 16, 16)]]


def test_last_prompt_token_costs_one_token_with_blocks_of_one() -> None:
    assert trail(roomy([prompt(8, 8)] * 2, [1] * 2, block=1)) == [[(0, 0, 8), (1, 7, 1)]]


def test_recomputed_last_block_is_not_stored_twice() -> None:
    core = core_of(roomy([prompt(32, 32)] * 3, [2] * 3))
    core.step()
    assert core.counts()["held_blocks"] == 2


def test_prompt_cached_to_its_end_waits_for_a_block_to_recompute_its_last_token() -> None:
    """The block is needed for a while only, when the budget cuts the recomputation short."""
    world = World(
        prompts=(prompt(4, 4), prompt(4, 4)),
        outputs=(4, 1),
        estimates=(4, 1),
        densities=(1.0, 1.0),
        capacity=2,
        budget=3,
        max_running=3,
        predicted_peak=False,
    )
    assert trail(world) == [
        [(0, 0, 3)],
        [(0, 3, 1), (1, 0, 2)],
        [(0, 4, 1)],
        [(0, 5, 1)],
        [(0, 6, 1)],
        [(1, 0, 3)],
        [(1, 3, 1)],
    ]


def tight() -> World:
    """Two requests that fit with their prompts, not with their outputs."""
    return World(
        prompts=(prompt(4), prompt(6, own=101)),
        outputs=(9, 4),
        estimates=(9, 4),
        densities=(1.0, 1.0),
        capacity=6,
        block=2,
        budget=16,
        predicted_peak=False,
    )


def test_preempted_request_comes_back_and_recomputes_what_it_had_generated() -> None:
    assert trail(tight()) == [
        [(0, 0, 4), (1, 0, 6)],
        [(0, 4, 1)],  # request 1 has one output token and is thrown out
        *[[(0, context, 1)] for context in range(5, 12)],
        [(1, 0, 7)],  # its prompt and that token, whose logits give the second
        [(1, 7, 1)],
        [(1, 8, 1)],
    ]


def test_recomputing_ends_with_a_decode_that_was_put_off() -> None:
    rows = list(steps(core_of(tight())))
    back = rows[9]
    names = ("prefill_tokens", "prefill_pairs", "decode_requests", "context_tokens")
    assert [back[name] for name in names] == [6, 21, 1, 7]
    assert [(row["preempted"], row["preempted_tokens"]) for row in rows[:3]] == [
        (0, 0),
        (1, 6),
        (0, 0),
    ]


def test_preempted_request_comes_back_before_those_that_never_ran() -> None:
    world = replace(
        tight(),
        prompts=(*tight().prompts, prompt(2, own=102)),
        outputs=(9, 4, 1),
        estimates=(9, 4, 1),
        densities=(1.0,) * 3,
        max_running=2,
    )
    others = [[k for k, _, _ in step if k > 0] for step in trail(world)]
    assert others == [[1], *[[]] * 8, [1, 2], [1], [1]]


def test_what_a_request_finds_of_its_own_after_a_preemption_is_no_hit() -> None:
    """Request 1's path stays cached when it is thrown out, since request 2 shares it later."""
    world = World(
        prompts=(prompt(4, own=99), prompt(6, 4), prompt(6, 4, own=101)),
        outputs=(9, 4, 1),
        estimates=(9, 4, 1),
        densities=(1.0,) * 3,
        capacity=7,
        block=2,
        budget=16,
        max_running=2,
        predicted_peak=False,
    )
    rows = [row for row in steps(core_of(world)) if row["admitted"]]
    assert [row["admitted"] for row in rows] == [2, 2]  # request 1 comes back beside request 2
    assert [row["hit_tokens"] for row in rows] == [0, 4]


@pytest.mark.parametrize("is_dual", [False, True])
def test_hits_and_computed_tokens_make_up_all_prompts_when_nobody_is_preempted(
    is_dual: bool,
) -> None:
    world = roomy([prompt(20, shared, 50 + shared) for shared in range(0, 20, 3)], [5] * 7)
    world = replace(world, block=2, dual=is_dual)
    prefilled, hits, preempted = total(world, "prefill_tokens", "hit_tokens", "preempted")
    assert (prefilled + hits, preempted) == (7 * 20, 0)
    assert hits == 2 + 6 + 8 + 12 + 14


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_decodes_and_their_contexts_are_the_same_whatever_preemption(world: World) -> None:
    lengths = [(len(p), d) for p, d in zip(world.prompts, world.outputs, strict=True)]
    decodes, context, finished = total(world, "decode_requests", "context_tokens", "finished")
    assert decodes == sum(d - 1 for _, d in lengths)
    assert context == sum((d - 1) * p + d * (d - 1) // 2 for p, d in lengths)
    assert finished == len(lengths)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_every_output_token_is_sampled_once(world: World) -> None:
    assert total(world, "sampled_tokens") == [sum(world.outputs)]


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_limits_are_never_exceeded(world: World) -> None:
    for row in steps(core_of(world)):
        assert 0 < row["prefill_tokens"] + row["decode_requests"] <= world.budget
        assert row["running"] <= world.max_running
        assert row["held_blocks"] + row["cached_blocks"] <= world.capacity


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_a_request_computes_its_tokens_one_after_the_other(world: World) -> None:
    """Between two preemptions each chunk starts where the last one ended."""
    chunks: dict[int, list[tuple[int, int]]] = {}
    for step in trail(world):
        for k, before, tokens in step:
            chunks.setdefault(k, []).append((before, tokens))
    for k, parts in chunks.items():
        restarts = sum(a + tokens != b for (a, tokens), (b, _) in pairwise(parts))
        assert restarts == 0 or total(world, "preempted") != [0]
        assert sum(parts[-1]) == len(world.prompts[k]) + world.outputs[k] - 1
