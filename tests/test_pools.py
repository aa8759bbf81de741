"""Prefill and decode pools: what moves when, who waits for what, and what must stay the same."""

from dataclasses import replace

import numpy as np
import pytest
from cluster_worlds import (
    KV_BYTES,
    PLAIN,
    alone,
    events,
    listed,
    run,
    seconds_model,
    sharing,
    total,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import SMALL, tiny_pool

from blendsim import search
from blendsim.errors import BlendsimError, InputError, OversizeError
from blendsim.plan import DUAL_SCAN
from blendsim.request import Workload
from blendsim.serving.flavour import FLAVOURS, PREDICTED_PEAK
from blendsim.sim import engine
from blendsim.sim import pools as pools_module
from blendsim.sim.link import Port, kv_payload, move
from blendsim.specs import LINKS, Link, find_gpu, find_model
from blendsim.steplog import StepLog
from blendsim.system import System
from blendsim.topology import Topology, pools

#: Ten tokens' KV a second.
SLOW = Link("slow", bandwidth=10.0 * KV_BYTES)
#: Nothing in a world of seconds.
FAST = Link("fast", bandwidth=1e9 * KV_BYTES)


# ---- by hand: every step takes a second

#: Engines whose prefill replicas schedule as their colocated ones: SGLang has no rounds there.
MIXING = [name for name, flavour in FLAVOURS.items() if not flavour.prefill_first]


def test_request_is_prefilled_then_moved_then_decoded() -> None:
    log = run(alone([20], [3]), pools("1P1D", SLOW))
    assert events(log) == [
        (0.0, 0, 20, 0, 0),  # prefill, and the first token with it
        (3.0, 1, 0, 1, 0),  # 20 tokens' KV took two seconds
        (4.0, 1, 0, 1, 1),
    ]


def test_answer_of_one_token_never_leaves_the_prefill_replica() -> None:
    log = run(alone([20, 30], [1, 1]), pools("1P1D", SLOW))
    assert events(log) == [(0.0, 0, 50, 0, 2)]


def test_transfers_over_one_link_wait_for_each_other() -> None:
    log = run(alone([20, 20], [2, 2]), pools("1P1D", SLOW))
    assert events(log) == [
        (0.0, 0, 40, 0, 0),
        (3.0, 1, 0, 1, 1),  # the first has arrived at 3, the second at 5
        (5.0, 1, 0, 1, 1),
    ]


def test_a_decode_replica_of_its_own_does_not_speed_up_the_link_out() -> None:
    log = run(alone([20, 20], [2, 2]), pools("1P2D", SLOW))
    assert events(log) == [(0.0, 0, 40, 0, 0), (3.0, 1, 0, 1, 1), (5.0, 2, 0, 1, 1)]


def test_two_links_out_share_the_one_in() -> None:
    log = run(alone([20, 20], [2, 2]), pools("2P1D", SLOW))
    assert events(log) == [
        (0.0, 0, 20, 0, 0),
        (0.0, 1, 20, 0, 0),
        (3.0, 2, 0, 1, 1),
        (5.0, 2, 0, 1, 1),
    ]


def test_latency_is_added_to_every_transfer() -> None:
    log = run(alone([20], [2]), pools("1P1D", replace(SLOW, latency=0.5)))
    assert events(log) == [(0.0, 0, 20, 0, 0), (3.5, 1, 0, 1, 1)]


def test_kv_that_arrives_during_a_step_is_decoded_from_the_next_on() -> None:
    log = run(alone([20, 25], [9, 2]), pools("1P1D", SLOW))
    joined = [row for row in events(log) if row[3] == 2]
    assert joined == [(6.0, 1, 0, 2, 1)]  # the second has arrived at 5.5, in the step 5 … 6


def test_new_prompts_go_to_the_decode_replica_that_holds_least() -> None:
    log = run(alone([40, 10, 10, 10], [5] * 4), pools("1P2D", FAST))
    decoded = {r: total_of(log, r) for r in (1, 2)}
    assert decoded == {1: 4, 2: 12}  # the long prompt has one for itself


def total_of(log: StepLog, replica: int) -> int:
    return int(log.count("decode_requests")[log.replica == replica].sum())


def test_prompt_waits_on_the_prefill_side_while_the_decode_side_is_full() -> None:
    """Two blocks on each: one prompt fills a replica, the second waits for the first to end."""
    model = seconds_model(blocks=2)
    log = run(alone([20, 20], [4, 2]), pools("1P1D", FAST), model=model)
    assert events(log) == [
        (0.0, 0, 20, 0, 0),
        (1.0, 0, 20, 0, 0),  # the first's KV has gone
        (1.0, 1, 0, 1, 0),
        (2.0, 1, 0, 1, 0),
        (3.0, 1, 0, 1, 1),
        (4.0, 1, 0, 1, 1),
    ]


def test_prefill_stands_still_while_its_blocks_are_lent() -> None:
    model = seconds_model(blocks=2)
    log = run(alone([20, 20, 20], [4, 2, 2]), pools("1P1D", FAST), model=model)
    assert [row for row in events(log) if row[1] == 0] == [
        (0.0, 0, 20, 0, 0),
        (1.0, 0, 20, 0, 0),
        (4.0, 0, 20, 0, 0),  # at 2 the second is done, and its KV cannot go before 4
    ]


def test_tensor_parallel_gpus_move_their_shares_side_by_side() -> None:
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), 4)
    assert kv_payload(system, np.array([100])) == 100 * KV_BYTES / 4


