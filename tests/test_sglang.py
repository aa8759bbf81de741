"""What the SGLang flavours do, one behaviour a test (docs/sglang.md)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracle_sglang import RoundWorld
from serving_worlds import prompt, steps, trail_of, triples
from sglang_worlds import roomy, rounds_of

from blendsim import search
from blendsim.errors import InputError, UnknownName
from blendsim.request import from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.serving.state import DECODING

HEAD = tuple(range(40))


def others(lengths: list[int], first: int = 100) -> list[tuple[int, ...]]:
    """Prompts of these lengths that share nothing."""
    return [(first + k,) * length for k, length in enumerate(lengths)]


def trail(world: RoundWorld) -> list[list[tuple[int, int, int]]]:
    """Every step's (request, computed before, tokens)."""
    return trail_of(rounds_of(world))


def entries(world: RoundWorld) -> list[int]:
    """Requests in the order in which they first compute anything."""
    seen: dict[int, None] = {}
    core = rounds_of(world)
    while not core.is_done:
        core.step()
        for k in core.scheduled().rows.tolist():
            seen.setdefault(k)
        core.commit()
    return list(seen)


def ratio(core: ServingCore) -> float:
    """The share of what running requests may generate that is reserved now."""
    assert core.rounds is not None
    return float(core.rounds.scalars[0].ratio)


# ---- rounds


def test_decodes_pause_while_prompts_are_computed() -> None:
    assert trail(roomy(others([4, 3]), [3, 2], budget=4)) == [
        [(0, 0, 4)],
        [(1, 0, 3)],
        [(0, 4, 1), (1, 3, 1)],
        [(0, 5, 1)],
    ]


def test_with_mixed_chunk_decodes_join_and_take_their_tokens_off_the_budget() -> None:
    assert trail(roomy(others([4, 3]), [3, 2], budget=3, max_running=3, mixed=True)) == [
        [(0, 0, 3)],
        [(0, 3, 1), (1, 0, 2)],
        [(0, 4, 1), (1, 2, 1)],
        [(0, 5, 1), (1, 3, 1)],
    ]


def test_prompt_in_progress_comes_before_new_ones() -> None:
    assert trail(roomy(others([5, 2]), [1, 1], budget=4)) == [
        [(0, 0, 4)],
        [(0, 4, 1), (1, 0, 2)],
    ]


def test_a_step_of_prompts_reads_no_context() -> None:
    rows = list(steps(rounds_of(roomy(others([4, 3]), [3, 2], budget=4))))
    kinds = [(row["prefill_tokens"], row["decode_requests"], row["context_tokens"]) for row in rows]
    assert kinds == [(4, 0, 0), (3, 0, 0), (0, 2, 5 + 4), (0, 1, 6)]
    assert [row["sampled_tokens"] for row in rows] == [1, 1, 2, 1]


# ---- admission


def test_forced_lengths_are_reserved_whole() -> None:
    """Each of the two needs 10 + 10 tokens and one to spare; the second must leave one over."""
    for capacity, together in ((43, True), (42, False)):
        world = roomy(others([10, 10]), [10, 10], capacity=capacity, max_running=2)
        assert (len(trail(world)[0]) == 2) == together


def test_a_limit_is_reserved_by_the_ratio_once_its_request_decodes() -> None:
    """In the round it enters with, a request sets its whole limit aside; then 0.7 of the rest."""
    world = roomy(others([10, 4, 2]), [2, 2, 2], limits=(100, 100, 100), capacity=210, budget=10)
    rows = steps(rounds_of(world))
    assert [next(rows)["admitted"] for _ in range(2)] == [1, 1]
    # 200 − 0.7 · 99 leave 130.7 for 4 + 100 + 1, then 25.7 for the third


