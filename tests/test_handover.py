"""Handing a prompt's KV over: what a prefill replica keeps and a decode replica takes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracle_serving import World
from serving_worlds import core_of

from blendsim.serving import handover
from blendsim.serving.core import ServingCore
from blendsim.serving.fresh import with_line
from blendsim.serving.state import ARRIVING, DECODING, DONE, LENT, State

#: Three prompts in blocks of two tokens; the first two share two blocks.
WORLD = World(
    prompts=((1, 2, 3, 4, 5), (1, 2, 3, 4, 6, 7), (8, 9)),
    outputs=(1, 1, 1),
    estimates=(1, 1, 1),
    densities=(1.0,) * 3,
    capacity=8,
    block=2,
    budget=64,
    predicted_peak=False,
)


def prefilled(world: World = WORLD) -> ServingCore:
    """A core that has just computed all prompts of `world`."""
    core = core_of(world)
    core.step()
    core.commit()
    core.check()
    return core


def blocks(core: ServingCore) -> dict[str, int]:
    names = ("capacity", "free", "idle", "shared_held", "private", "lent")
    return {name: int(core.state.scalars[0][name]) for name in names}


def receiving(world: World = WORLD) -> ServingCore:
    """A core that nothing waits in: its requests come with their prompts computed."""
    core = core_of(replace(world, sharing=False))
    core.state = with_line(core.state, np.zeros(0, np.int64), 0)
    core.state.requests.generated = 1
    core.holder[:] = 1  # nobody's yet
    return core


def receive(core: ServingCore, request: int) -> None:
    core.holder[request] = 0
    handover.receive(core.state, request)


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def plain_twin(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on the kernels and on their plain twins."""
    if request.param == "plain":
        for name in ("lend", "take_back", "can_receive", "receive", "take_in"):
            monkeypatch.setattr(handover, name, getattr(handover, name).py_func)


def test_lent_blocks_are_off_the_capacity_and_the_path_stays_held() -> None:
    core = prefilled()
    assert blocks(core) == {
        "capacity": 8, "free": 6, "idle": 2, "shared_held": 0, "private": 0, "lent": 0
    }  # fmt: skip
    handover.lend(core.state, 0)
    core.check()
    assert blocks(core) == {
        "capacity": 7, "free": 5, "idle": 0, "shared_held": 2, "private": 0, "lent": 1
    }  # fmt: skip
    handover.lend(core.state, 2)
    core.check()
    assert blocks(core)["lent"] == 2
    assert core.state.requests.status.tolist() == [LENT, DONE, LENT]


@pytest.mark.parametrize("keeps_own", [False, True])
def test_blocks_taken_back_are_where_they_would_have_been(keeps_own: bool) -> None:
    world = replace(WORLD, keeps_own=keeps_own)
    core, before = prefilled(world), blocks(prefilled(world))
    for request in (0, 1, 2):
        handover.lend(core.state, request)
        core.check()
    for request in (1, 0, 2):
        handover.take_back(core.state, request)
        core.check()
    assert blocks(core) == before
    assert core.is_done


def test_prompt_waits_for_blocks_that_are_lent() -> None:
    world = replace(WORLD, prompts=((1,) * 6, (2,) * 6), outputs=(1, 1), estimates=(1, 1),
                    densities=(1.0, 1.0), capacity=4)  # fmt: skip
    core = prefilled(world)
    handover.lend(core.state, 0)
    with pytest.raises(AssertionError, match="a step computes something"):
        core.step()
    handover.take_back(core.state, 0)
    assert core.step().prefill_tokens == 6


def test_received_prompt_has_its_blocks_before_its_kv_is_there() -> None:
    core = receiving(replace(WORLD, outputs=(3, 3, 3), estimates=(3, 3, 3)))
    assert core.is_done
    receive(core, 0)
    core.check()
    assert (blocks(core)["private"], core.is_done) == (3, False)
    assert core.state.requests.status[0] == ARRIVING
    handover.take_in(core.state, 0)
    core.check()
    assert core.state.requests.status[0] == DECODING


def test_received_request_decodes_all_but_its_first_token() -> None:
    core = receiving(replace(WORLD, outputs=(3, 3, 3), estimates=(3, 3, 3)))
    receive(core, 0)
    handover.take_in(core.state, 0)
    seen = []
    while not core.is_done:
        batch = core.step()
        seen.append((batch.prefill_tokens, batch.decode_requests, batch.context_tokens))
        core.commit()
        core.check()
    assert seen == [(0, 1, 6), (0, 1, 7)]
    assert core.counts()["finished"] == 1


def test_preempted_request_is_recomputed_where_it_decodes() -> None:
    world = replace(WORLD, prompts=((1,) * 4, (2,) * 4), outputs=(5, 5), estimates=(5, 5),
                    densities=(1.0, 1.0), capacity=6)  # fmt: skip
    core = receiving(world)
    for request in (0, 1):
        receive(core, request)
        handover.take_in(core.state, request)
    preempted, recomputed, decoded = 0, 0, 0
    while not core.is_done:
        batch = core.step()
        recomputed += batch.prefill_tokens
        decoded += batch.decode_requests
        preempted += core.counts()["preempted"]
        core.commit()
        core.check()
    assert (preempted, decoded) == (1, 8)
    assert recomputed >= 4


def test_room_is_for_the_prompt_and_under_a_forecast_for_the_answers_too() -> None:
    world = replace(WORLD, prompts=((1,) * 4, (2,) * 4), outputs=(9, 9), estimates=(9, 9),
                    densities=(1.0, 1.0), capacity=8)  # fmt: skip
    for predicted_peak in (False, True):
        core = receiving(replace(world, predicted_peak=predicted_peak))
        assert handover.can_receive(core.state, 0)
        receive(core, 0)
        assert handover.can_receive(core.state, 1) == (not predicted_peak)


@pytest.mark.parametrize(("capacity", "fits"), [(12, False), (13, True)])
def test_a_prompt_waits_beside_an_answer_that_has_just_outlived_its_estimate(
    capacity: int, fits: bool
) -> None:
    """After two decodes the first has 3 tokens where 2 were expected: now 4 are, and 4 + 3 of KV.
    Where the bucket of that step ends the other has two tokens more than its prompt: 7 + 6.
    """
    world = replace(
        WORLD,
        prompts=((1,) * 4, (2,) * 4),
        outputs=(9, 3),
        estimates=(2, 3),
        densities=(1.0, 1.0),
        capacity=capacity,
        block=1,
        predicted_peak=True,
    )
    core = receiving(world)
    receive(core, 0)
    handover.take_in(core.state, 0)
    for _ in range(2):
        core.step()
        core.commit()
    assert handover.can_receive(core.state, 1) == fits
    core.check()


def test_no_prompt_is_received_past_the_running_limit_or_before_who_was_preempted() -> None:
    core = receiving(replace(WORLD, max_running=1))
    receive(core, 0)
    assert not handover.can_receive(core.state, 2)
    core = receiving()
    core.state.scalars[0].requeued = 1
    assert not handover.can_receive(core.state, 2)


@pytest.mark.parametrize(
    ("field", "sentence"),
    [("lent", "blocks are lent"), ("arriving", "KV is to come"), ("front", "stands in line")],
)
def test_check_finds_a_count_that_is_off(field: str, sentence: str) -> None:
    core = prefilled()
    state: State = core.state
    state.scalars[0][field] += 1
    with pytest.raises(AssertionError, match=sentence):
        core.check()