def test_both_ends_of_a_transfer_are_busy_until_its_last_byte() -> None:
    link, a, b, c = Link("l", 10.0, 1.0), Port(), Port(), Port()
    assert move(a, b, link, 20.0, now=5.0) == 8.0
    assert (a.free_at, b.free_at) == (7.0, 7.0)
    assert move(c, b, link, 10.0, now=5.0) == 9.0
    assert move(c, Port(), link, 10.0, now=20.0) == 22.0


# ---- what must be the same


def test_one_request_takes_the_colocated_time_and_the_transfer() -> None:
    workload = alone([700], [50])
    link = LINKS["nvlink3"]
    problem = search.prepare(workload, search.Settings(sample=1.0))
    plan, flavour = listed(workload), FLAVOURS["vllm"]
    logs = [
        run(workload, topology, plan, problem.model, flavour)
        for topology in (Topology(), pools("1P1D", link))
    ]
    transfer = link.latency + 700 * KV_BYTES / link.bandwidth
    assert logs[1].end == pytest.approx(logs[0].end + transfer)
    assert np.array_equal(logs[0].counts[:, :6], logs[1].counts[:, :6])


@pytest.mark.parametrize("name", MIXING)
def test_one_token_answers_make_a_prefill_pool_of_one_a_colocated_replica(name: str) -> None:
    rng = np.random.default_rng(0)
    workload = sharing(rng.integers(200, 900, 60), np.ones(60, np.int64), 160)  # type: ignore[arg-type]
    model, flavour = seconds_model(blocks=200), replace(FLAVOURS[name], token_budget=2_048)
    apart = run(workload, pools("1P1D", FAST), model=model, flavour=flavour)
    together = run(workload, model=model, flavour=flavour)
    assert np.array_equal(apart.counts, together.counts)
    assert np.array_equal(apart.times, together.times)


@pytest.mark.parametrize("name", MIXING)
def test_ample_memory_makes_prefill_independent_of_the_answers(name: str) -> None:
    rng = np.random.default_rng(1)
    prompt, output = rng.integers(20, 300, 40), rng.integers(2, 50, 40)
    flavour = FLAVOURS[name]
    one = run(alone(prompt, np.ones(40, np.int64)), flavour=flavour)  # type: ignore[arg-type]
    log = run(alone(prompt, output), pools("1P1D", FAST), flavour=flavour)  # type: ignore[arg-type]
    first = log.replica == 0
    assert np.array_equal(log.counts[first, :6], one.counts[:, :6])
    assert np.array_equal(log.times[first], one.times)


def test_same_world_twice_is_the_same_log() -> None:
    workload = some_pool(np.random.default_rng(3), 80)
    topology = pools("2P3D", LINKS["pcie4"])
    logs = [tight(workload, topology, "vllm") for _ in range(2)]
    assert np.array_equal(logs[0].counts, logs[1].counts)
    assert np.array_equal(logs[0].times, logs[1].times)


# ---- any pool on any topology


def some_pool(rng: np.random.Generator, n: int) -> Workload:
    lengths = list(zip(rng.integers(1, 300, n), rng.integers(1, 200, n), strict=True))
    return tiny_pool(lengths, rng.integers(0, 150, n).tolist(), rng.integers(0, 3, n).tolist())


