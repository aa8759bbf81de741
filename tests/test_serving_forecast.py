"""The predicted peak: who it holds back, and what it learns when estimates are wrong."""

from dataclasses import replace

from hypothesis import given, settings
from oracle_serving import World
from serving_worlds import core_of, steps, worlds

#: Both prompts fit in 6 blocks of 2 tokens, both whole requests do not.
PAIR = World(
    prompts=((1,) * 4, (2,) * 6),
    outputs=(6, 4),
    estimates=(6, 4),
    densities=(1.0, 1.0),
    capacity=6,
    block=2,
    budget=16,
)


def running(world: World) -> list[int]:
    return [row["running"] for row in steps(core_of(world))]


def preempted(world: World) -> int:
    return sum(row["preempted"] for row in steps(core_of(world)))


def test_newcomer_waits_until_its_peak_fits_beside_the_others() -> None:
    assert running(PAIR) == [1] * 6 + [1] * 4


def test_newcomer_enters_early_when_its_growth_falls_behind_anothers_end() -> None:
    """Request 0 ends after two steps, before request 1 has grown."""
    world = replace(PAIR, outputs=(2, 10), estimates=(2, 10), capacity=9)
    assert running(world) == [2] * 2 + [1] * 8
    together = replace(PAIR, outputs=(10, 10), estimates=(10, 10), capacity=9)
    assert running(together) == [1] * 20


def test_when_only_prompts_must_fit_the_same_pair_runs_into_preemption() -> None:
    assert (preempted(PAIR), preempted(replace(PAIR, predicted_peak=False))) == (0, 1)


def test_request_alone_enters_whatever_is_expected_of_it() -> None:
    assert running(replace(PAIR, estimates=(1_000, 1_000))) == [1] * 10


def test_shared_prefix_counts_once_in_the_peak() -> None:
    """Five requests behind one prefix of four blocks: with a copy each, only one would fit."""
    world = World(
        prompts=((7,) * 16 + (1,), (7,) * 16 + (2,), (7,) * 16 + (3,)),
        outputs=(3, 3, 3),
        estimates=(3, 3, 3),
        densities=(1.0,) * 3,
        capacity=10,
        budget=64,
        block=4,
    )
    assert running(world) == [3, 3, 3]
    assert running(replace(world, sharing=False)) == [1] * 9


def test_overrun_estimate_doubles_until_it_exceeds_what_was_generated() -> None:
    world = World(
        prompts=((1, 2),), outputs=(12,), estimates=(2,), densities=(1.0,), capacity=8, budget=8
    )
    core = core_of(world)
    expected = []
    while not core.is_done:
        core.step()
        expected.append(int(core.state.requests.expected[0]))
        core.commit()
    # Time leaves the bucket of step 2 at step 3 (3 tokens generated), that of 4 at 5, of 8 at 9.
    assert expected == [2, 2, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16]


def test_end_beyond_the_horizon_waits_in_its_last_bucket() -> None:
    """At step 513 the estimate has doubled to 1,024 tokens; 256 buckets of one step lie ahead."""
    core = core_of(replace(PAIR, outputs=(600, 1), estimates=(1, 1), capacity=400))
    for _ in range(514):
        core.step()
        core.commit()
    request = core.state.requests[0]
    assert (int(request.expected), int(request.end_bucket)) == (1_024, 513 + 255)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_true_estimates_are_never_preempted_if_prompts_are_not_cut(world: World) -> None:
    """With blocks of one token there is no rounding, and then the forecast is an upper bound."""
    assert (
        preempted(
            replace(
                world,
                block=1,
                capacity=world.capacity * world.block,
                estimates=world.outputs,
                predicted_peak=True,
                budget=1_000,
            )
        )
        == 0
    )


def test_true_estimates_are_hardly_ever_preempted_with_blocks_and_cut_prompts() -> None:
    """Over 20 pools of 40 requests; prompt_fits throws out more than one in five."""
    pools = [
        World(
            prompts=tuple((k,) * (1 + (k * 29 + pool * 13) % 60) for k in range(40)),
            outputs=(outputs := tuple(1 + (k * 17 + pool * 7) % 59 for k in range(40))),
            estimates=outputs,
            densities=tuple(4.0 - k / 10 for k in range(40)),
            root_density=2.0,
            capacity=12 + pool,
            block=16,
            budget=48,
            max_running=40,
            dual=pool % 2 == 0,
        )
        for pool in range(20)
    ]
    assert sum(map(preempted, pools)) <= 8
    assert sum(preempted(replace(pool, predicted_peak=False)) for pool in pools) > 160


@given(worlds())
@settings(max_examples=40)
def test_the_peak_starts_from_all_that_is_expected(world: World) -> None:
    core = core_of(world)
    while not core.is_done:
        core.step()
        s, buckets = core.state.scalars[0], core.state.buckets
        assert int(s.expected_count) == buckets["count"].sum()
        assert int(s.expected_base) == buckets["base_sum"].sum()
        core.commit()
