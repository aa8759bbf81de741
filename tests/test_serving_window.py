"""Layers with a window: the KV blocks that every running request holds for them, besides those of
its context.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cluster_worlds import PLAIN, alone, events, listed, run, seconds_model
from oracle_serving import World
from pacing_worlds import AMPLE, record_of
from serving_worlds import compare, core_of, prompt, steps
from test_handover import WORLD as ALONE
from test_handover import blocks, prefilled, receive, receiving
from test_serving_oracle import CROWD

from blendsim.errors import InputError, OversizeError
from blendsim.plan import DUAL_SCAN
from blendsim.prefix import sort_prompts
from blendsim.serving import handover, remaining
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.sim.link import kv_payload
from blendsim.sim.run import require_modelled
from blendsim.sim.timing import time_plan
from blendsim.specs import LINKS, find_model
from blendsim.system import HostMemory
from blendsim.topology import COLOCATED, Topology, pools

#: Prompts of two blocks of four tokens and answers that stay in a third.
PAIR = World(
    prompts=((1,) * 8, (2,) * 8),
    outputs=(3, 3),
    estimates=(3, 3),
    densities=(1.0, 1.0),
    capacity=20,
    predicted_peak=False,
)


def told(world: World, *names: str) -> list[list[int]]:
    return [[row[name] for name in names] for row in steps(core_of(world))]


def running(world: World) -> list[int]:
    return [row[0] for row in told(world, "running")]


# ---- who holds one, and until when


def test_a_request_holds_its_window_from_admission_until_it_leaves() -> None:
    one = replace(PAIR, prompts=PAIR.prompts[:1], outputs=(3,), estimates=(3,), densities=(1.0,))
    assert told(one, "held_blocks") == [[2], [3], [3]]
    core = core_of(replace(one, window=5))
    assert [row["held_blocks"] for row in steps(core)] == [7, 8, 8]
    assert int(core.state.scalars[0].free) == 20


def test_two_whose_windows_do_not_fit_beside_their_prompts_do_not_run_together() -> None:
    """Prompts of two blocks, with windows of two."""
    for capacity, together in ((7, 1), (8, 2)):
        world = replace(PAIR, capacity=capacity, window=2)
        assert running(world)[0] == together
        assert running(replace(world, window=0))[0] == 2


def test_a_window_makes_idle_prefixes_go() -> None:
    """The third finds both blocks of its prefix unless the second's window has taken one."""
    world = replace(
        PAIR,
        prompts=(prompt(9, 8, 1), (3,) * 8, prompt(9, 8, 2)),
        outputs=(1,) * 3,
        estimates=(1,) * 3,
        densities=(1.0,) * 3,
        max_running=1,
        capacity=6,
    )
    for window, hit in ((0, 8), (2, 8), (3, 4)):
        assert told(replace(world, window=window), "hit_tokens") == [[0], [0], [hit]]


def test_windows_are_not_among_what_stays_cached() -> None:
    world = replace(PAIR, keeps_own=True, window=3)
    core = core_of(world)
    assert sum(1 for _ in steps(core)) == 3
    assert (int(core.state.scalars[0].idle), int(core.state.scalars[0].free)) == (2 * 2, 16)
    out = replace(world, capacity=13, outputs=(20, 20), estimates=(20, 20))
    rows = told(out, "preempted", "held_blocks", "cached_blocks")
    before, now = next((rows[k - 1], row) for k, row in enumerate(rows) if row[0])
    assert (before[1:], now[1:]) == ([12, 0], [7, 3])


def test_a_preempted_request_gives_its_window_back_and_takes_it_again() -> None:
    """Both have three blocks besides when each needs a fourth, and one is left."""
    world = replace(PAIR, capacity=11, window=2, outputs=(12, 12), estimates=(12, 12))
    rows = told(world, "preempted", "held_blocks", "admitted")
    at = next(k for k, row in enumerate(rows) if row[0])
    assert (rows[at - 1][1], rows[at][1]) == (2 * (3 + 2), 4 + 2)
    back = next(k for k in range(at, len(rows)) if rows[k][2])
    assert rows[back][1] == 4 + 2
    assert compare(world) == len(rows)


