"""Answers that end before the length they were given, whatever the request does then."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_serving import SlowCore, World
from oracle_sglang import RoundWorld
from pacing_worlds import AMPLE, PacedWorld, paced_worlds, record_of
from serving_worlds import core_of, some_that_can_end, triples, worlds
from sglang_worlds import rounds_of

from blendsim.serving.core import ServingCore
from blendsim.serving.state import DECODING, DONE, NONE, PREFILLING, RIGHT, WAITING

slow = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)

HEADS = [tuple(range(100 * h, 100 * h + 24)) for h in range(3)]

#: Sixty requests behind three heads, in memory for a few, so that many are thrown out.
CROWD = World(
    prompts=tuple(HEADS[k % 3] + (1_000 + k,) * (k % 11) for k in range(60)),
    outputs=tuple(3 + k * 7 % 23 for k in range(60)),
    estimates=tuple(1 + k * 5 % 29 for k in range(60)),
    densities=tuple(3.0 - k / 30 for k in range(60)),
    root_density=1.5,
    capacity=30,
    budget=10,
    max_running=10,
    predicted_peak=False,
)


def check_idle_lists(core: ServingCore) -> None:
    """Assert that a node idles where its waiting readers say, once."""
    s, nodes = core.state.scalars[0], core.state.nodes
    seen = []
    for oldest, is_live in ((s.oldest_node, False), (s.oldest_live, True)):
        k = int(oldest)
        while k != NONE:
            assert (nodes[k].waiting > 0) == is_live
            assert nodes[k].cached > 0
            seen.append(k)
            k = int(nodes[k].newer)
    idle = np.flatnonzero((nodes.cached > 0) & (nodes.readers == 0))
    assert sorted(seen) == [k for k in idle.tolist() if 0 < k < int(s.host_nodes)]


def compare_ends(world: World, seed: int) -> set[int]:
    """Run both cores, end the same answers in both, and assert that they agree in every step;
    returns what those were doing that ended early.
    """
    fast, twin, rng = core_of(world), SlowCore(world), np.random.default_rng(seed)
    doing = set()
    for _ in range(20_000):
        assert fast.is_done == twin.is_done
        if fast.is_done:
            return doing
        fast.step()
        twin.step()
        assert triples(fast) == twin.scheduled()
        fast.commit()
        twin.commit()
        ended = some_that_can_end(fast, rng)
        doing |= set(fast.state.requests.status[ended].tolist())
        assert fast.end(ended) == len(ended)
        for k in ended.tolist():
            twin.end(k)
        fast.check()
        check_idle_lists(fast)
        assert fast.counts() == twin.counts
        assert [job.output for job in twin.jobs if job.status == "done"] == (
            fast.state.requests.output[fast.state.requests.status == DONE].tolist()
        )
    raise AssertionError("not done")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), seeds)
def test_both_cores_take_the_same_steps_when_answers_end_early(world: World, seed: int) -> None:
    compare_ends(world, seed)


@slow
@given(worlds(), seeds)
def test_plain_kernels_take_the_same_steps_when_answers_end_early(
    plain_kernels: int, world: World, seed: int
) -> None:
    assert plain_kernels > 0
    compare_ends(world, seed)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"dual": True},
        {"keeps_own": True},
        {"keeps_own": True, "knows_plan": True},
    ],
    ids=lambda rules: "+".join(rules) or "in order",
)
def test_crowd_sees_answers_end_of_requests_that_decode_wait_and_recompute(
    rules: dict[str, int],
) -> None:
    doing: set[int] = set()
    for seed in range(10):
        doing |= compare_ends(replace(CROWD, **rules), seed)  # type: ignore[arg-type]
    assert doing == {DECODING, WAITING, PREFILLING}


@pytest.mark.parametrize("rules", [{"dual": True}, {"keeps_own": True, "knows_plan": True}])
def test_answers_end_whose_tokens_are_on_the_host(rules: dict[str, bool]) -> None:
    """Nearly nobody recomputes anything there."""
    doing: set[int] = set()
    for seed in range(10):
        doing |= compare_ends(replace(CROWD, host=30, **rules), seed)  # type: ignore[arg-type]
    assert WAITING in doing


# ---- an answer that ends is one that was that long from the beginning


def leaving(core: ServingCore) -> list[int]:
    """Who has its last token in the step that was just decided, as they leave."""
    s, requests = core.state.scalars[0], core.state.requests
    found = []
    k = int(core.state.finish[int(s.step) % len(core.state.finish)])
    while k != NONE:
        found.append(k)
        k = int(requests[k].finish_next)
    if s.oldest_first:
        found.reverse()
    complete = core.state.ended[: int(s.completed)].tolist()
    return found + [k for k in complete if requests[k].generated + 1 == requests[k].output]


def assert_same_steps(known: ServingCore, longer: ServingCore) -> None:
    """Assert that `longer`, whose answers end where those of `known` do, takes the same steps."""
    while not known.is_done:
        known.step()
        longer.step()
        assert triples(known) == triples(longer)
        ends = leaving(known)
        known.commit()
        longer.commit()
        assert longer.end(np.array(ends, np.int64)) == len(ends)
        longer.check()
        assert known.counts() == longer.counts()
        if known.state.pace:
            assert record_of(known) == record_of(longer)
            assert known.state.pace[0].kinds.tobytes() == longer.state.pace[0].kinds.tobytes()
    assert longer.is_done
    assert known.state.requests.output.tolist() == longer.state.requests.output.tolist()


def outlasting(world: World, seed: int) -> World:
    """The world with more tokens to generate a request, and the same estimates."""
    more = np.random.default_rng(seed).integers(1, 30, len(world.outputs))
    return replace(world, outputs=tuple((np.array(world.outputs) + more).tolist()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), seeds)
def test_answer_that_ends_early_is_as_if_it_had_been_that_long(world: World, seed: int) -> None:
    assert_same_steps(core_of(world), core_of(outlasting(world, seed)))


@slow
@given(paced_worlds(), seeds)
def test_answer_that_ends_early_is_as_if_it_had_been_that_long_in_paced_steps(
    plain_kernels: int, drawn: PacedWorld, seed: int
) -> None:
    assert plain_kernels > 0
    assert_same_steps(drawn.core(), drawn._replace(world=outlasting(drawn.world, seed)).core())


def test_compiled_paced_steps_see_an_answer_end_early() -> None:
    assert_same_steps(AMPLE.core(), AMPLE._replace(world=outlasting(AMPLE.world, 1)).core())


# ---- paced accounts


@slow
@given(paced_worlds(), seeds)
def test_paced_accounts_hold_what_was_read_and_who_ended(
    plain_kernels: int, drawn: PacedWorld, seed: int
) -> None:
    check_accounts(drawn, seed)


def test_paced_accounts_of_a_crowd_hold_who_ended_while_waiting(plain_kernels: int) -> None:
    crowd = replace(CROWD, dual=True, densities=(0.5,) * 60)  # all of the memory-heavy end
    drawn = PacedWorld(crowd, AMPLE.pacing, (False,) * 60, (0,) * 60)
    assert WAITING in check_accounts(drawn, 1)


def check_accounts(drawn: PacedWorld, seed: int) -> set[int]:
    """Run it, ending some; returns what those were doing."""
    doing: set[int] = set()
    core, rng = drawn.core(), np.random.default_rng(seed)
    while not core.is_done:
        core.step()
        core.commit()
        ended = some_that_can_end(core, rng)
        doing |= set(core.state.requests.status[ended].tolist())
        core.end(ended)
        core.check()
        check_idle_lists(core)
    requests = core.state.requests
    assert set(requests.status.tolist()) == {DONE}
    # p·d + d²/2 were reckoned, Σ (p + j) for j = 1 … d − 1 were read.
    over = float((requests.prompt + requests.output / 2).sum())
    assert record_of(core).reads_left == pytest.approx(over, abs=1e-6)
    of_kind = (requests.side == RIGHT) & (requests.kind != NONE)
    kinds = core.state.pace[0].kinds
    assert kinds.ended.sum() == of_kind.sum()
    served = (requests.output / requests.estimate)[of_kind].sum()
    assert kinds.served.sum() == pytest.approx(served)
    return doing


# ---- what is refused


def begun() -> ServingCore:
    """Two requests of which the first has a token and the second none."""
    core = core_of(
        World(
            prompts=((1,), (2,)),
            outputs=(5, 5),
            estimates=(5, 5),
            densities=(1.0, 1.0),
            max_running=1,
        )
    )
    core.step()
    core.commit()
    return core


def test_request_without_a_token_does_not_end() -> None:
    core = begun()
    with pytest.raises(AssertionError, match="has a token at least"):
        core.end(np.array([0, 1]))
    assert core.state.requests.status.tolist() == [DECODING, WAITING]


def test_request_that_is_done_is_passed_over() -> None:
    core = begun()
    assert core.end(np.array([0, 0])) == 1
    assert core.end(np.array([0])) == 0
    assert core.state.requests.output.tolist() == [1, 5]


def test_ends_count_among_those_of_the_last_step() -> None:
    core = begun()
    assert core.counts()["finished"] == 0
    core.end(np.array([0]))
    assert core.counts()["finished"] == 1


def test_engines_in_rounds_refuse() -> None:
    world = RoundWorld(
        prompts=((1,),), outputs=(5,), estimates=(5,), densities=(1.0,), limits=(5,), block=1
    )
    core = rounds_of(world)
    with pytest.raises(AssertionError, match="in rounds"):
        core.end(np.array([0]))


def test_engines_with_vllms_knobs_turned_refuse() -> None:
    world = World(
        prompts=((1,),), outputs=(5,), estimates=(5,), densities=(1.0,), oldest_first=True, slice=2
    )
    with pytest.raises(AssertionError, match="knobs"):
        core_of(world).end(np.array([0]))