def test_nobody_is_tried_until_somebody_leaves() -> None:
    """With limits so far above what is generated the room grows as the ratio falls; the third
    request finds none at first and is not asked again.
    """
    world = roomy(
        others([10, 10, 10]), [60, 99, 2], limits=(1_000, 100, 40), capacity=830, budget=10
    )
    core = rounds_of(world)
    rows = []
    fits = False
    for row in steps(core):
        rows.append(row)
        if row["finished"]:
            break
        left = 1_000 + 100 - 2 * (len(rows) - 1)  # each has generated one token a step
        fits = 830 - row["held_blocks"] - ratio(core) * left > 10 + 40 + 1
    assert fits, "a step earlier there was room"
    assert [row["admitted"] for row in rows] == [1, 1] + [0] * 59
    core.step()
    assert core.counts()["admitted"] == 1


def test_the_first_without_room_ends_the_round() -> None:
    world = roomy(others([10, 50, 2]), [20, 5, 2], capacity=64)
    assert [k for k, _, _ in trail(world)[0]] == [0]


def test_with_nobody_running_the_next_request_always_enters() -> None:
    world = roomy(others([10]), [5], limits=(4_000,), capacity=16)
    assert len(trail(world)) == 5


def test_no_more_than_4096_tokens_are_set_aside_for_a_request() -> None:
    world = roomy(others([10, 10]), [2, 2], limits=(50_000, 50_000), capacity=8_300)
    assert len(trail(world)[0]) == 2


# ---- new_token_ratio and retraction


def test_ratio_falls_over_600_decode_steps() -> None:
    core = rounds_of(roomy(others([1]), [700], limits=(700,)))
    ratios = [ratio(core) for _ in steps(core)]
    assert ratios[0] == 0.7  # a step of prompts
    assert ratios[300] == pytest.approx(0.7 - 0.5 * 0.86 * 0.7)
    assert ratios[600] == pytest.approx(0.098)
    assert ratios[-1] == pytest.approx(0.098)


def test_conservativeness_scales_the_ratio_up_to_everything() -> None:
    assert ratio(rounds_of(roomy(others([1]), [2], conservativeness=0.5))) == 0.35
    assert ratio(rounds_of(roomy(others([1]), [2], conservativeness=2.0))) == 1.0


def tight() -> RoundWorld:
    """Limits far above what is generated: memory runs out while two decode."""
    return roomy(
        others([8, 4, 6, 3]),
        [30, 30, 30, 2],
        limits=(40, 40, 40, 4),
        capacity=62,
        budget=8,
        max_running=3,
        conservativeness=0.01,
    )


def test_who_has_generated_least_and_of_those_the_longest_prompt_is_retracted() -> None:
    for world in (tight(), replace(tight(), outputs=(30, 3, 30, 30))):
        core = rounds_of(world)
        requests: Any = core.state.requests
        count = 0
        while not core.is_done:
            ran = np.flatnonzero(requests.status == DECODING)
            generated = requests.generated[ran] + int(core.state.scalars[0].step)
            generated = generated - requests.start_step[ran]
            order = ran[np.lexsort((-requests.prompt[ran], generated))]
            core.step()
            gone = int(core.counts()["preempted"])
            assert set(order[:gone]) == set(ran) - set(np.flatnonzero(requests.status == DECODING))
            count += gone
            core.commit()
        assert count > 0


def test_a_retracted_request_waits_behind_all_others() -> None:
    core = rounds_of(tight())
    for row in steps(core):
        if row["preempted"]:
            break
    assert core.rounds is not None
    waiting = core.rounds.line[(int(core.rounds.scalars[0].head) + np.arange(row["waiting"])) % 4]
    assert waiting.tolist() == [2, 3, 0]


def test_retraction_raises_the_ratio_to_what_was_needed_so_far() -> None:
    core = rounds_of(tight())
    for row in steps(core):
        if row["preempted"]:
            break
    requests: Any = core.state.requests
    left = np.flatnonzero(requests.status == DECODING)
    generated = requests.generated[left] + int(core.state.scalars[0].step) - 1
    generated = generated - requests.start_step[left]
    expected = (int(generated.sum()) + 20 * len(left)) / (40 * len(left) + 1)
    assert ratio(core) == pytest.approx(min(1.0, expected))


