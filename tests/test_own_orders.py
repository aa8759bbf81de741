"""Orders of one's own beside the policies: simulated as they are listed, chosen by prediction as
any other, tried at other token budgets and running limits.
"""

from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from blendsim import search
from blendsim.baselines import Baseline, find_baselines, named_baselines, own_baselines
from blendsim.errors import InputError
from blendsim.planner.make import IN_LINE, LONGEST_FIRST, OVERLAPPED
from blendsim.planner.own import reordered
from blendsim.report.metrics import Row
from blendsim.request import Workload, from_lengths
from blendsim.search.choice import Choice
from blendsim.settings import Settings, remembered
from blendsim.traces import load_pool

#: KV memory for a hundred requests at their ends, so that vLLM preempts.
TIGHT = Settings(gpu="h200", engine="vllm", sample=1.0, kv_bytes=8 * 10**9)


def unshared(n: int = 300) -> Workload:
    """Requests that share nothing, of answers all of which differ."""
    rng = np.random.default_rng(1)
    return from_lengths(rng.integers(100, 400, n), rng.integers(100, 900, n))


def by_answer(workload: Workload) -> dict[str, np.ndarray]:
    """An order that leaves no long answer for the end, and one that leaves them all."""
    longest = np.argsort(-workload.output_len, kind="stable")
    return {"longest": longest, "shortest": longest[::-1]}


def figures(row: Row) -> Row:
    """All that a row says but its name and what is said of the chosen one alone."""
    return replace(row, policy="", regret=None)


@pytest.fixture(scope="module", autouse=True)
def _without_our_own() -> Iterator[None]:
    """Our longest answers first are the same order as one's own here, and ahead where they tie."""
    usual = tuple(name for name in IN_LINE if name not in LONGEST_FIRST)
    with mock.patch("blendsim.settings.IN_LINE", usual):
        yield


@pytest.fixture(scope="module")
def shared() -> Workload:
    return load_pool(["demo:mixed?n=300"])


@pytest.fixture(scope="module")
def tight() -> Choice:
    return search.choose(unshared(), TIGHT, own=by_answer(unshared()))


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("engine", ["nanoflow", "vllm"])
def test_the_order_of_a_policy_takes_as_long_as_the_policy(
    shared: Workload, engine: str, dp: int
) -> None:
    problem = search.prepare(shared, Settings(engine=engine, dp=dp))
    dfs = search.plan_policy(problem, "dfs")
    choice = search.choose_for(problem, own={"mine": dfs.order, "back": dfs.order[::-1]})
    rows = {row.policy: row for row in choice.rows}
    assert figures(rows["mine"]) == figures(rows["dfs"])
    assert rows["back"].predicted_seconds != rows["dfs"].predicted_seconds


def test_rows_of_policies_are_the_same_beside_an_order_of_ones_own(shared: Workload) -> None:
    settings = Settings(dp=2, token_budget=2_048)
    alone = search.choose(shared, settings)
    beside = search.choose(shared, settings, own={"listed": np.arange(300)})
    assert [row.policy for row in beside.rows] == [*OVERLAPPED, "listed"]
    assert list(map(figures, beside.rows[:-1])) == list(map(figures, alone.rows))


def test_several_ranks_keep_the_requests_that_prefix_order_gives_them(shared: Workload) -> None:
    problem = search.prepare(shared, Settings(dp=2, planner="fcfs"))
    dfs = search.plan_policy(problem, "dfs")
    backwards = np.arange(300)[::-1]
    choice = search.choose_for(problem, own={"back": backwards})
    made = reordered(dfs, backwards, "back")
    [_, row] = choice.rows
    there = remembered(dfs.meta["settings"], "the plan")
    assert figures(search.simulate_plan(shared, made, there).row) == figures(row)
    for rank in range(2):
        own = made.order[made.rank == rank]
        assert sorted(own) == sorted(dfs.order[dfs.rank == rank])
        assert (np.diff(own) < 0).all()


def test_an_order_of_ones_own_is_chosen_if_it_is_predicted_to_be_the_fastest() -> None:
    workload = unshared()
    settings = Settings(engine="vllm", sample=1.0, token_budget=2_048)
    choice = search.choose(workload, settings, own=by_answer(workload))
    seconds = {row.policy: row.predicted_seconds for row in choice.rows}
    assert min(seconds, key=seconds.__getitem__) == "longest"
    assert max(seconds, key=seconds.__getitem__) == "shortest"
    assert (choice.plan.policy, choice.chosen.policy) == ("longest", "longest")
    assert choice.plan.order.tolist() == by_answer(workload)["longest"].tolist()
    assert choice.plan.meta["predicted_seconds"] == seconds["longest"]
    assert choice.chosen.regret == 0.0
    assert choice.advice[0].startswith("longest is chosen: predicted ")
    again = search.choose(workload, settings, own={"shortest": by_answer(workload)["shortest"]})
    assert again.chosen.policy == min(set(seconds) - {"longest"}, key=seconds.__getitem__)