@pytest.mark.parametrize("when", [1, 2])
def test_an_answer_that_ends_early_gives_its_window_back(when: int) -> None:
    core = core_of(replace(PAIR, window=4))
    for _ in range(when):
        core.step()
        core.commit()
    held = int(core.state.scalars[0].private)
    core.end(np.array([1]))
    core.check()
    assert held - int(core.state.scalars[0].private) == 4 + 2 + (when > 1)


def test_the_predicted_peak_counts_windows() -> None:
    """At their ends both hold 10 tokens, and half a block each; in 7 blocks of 4 they fit."""
    world = replace(PAIR, predicted_peak=True, capacity=7)
    assert max(running(world)) == 2
    for window in (1, 3):
        assert max(running(replace(world, capacity=7 + 2 * window, window=window))) == 2
        assert max(running(replace(world, capacity=6 + 2 * window, window=window))) == 1


def test_a_side_counts_the_windows_of_its_requests() -> None:
    world = replace(PAIR, dual=True, densities=(2.0, 0.5), output_reserved=0.0)
    assert told(world, "left_tokens", "right_tokens")[0] == [10, 10]
    wide = replace(world, window=3)
    assert told(wide, "left_tokens", "right_tokens")[0] == [22, 22]


@pytest.mark.parametrize(
    ("window", "rules"),
    [
        (1, {}),
        (2, {"dual": False}),
        (3, {"predicted_peak": True}),
        (3, {"keeps_own": True, "knows_plan": True}),
        (2, {"multiple": 8, "oldest_first": True}),
        (2, {"slice": 6, "max_running": 14, "oldest_first": True}),
        (2, {"interval": 4, "oldest_first": True, "max_running": 14}),
        (9, {"watermark": 4, "oldest_first": True, "max_running": 14}),
    ],
    ids=str,
)
def test_a_crowd_takes_the_same_steps_in_both_cores(window: int, rules: dict[str, Any]) -> None:
    compare(replace(CROWD, window=window, **rules))


@pytest.mark.parametrize(
    ("field", "sentence"), [("private", "not the capacity"), ("window_blocks", "private blocks")]
)
def test_check_finds_a_window_too_many(field: str, sentence: str) -> None:
    core = core_of(replace(PAIR, window=2))
    core.step()
    core.commit()
    core.check()
    core.state.scalars[0][field] += 1
    with pytest.raises(AssertionError, match=sentence):
        core.check()


# ---- paced


def test_a_paced_end_holds_its_windows_and_computes_nothing_for_them() -> None:
    wide = AMPLE._replace(world=replace(AMPLE.world, window=7, capacity=442)).core()
    before, after = record_of(AMPLE.core()), record_of(wide)
    assert after.hold_left - before.hold_left == pytest.approx(7 * (2 + 3 + 4))
    for name in ("tokens_left", "reads_left", "left_tokens", "right_reads"):
        assert after[name] == before[name]


def test_what_windows_hold_of_a_full_cache_is_not_read_as_context() -> None:
    wide = AMPLE._replace(world=replace(AMPLE.world, window=7)).core()
    reads, each = float(record_of(AMPLE.core()).reads_left), 7.0 * 129
    most = record_of(AMPLE.core()).most_reads
    assert record_of(wide).most_reads == pytest.approx(most * reads / (reads + each))


@pytest.mark.parametrize("block", [1, 4])
def test_steps_of_unknown_lengths_are_foreseen_by_their_context_alone(block: int) -> None:
    hidden = AMPLE._replace(visible=(False,) * 6)
    found = []
    for window in (0, 7):
        world = replace(AMPLE.world, window=window, capacity=500, block=block)
        core = hidden._replace(world=world).core()
        kind, p = core.state.pace[0].kinds[0], record_of(core)
        kind.running, kind.mean_sum = 4, 400.0
        kind.held_base = 4 * (50 + window * block)
        p.most_held, p.most_reads = 400.0, 40.0
        ahead = np.empty((17, 2))
        remaining.foresee(core.state, 1_000.0, ahead)
        found.append(ahead)
    assert found[0][1:].any()
    assert np.array_equal(*found)


# ---- prefill and decode apart


#: Prompts of three blocks, three and one, with windows of three.
THREE = replace(ALONE, capacity=14, window=3)