def tight(workload: Workload, topology: Topology, name: str, policy: str = "fcfs") -> StepLog:
    problem = search.prepare(workload, search.Settings(sample=1.0, kv_bytes=SMALL))
    plan = search.plan_policy(problem, policy)
    return run(workload, topology, plan, problem.model, FLAVOURS[name])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1_000),
    n=st.integers(3, 40),
    x=st.integers(1, 3),
    y=st.integers(1, 3),
    name=st.sampled_from(list(FLAVOURS)),
    policy=st.sampled_from(["fcfs", "dfs", "blend"]),
    link=st.sampled_from([LINKS["nvlink3"], Link("modem", 2e6, 0.3)]),
)
def test_every_request_ends_once_and_no_token_is_lost(
    seed: int, n: int, x: int, y: int, name: str, policy: str, link: Link
) -> None:
    workload = some_pool(np.random.default_rng(seed), n)
    log = tight(workload, Topology(x, y, link), name, policy)  # ends with every core's check
    output, prompt = workload.output_len, workload.prompt_len
    assert total(log, "finished") == n
    assert total(log, "decode_requests") == int((output - 1).sum())
    assert total(log, "sampled_tokens") >= int(output.sum())
    first = log.replica < x
    computed = log.count("prefill_tokens")[first].sum() + log.count("hit_tokens")[first].sum()
    assert computed == prompt.sum()
    assert int(log.count("decode_requests")[first].sum()) == 0
    assert (log.count("prefill_tokens")[~first].sum() > 0) <= (total(log, "preempted") > 0)
    starts = [log.time("start")[log.replica == r] for r in range(x + y)]
    ends = [s + log.time("seconds")[log.replica == r] for r, s in enumerate(starts)]
    for start, end in zip(starts, ends, strict=True):
        assert bool((start[1:] >= end[:-1] * (1 - 1e-12)).all())


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1_000),
    topology=st.sampled_from(["1P1D", "1P2D", "2P1D", "1P3D"]),
    engine_name=st.sampled_from(list(FLAVOURS)),
)
def test_no_pools_beat_the_bounds_of_as_many_replicas(
    seed: int, topology: str, engine_name: str
) -> None:
    asked = search.Settings(
        sample=1.0, kv_bytes=SMALL, planner="dfs", topology=topology, engine=engine_name
    )
    chosen = search.choose(some_pool(np.random.default_rng(seed), 30), asked).chosen
    assert chosen.gpus == sum(int(digit) for digit in topology if digit.isdigit())
    assert chosen.share_of_reachable <= 1


def test_plain_twin_of_the_pool_loop_runs_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    workload, topology = some_pool(np.random.default_rng(5), 12), pools("1P2D", LINKS["pcie4"])
    log = tight(workload, topology, "nanoflow")
    monkeypatch.setattr(engine, "run_to_message", engine.run_to_message.py_func)
    for name in ("lend_ended", "take_back_all", "receive_first", "take_in_all"):
        monkeypatch.setattr(pools_module, name, getattr(pools_module, name).py_func)
    again = tight(workload, topology, "nanoflow")
    assert np.array_equal(log.counts, again.counts)
    assert np.array_equal(log.times, again.times)


def test_forecast_keeps_the_decode_side_from_preempting_where_lengths_are_known() -> None:
    rng = np.random.default_rng(7)
    workload = some_pool(rng, 120)
    lost = {
        admission: total(
            run(
                workload,
                pools("2P1D", LINKS["nvlink3"]),
                model=seconds_model(blocks=60),
                flavour=replace(PLAIN, admission=admission, token_budget=512),
            ),
            "preempted",
        )
        for admission in ("prompt_fits", PREDICTED_PEAK)
    }
    assert lost["prompt_fits"] > 5 * lost[PREDICTED_PEAK]


# ---- plans, and what a user can get wrong


def test_plan_of_one_rank_is_dealt_out_in_equal_prompt_work() -> None:
    workload = alone([90, 30, 30, 30], [9, 2, 2, 2])
    log = run(workload, pools("2P1D", FAST))
    tokens = [int(log.count("prefill_tokens")[log.replica == r].sum()) for r in (0, 1)]
    assert tokens == [90, 90]


def test_plan_with_a_rank_for_each_prefill_replica_is_kept() -> None:
    workload = alone([10, 20, 30], [2, 2, 2])
    log = run(workload, pools("2P1D", FAST), plan=listed(workload, [0, 1, 1]))
    tokens = [int(log.count("prefill_tokens")[log.replica == r].sum()) for r in (0, 1)]
    assert tokens == [10, 50]


def test_scanned_plan_feeds_prefill_from_both_ends() -> None:
    workload = alone([40] * 8, [2] * 8)
    plan = listed(workload, admission=DUAL_SCAN)
    log = run(workload, pools("2P1D", FAST), plan=plan)
    assert total(log, "finished") == 8