def test_regret_is_against_orders_of_ones_own_too() -> None:
    workload = unshared()
    settings = Settings(engine="vllm", sample=0.1, token_budget=2_048)
    choice = search.choose(workload, settings, own=by_answer(workload))
    seconds = {row.policy: row.reported_seconds for row in choice.rows}
    own = min(seconds, key=seconds.__getitem__)
    assert own == "longest" != choice.chosen.policy, "by what planning sees others are ahead"
    assert choice.chosen.regret == choice.chosen.reported_seconds - seconds["longest"]
    assert "On the true lengths longest would have been" in choice.advice[0]


def test_an_order_of_ones_own_is_tried_at_other_budgets_and_limits(tight: Choice) -> None:
    *_, usual, shortest, best = tight.rows
    assert (usual.policy, shortest.policy, best.policy) == ("longest", "shortest", "longest")
    assert best is tight.chosen
    assert best.token_budget < usual.token_budget
    assert best.max_running < min(best.token_budget, usual.max_running), "vLLM preempts here"
    assert best.predicted_seconds < 0.99 * usual.predicted_seconds
    there = remembered(tight.plan.meta["settings"], "the plan")
    assert (there.token_budget, there.max_running) == (best.token_budget, best.max_running)
    again = search.simulate_plan(unshared(), tight.plan, there).row
    assert again.predicted_seconds == best.predicted_seconds


def test_beside_one_policy_the_engine_s_own_limits_are_kept() -> None:
    workload = unshared()
    choice = search.choose(workload, replace(TIGHT, planner="dfs"), own=by_answer(workload))
    assert [row.policy for row in choice.rows] == ["dfs", "longest", "shortest"]
    assert choice.chosen.policy == "longest"
    assert {row.token_budget for row in choice.rows} == {TIGHT.flavour().token_budget}


def test_pools_of_prefill_and_decode_take_an_order_of_ones_own(shared: Workload) -> None:
    problem = search.prepare(shared, Settings(topology="1P1D", planner="dfs"))
    dfs = search.plan_policy(problem, "dfs")
    choice = search.choose_for(problem, own={"mine": dfs.order})
    assert figures(choice.rows[1]) == figures(choice.rows[0])


@pytest.mark.parametrize("dp", [1, 2])
def test_compare_has_an_order_of_ones_own_by_every_engine(shared: Workload, dp: int) -> None:
    settings = Settings(dp=dp, sample=1.0, token_budget=2_048, max_running=256)
    alone = search.compare(shared, settings, find_baselines(["sglang", "nanoflow"]))
    dfs = search.plan_policy(search.prepare(shared, settings), "dfs")
    orders = {"mine": dfs.order, "back": dfs.order[::-1]}
    beside = search.compare(shared, settings, find_baselines(["sglang", "nanoflow"]), own=orders)
    n = len(alone.rows)
    assert beside.rows[:n] == alone.rows
    assert beside.common[:n] == alone.common
    rows = {row.policy: row for row in beside.rows}
    own = ["sglang-mine", "nanoflow-mine", "sglang-back", "nanoflow-back"]
    assert list(rows)[n:] == own
    assert figures(rows["sglang-mine"]) == figures(rows["SGLang-DFS"])
    assert figures(rows["nanoflow-mine"]) == figures(rows["NanoFlow-DFS"])
    assert rows["nanoflow-back"].seconds != rows["nanoflow-mine"].seconds


def test_pools_of_prefill_and_decode_have_no_row_of_ones_own() -> None:
    assert own_baselines(find_baselines(["vllm"]), ["mine"]) == (
        Baseline("vllm-mine", "mine", "vllm"),
    )
    assert own_baselines(named_baselines("distserve"), []) == ()
    with pytest.raises(InputError, match="the engines asked for have none; add one"):
        own_baselines(named_baselines("distserve"), ["mine"])


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"mine": [0, 1]}, "order 'mine': an order of 300 requests is 300 row numbers"),
        ({"mine": [0] * 300}, "order 'mine' names row 0 300 times"),
        ({"mine": range(300), "dfs": range(300)}, "called 'dfs' would pass for a plan of that"),
        ({"DFS": range(300)}, "called 'DFS' would pass for a plan of that"),
        ({"auto": range(300)}, "called 'auto' would pass for a plan of that"),
        ({" x": range(300)}, "a name is one line of printable text without blanks around it"),
        ({"a\nb": range(300)}, "a name is one line of printable text without blanks around it"),
    ],
)
def test_what_is_no_order_is_named(
    shared: Workload, own: dict[str, list[int]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        search.choose(shared, Settings(), own=own)