@pytest.mark.parametrize("keeps_own", [False, True])
def test_a_lent_prompt_keeps_its_window_and_gives_it_back(keeps_own: bool) -> None:
    core = prefilled(replace(THREE, keeps_own=keeps_own))
    before = blocks(core)
    handover.lend(core.state, 0)
    core.check()
    assert (blocks(core)["lent"], blocks(core)["capacity"]) == (1 + 3, 14 - 4)
    handover.take_back(core.state, 0)
    core.check()
    assert blocks(core) == before


@pytest.mark.parametrize(("capacity", "fits"), [(11, False), (12, True)])
def test_a_decode_replica_holds_the_windows_of_what_it_receives(capacity: int, fits: bool) -> None:
    core = receiving(replace(THREE, outputs=(2, 2, 2), estimates=(2, 2, 2), capacity=capacity))
    receive(core, 0)
    core.check()
    assert blocks(core)["private"] == 6
    assert handover.can_receive(core.state, 1) == fits
    handover.take_in(core.state, 0)
    core.step()
    core.commit()
    core.check()
    assert blocks(core)["free"] == capacity


#: The half of its layers attends to 17 tokens: a request holds two blocks of 16 besides.
HALF = replace(find_model("llama-3.1-8b"), windowed_layers=16, window=17)


def test_pools_hold_windows_on_both_sides() -> None:
    """Prompts of two blocks with windows of two: in seven blocks one at a time, in eight both."""
    fast = pools("1P1D", replace(LINKS["nvlink4"], latency=0.0))
    pool = alone([20, 20], [3, 3])
    for size, first, most in ((7, [20, 20], 4), (8, [40], 8)):
        log = run(pool, fast, model=seconds_model(size, model=HALF))
        assert [row[2] for row in events(log) if row[2]] == first
        for replica in (0, 1):
            assert log.count("held_blocks")[log.replica == replica].max() == most


def test_a_request_that_a_decode_replica_cannot_hold_beside_its_window_is_refused() -> None:
    topology = pools("1P1D", LINKS["nvlink4"])
    pool = alone([40], [9])
    run(pool, topology, model=seconds_model(6, model=HALF))
    with pytest.raises(OversizeError, match="a request of 49 tokens does not fit the 48 KV tokens"):
        run(pool, topology, model=seconds_model(5, model=HALF))


def test_ranks_that_steal_hold_windows() -> None:
    pool = alone([20] * 12, [4] * 12)
    stealing = Topology(steals=True, steal_seconds=2.0)
    model = seconds_model(12, model=HALF)
    log = run(pool, stealing, listed(pool, [0] * 10 + [1] * 2), model)
    assert log.meta["stolen"] > 0
    assert log.count("running").max() == 3
    assert log.count("held_blocks").max() == 3 * 4


def test_the_window_of_a_moved_prompt_moves_with_it() -> None:
    system = seconds_model(8, model=HALF).system
    each = system.kv_bytes_per_token
    assert kv_payload(system, np.array([10, 17, 500])).tolist() == [
        2 * 10 * each,
        2 * 17 * each,
        (500 + 17) * each,
    ]


# ---- what is not modelled


@pytest.mark.parametrize("name", ["sglang", "sglang-mixed"])
def test_rounds_are_refused(name: str) -> None:
    pool = alone([20], [3])
    with pytest.raises(
        InputError, match=rf"engine {name} is not modelled for llama.*; use another --engine"
    ):
        run(pool, model=seconds_model(9, model=HALF), flavour=find_flavour(name))


def test_host_memory_is_refused() -> None:
    pool, model = alone([20], [3]), seconds_model(9, model=HALF)
    host = HostMemory(1 << 30, LINKS["pcie4"])
    with pytest.raises(InputError, match=r"host memory is not modelled for llama.*; leave it out"):
        time_plan(listed(pool), pool, pool.output_len, sort_prompts(pool), model, PLAIN, host=host)
    require_modelled(PLAIN, COLOCATED, host, seconds_model().system)


def test_a_core_of_either_is_not_made() -> None:
    pool, model = alone([20], [3]), seconds_model(9, model=HALF)
    given = (listed(pool, admission=DUAL_SCAN), pool, pool.output_len, sort_prompts(pool))
    for flavour, host in (
        (find_flavour("sglang"), None),
        (PLAIN, HostMemory(1 << 30, LINKS["pcie4"])),
    ):
        with pytest.raises(AssertionError, match="windows"):
            ServingCore.from_plan(*given, model.system, flavour, host=host)