def test_what_its_prefill_computed_waits_in_the_cache() -> None:
    """Retracted with 51 output tokens, the first finds its prompt again, and nothing else."""
    world = roomy(others([8, 4]), [60, 52], limits=(70, 60), capacity=112, conservativeness=0.01)
    prompts = [(k, before, tokens) for step in trail(world) for k, before, tokens in step]
    assert [part for part in prompts if part[2] > 1] == [(0, 0, 8), (1, 0, 4), (0, 8, 51)]


def test_a_ratio_that_is_no_share_is_found_out() -> None:
    core = rounds_of(roomy([(1,), (2,)], [3, 3]))
    core.check()
    assert core.rounds is not None
    for ratio in (1.5, -0.1, float("nan")):
        core.rounds.scalars[0].ratio = ratio
        with pytest.raises(AssertionError, match="share"):
            core.check()


def test_retraction_may_leave_less_than_the_least_ratio() -> None:
    """Limits far above what admission takes requests to generate; the next decode raises it."""
    core = rounds_of(roomy(others([20, 20]), [4_500] * 2, limits=(10**6,) * 2, capacity=8_300))
    assert core.rounds is not None
    q = core.rounds.scalars[0]
    for row in steps(core):
        if row["preempted"]:
            break
    assert 0 < q.ratio < q.least_ratio
    core.check()
    core.step()
    core.commit()
    assert q.ratio == q.least_ratio


def test_forced_lengths_are_never_retracted() -> None:
    world = replace(tight(), limits=(0,) * 4)
    assert sum(row["preempted"] for row in steps(rounds_of(world))) == 0


# ---- cache


def test_requests_of_one_round_compute_a_common_prefix_once_each() -> None:
    core = rounds_of(roomy([prompt(12, 8, own) for own in (90, 91)], [2, 2]))
    core.step()
    assert triples(core) == [(0, 0, 12), (1, 0, 12)]
    assert core.counts()["held_blocks"] == 24
    core.commit()
    core.step()
    assert core.counts()["held_blocks"] == 8 + 4 + 4 + 2  # one copy is free again


def test_a_later_round_hits_every_token_but_the_last() -> None:
    world = roomy([prompt(12, 7, 90), prompt(12, 7, 91), prompt(7, 7)], [1, 1, 1], budget=12)
    assert trail(world) == [[(0, 0, 12)], [(1, 7, 5), (2, 6, 1)]]


def test_what_a_request_computed_stays_cached_when_it_ends() -> None:
    world = roomy(others([5, 1]), [4, 2], max_running=1)
    rows = list(steps(rounds_of(world)))
    assert rows[4]["cached_blocks"] == 5 + 3  # all but the last token, which nobody computed


def test_those_next_in_line_keep_their_prefixes() -> None:
    """A is the oldest in the cache when the 33rd pass finds it wanted next, and outlives B."""
    a, b = tuple(range(20)), tuple(range(50, 70))
    small = others([1] * 30, 200)
    world = roomy(
        [(*a, 1), (*b, 2), *small, *others([60], 900), (*a, 3), (*b, 4)],
        [1] * 35,
        capacity=80,
        max_running=1,
    )
    hits = {k: before for step in trail(world) for k, before, _ in step}
    assert (hits[33], hits[34]) == (20, 0)


# ---- order of the line


def test_lpm_takes_the_longest_cached_prefix_first() -> None:
    prompts = [HEAD, prompt(9, own=7), (*HEAD[:35], 8), prompt(9, own=9), (*HEAD, 5)]
    world = roomy(prompts, [1] * 5, max_running=1, order="lpm")
    assert entries(world) == [0, 4, 2, 1, 3]