def test_scanned_plan_is_dealt_out_in_equal_prompts_and_equal_answers() -> None:
    """Give or take a request; half of all prompt tokens are the first thirty's alone."""
    workload = alone([80] * 40 + [40] * 40, [1] * 40 + [100] * 40)
    log = run(workload, pools("2P1D", FAST), plan=listed(workload, admission=DUAL_SCAN))
    of = [log.replica == r for r in (0, 1)]
    tokens = [int(log.count("prefill_tokens")[each].sum()) for each in of]
    assert tokens == pytest.approx([2_400, 2_400], abs=80)
    prompts = [int(log.count("sampled_tokens")[each].sum()) for each in of]
    assert prompts == pytest.approx([40, 40], abs=2)


def test_prompts_that_are_shared_are_dealt_out_as_what_is_left_of_them() -> None:
    """The first computes 90 tokens, each of the nine others 10."""
    workload = sharing([90] * 10, [1] * 10, shared=80)
    log = run(workload, pools("2P1D", FAST))
    prompts = [int(log.count("sampled_tokens")[log.replica == r].sum()) for r in (0, 1)]
    assert prompts == [1, 9]


def test_a_request_that_just_fits_a_decode_replica_is_served() -> None:
    model = seconds_model(blocks=2)
    assert total(run(alone([20], [12]), pools("1P1D", FAST), model=model), "finished") == 1
    with pytest.raises(OversizeError, match="a request of 33 tokens does not fit the 32"):
        run(alone([20], [13]), pools("1P1D", FAST), model=model)


def test_log_says_which_pool_a_replica_is_in() -> None:
    meta = run(alone([20], [3]), pools("1P1D", SLOW)).meta
    assert (meta["topology"], meta["link"]) == ("1P1D", "slow")
    assert meta["pools"] == ["prefill", "decode"]


def test_plan_for_another_number_of_ranks_is_refused() -> None:
    workload = alone([10] * 4, [2] * 4)
    with pytest.raises(InputError, match="the plan is for 3 ranks, 2P1D prefills on 2"):
        run(workload, pools("2P1D", FAST), plan=listed(workload, [0, 1, 2, 2]))


def test_ranks_without_requests_are_replicas_all_the_same() -> None:
    """As where there are more of them than work to be shared evenly."""
    workload = alone([10] * 5, [4] * 5)
    meta = {"settings": {"dp": 5}}
    plan = replace(listed(workload, [0, 0, 0, 2, 4]), meta=meta)
    log = run(workload, pools("5P1D", FAST), plan=plan)
    assert total(log, "finished") == 5
    assert total(log, "prefill_tokens") == 50
    for name, remedy in (("3P1D", "3 or for 1"), ("1P1D", "1")):
        with pytest.raises(InputError, match=f"the plan is for 5 ranks, .* plan for {remedy}$"):
            run(workload, pools(name, FAST), plan=plan)


def test_request_that_a_decode_replica_cannot_hold_is_refused_up_front() -> None:
    with pytest.raises(OversizeError, match="does not fit the 32 KV tokens"):
        run(alone([20], [20]), pools("1P1D", FAST), model=seconds_model(blocks=2))


@pytest.mark.parametrize("name", ["3P1D", "1P3D"])
def test_pools_larger_than_the_workload_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="more replicas than there are requests, 2; give"):
        run(alone([10, 10], [2, 2]), pools(name, FAST))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topology": "0P1D"}, "lacks a pool"),
        ({"topology": "two"}, "not of the form 1P2D"),
        ({"topology": "1P1D", "link": "nvlnk"}, "nvlink3"),
        ({"topology": "1P1D", "dp": 2}, "give one of the two"),
        ({"topology": "1P1D", "steals": True}, "only colocated ranks steal"),
        ({"steals": True, "steal_seconds": 1e-6}, "must be 0.001 or more"),
        ({"steals": True, "steal_seconds": 0.0}, "steal_seconds = 0 must be 0.001 or more"),
    ],
)
def test_settings_that_make_no_cluster_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BlendsimError) as e:
        search.Settings(**changes)  # type: ignore[arg-type]
    assert words in str(e.value)


def test_link_that_moves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="moves nothing"):
        Link("cut", bandwidth=0.0)


@pytest.mark.parametrize(
    ("gpu", "link"),
    [("a100-80g", "nvlink3"), ("h100", "nvlink4"), ("h200", "nvlink4"), ("b200", "nvlink5"),
     ("l40s", "pcie4")],
)  # fmt: skip
def test_kv_moves_over_the_gpus_own_link_unless_one_is_named(gpu: str, link: str) -> None:
    own = search.Settings(gpu=gpu, topology="1P2D").cluster
    assert own == Topology(1, 2, LINKS[link])
    assert search.Settings(gpu=gpu, topology="1P2D", link="pcie5").cluster.link == LINKS["pcie5"]
    assert (search.Settings(topology="1P2D").replicas, search.Settings(dp=5).replicas) == (3, 5)
