"""ServingCore as its drivers see it: made from a plan, stepped from outside, checked."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_serving import World, paths
from serving_worlds import core_of, steps, worlds

from blendsim.errors import BlendsimError, InputError, UnknownName
from blendsim.plan import IN_ORDER, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, from_lengths, select
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import FLAVOURS, PROMPT_FITS, Flavour, find_flavour
from blendsim.serving.fresh import block_paths
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

WORLD = World(
    prompts=((1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (7, 8)),
    outputs=(3, 2, 4),
    estimates=(3, 2, 4),
    densities=(1.0,) * 3,
    block=2,
)


@settings(max_examples=200, deadline=None)
@given(worlds(), st.data())
def test_any_subset_of_requests_shares_what_it_has_in_common(
    world: World, data: st.DataObject
) -> None:
    n = len(world.prompts)
    rows = np.array(data.draw(st.permutations(range(n))), np.int64)
    rows = rows[: data.draw(st.integers(1, n))]
    offsets = np.cumsum([0, *map(len, world.prompts)])
    units = np.array([token for prompt in world.prompts for token in prompt])
    lists = Prompts(offsets, units, np.zeros(n, np.int32), np.ones(1, np.int32), ("tokens",))
    workload = from_lengths([len(p) for p in world.prompts], world.outputs, prompts=lists)
    found = block_paths(sort_prompts(workload), rows, world.block)
    mine = replace(world, prompts=tuple(world.prompts[k] for k in rows), sharing=True)
    for k, path in enumerate(paths(mine)):
        node, lengths = int(found.node[k]), []
        while node > 0:
            above = int(found.tree.parent[node])
            lengths.append(int(found.tree.depth[node] - found.tree.depth[above]))
            node = above
        assert lengths[::-1] == [part.length for part in path]
    again = block_paths(sort_prompts(select(workload, rows)), np.arange(len(rows)), world.block)
    depths = [paths_.tree.depth[paths_.node].tolist() for paths_ in (found, again)]
    assert depths[0] == depths[1]


def test_each_rank_serves_its_own_requests() -> None:
    workload = from_lengths([20, 30, 40, 50], [2, 3, 4, 5])
    plan = Plan(
        policy="by hand",
        admission=IN_ORDER,
        order=np.array([3, 1, 0, 2]),
        rank=np.array([0, 0, 1, 1], np.int32),
        is_first=np.array([True, False, True, True]),
        is_visible=np.zeros(4, np.bool_),
        expected_output=np.array([5, 3, 2, 4]),
        density=np.ones(4),
        root_density=1.0,
        workload_hash="",
        meta={},
    )
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
    seen = []
    for rank in (0, 1):
        core = ServingCore.from_plan(
            plan,
            workload,
            workload.output_len,
            sort_prompts(workload),
            system,
            find_flavour("vllm"),
            rank,
        )
        core.step()
        seen.append((core.scheduled().rows.tolist(), core.scheduled().tokens.tolist()))
        assert int(core.state.scalars[0].first_count) == [1, 2][rank]
    assert seen == [([3, 1], [50, 30]), ([0, 2], [20, 40])]


def test_batch_holds_the_first_counts_of_the_step() -> None:
    core = core_of(WORLD)
    while not core.is_done:
        batch = core.step()
        assert batch._asdict() == {name: core.counts()[name] for name in batch._fields}
        core.commit()


def test_finished_is_counted_at_the_commit() -> None:
    core = core_of(replace(WORLD, outputs=(1, 1, 1)))
    core.step()
    before = core.counts()["finished"]
    core.commit()
    assert (before, core.counts()["finished"], core.is_done) == (0, 3, True)


def test_no_step_follows_the_last() -> None:
    core = core_of(WORLD)
    assert len(list(steps(core))) == 4
    with pytest.raises(AssertionError, match="all requests are done"):
        core.step()


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("free", "not the capacity"),
        ("running", "requests run"),
        ("done", "done requests are counted"),
        ("context", "Σ context"),
        ("shared_length", "held paths"),
        ("left_reserved", "tokens are reserved"),
    ],
)
def test_check_finds_a_total_that_is_off(field: str, sentence: str) -> None:
    core = core_of(WORLD)
    core.step()
    core.commit()
    core.check()
    core.state.scalars[0][field] += 1
    with pytest.raises(AssertionError, match=sentence):
        core.check()


@pytest.mark.parametrize(
    ("one", "other", "sentence"),
    [
        ("free", "private", "private blocks are held"),
        ("free", "shared_held", "held shared blocks"),
        ("free", "idle", "idle blocks are counted"),
    ],
)
def test_check_finds_a_block_booked_in_the_wrong_place(one: str, other: str, sentence: str) -> None:
    core = core_of(WORLD)
    core.step()
    core.commit()
    core.state.scalars[0][one] -= 1
    core.state.scalars[0][other] += 1
    with pytest.raises(AssertionError, match=sentence):
        core.check()


def test_check_finds_a_reader_too_many() -> None:
    core = core_of(WORLD)
    core.step()
    core.state.nodes.readers[1] += 1
    with pytest.raises(AssertionError, match="readers of every prefix"):
        core.check()


def test_check_finds_an_end_expected_twice() -> None:
    core = core_of(WORLD)
    core.step()
    core.commit()
    core.state.buckets["count"][7] += 1
    with pytest.raises(AssertionError, match="every end is expected once"):
        core.check()


def test_every_flavour_is_found_by_its_name() -> None:
    assert [find_flavour(name).name for name in FLAVOURS] == list(FLAVOURS)
    assert find_flavour("vllm").admission == PROMPT_FITS


def test_smaller_budget_lowers_the_running_limit_with_it() -> None:
    flavour = find_flavour("nanoflow", token_budget=512)
    assert (flavour.token_budget, flavour.max_running) == (512, 512)


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="sglang"):
        find_flavour("sglnag")


@pytest.mark.parametrize(("budget", "running"), [(0, 1), (8, 0), (8, 9)])
def test_impossible_limits_are_refused(budget: int, running: int) -> None:
    with pytest.raises(InputError, match="limit"):
        Flavour("odd", "0", token_budget=budget, max_running=running)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"admission": "nope"}, "unknown admission 'nope'; nearest known: pr"),
        ({"eviction": "nope"}, "unknown eviction 'nope'; nearest known: lru, plan"),
        ({"queue_order": "nope"}, "unknown queue order 'nope'; nearest known: "),
        ({"runtime": "nope"}, "unknown runtime 'nope'; nearest known: "),
        ({"admission": None}, "Flavour: admission = None is not of type str; mend it"),
        ({"block_tokens": 0}, "odd: block_tokens 0 is below 1; give at least 1 token, or None"),
        ({"block_tokens": 1.5}, "Flavour: block_tokens = 1.5 is not of type int; mend it"),
        ({"large_gpu_budget": 0}, "odd: large_gpu_budget 0 is below 1; give at least 1 token"),
        ({"token_budget": 0}, "token budget 0 and running limit 1024 must be at least 1"),
        ({"token_budget": "many"}, "Flavour: token_budget = 'many' is not of type int; mend it"),
        ({"conservativeness": float("nan")}, "Flavour: conservativeness = nan is not finite"),
    ],
)
def test_rules_that_no_engine_has_are_refused_in_a_line(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BlendsimError, match=f"^{re.escape(sentence)}") as refused:
        Flavour("odd", "0", **given)
    assert "\n" not in str(refused.value)


def test_rules_may_be_numbers_of_any_kind() -> None:
    flavour = Flavour("odd", "0", token_budget=np.int64(512), max_running=np.int32(256))
    assert (type(flavour.token_budget), type(flavour.max_running)) == (int, int)