def test_lpm_lets_a_request_wait_for_another_with_its_prefix() -> None:
    prompts = [(*HEAD, 1), (*HEAD, 2), prompt(9, own=7)]
    world = roomy(prompts, [1] * 3, max_running=1, order="lpm")
    assert entries(world) == [0, 1, 2], "once the first is computed, the second finds most"
    together = roomy(prompts, [1] * 3, order="lpm", budget=50)
    assert trail(together)[0] == [(0, 0, 41), (2, 0, 9)], "beside the first, the third goes before"


def test_lpm_leaves_more_than_128_in_line() -> None:
    late = [prompt(3, own=500 + k) for k in range(127)]
    for extra, second in ((0, 128), (1, 1)):
        prompts = [(*HEAD, 1), *late, *others([3] * extra, 900), (*HEAD, 2)]
        world = roomy(prompts, [1] * len(prompts), max_running=1, order="lpm")
        assert entries(world)[1] == second


def test_dfs_weight_goes_down_where_most_requests_wait() -> None:
    a, b = tuple(range(10)), tuple(range(50, 60))
    prompts = [(*a, 1), (*b, 2), prompt(4, own=9), (*a, 3), (*b, 4), (*b, 5)]
    world = roomy(prompts, [1] * 6, budget=22, max_running=2, order="dfs-weight")
    assert entries(world)[:2] == [0, 1]
    assert entries(world)[2:] == [4, 5, 3, 2], "two for b, one for a; what is not cached comes last"


# ---- around it


def test_a_dual_scan_plan_takes_from_both_ends() -> None:
    world = roomy(
        others([5] * 6),
        [5] * 6,
        densities=(4.0, 4.0, 4.0, 0.25, 0.25, 0.25),
        dual=True,
        capacity=60,
        max_running=2,
    )
    assert set(entries(world)[:2]) == {0, 5}


@pytest.mark.parametrize("engine", ["sglang", "sglang-mixed", "sglang-lpm", "sglang-dfs-weight"])
def test_no_policy_on_sglang_beats_the_bounds(engine: str) -> None:
    rng = np.random.default_rng(1)
    workload = from_lengths(rng.integers(5, 900, 300), rng.integers(1, 300, 300))
    choice = search.choose(workload, search.Settings(engine=engine, sample=1.0))
    assert all(0 < row.share_of_optimum <= 1 for row in choice.rows)


def test_unlike_its_neighbours_in_the_table_it_shares_by_the_token() -> None:
    """A prefix of 15 tokens is no block of 16."""
    prompts = [prompt(30, 15, 100 + k) for k in range(4)]
    world = roomy(prompts, [1] * 4, max_running=1)
    assert sum(row["hit_tokens"] for row in steps(rounds_of(world))) == 3 * 15


def test_check_finds_a_request_that_stands_in_line_twice() -> None:
    core = rounds_of(roomy(others([3, 3, 3]), [2, 2, 2], max_running=1))
    core.step()
    core.commit()
    assert core.rounds is not None
    core.rounds.line[2] = core.rounds.line[1]
    with pytest.raises(AssertionError, match="stands in line once"):
        core.check()


def test_check_finds_a_wrong_sum_of_what_may_be_generated() -> None:
    core = rounds_of(roomy(others([3, 3]), [9, 9]))
    core.step()
    core.commit()
    assert core.rounds is not None
    core.rounds.owed[1].end_sum += 1
    with pytest.raises(AssertionError, match="may still be generated"):
        core.check()


def test_rules_that_do_not_go_together_are_refused() -> None:
    sglang = find_flavour("sglang")
    with pytest.raises(InputError, match="block_tokens"):
        replace(sglang, block_tokens=16)
    with pytest.raises(InputError, match="prefill_first"):
        Flavour("odd", "0", mixed_chunk=True)
    with pytest.raises(UnknownName, match="lpm"):
        replace(sglang, queue_order="lmp")
    with pytest.raises(InputError, match="conservativeness"):
        replace(sglang, conservativeness=0.0)
