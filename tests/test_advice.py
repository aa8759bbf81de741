"""What the user is told: why this schedule, what bounds the pool, what would run almost free."""

from dataclasses import replace

import numpy as np
import pytest

from blendsim import search
from blendsim.perf.model import StepModel, step_model
from blendsim.report.advice import advise, of_pool
from blendsim.report.metrics import outside
from blendsim.report.optimum import Bounds, Work
from blendsim.request import Workload, from_lengths
from blendsim.specs import find_gpu, find_model
from blendsim.system import System


def model_of(name: str = "llama-3.1-8b") -> StepModel:
    return step_model(System(find_model(name), find_gpu("a100-80g")), "table")


def limits(
    compute: float, memory: float, longest: float = 0.0, model: StepModel | None = None
) -> Bounds:
    """Of a pool of so many seconds, on `model_of()` by itself, with 100 prompt tokens to one of an
    answer.
    """
    model = model or model_of()
    tokens = int(compute / model.best_layer_seconds_per_token)
    reads = int(memory / model.best_seconds_per_context_token)
    work = Work(tokens, tokens // 2, tokens // 100, 0, reads, 0, 0)
    reachable = max(longest, compute + memory)
    return Bounds(max(compute, memory), reachable, compute, memory, longest, work)


def model_that_gains_nothing() -> StepModel:
    return step_model(System(find_model("llama-3.1-8b"), find_gpu("h200")), "sum")


@pytest.mark.parametrize(
    ("compute", "memory", "kind"),
    [(1.06, 0.517, "compute"), (0.517, 1.06, "decode reads (memory bandwidth)")],
)
def test_pool_that_is_bound_by_one_kind_is_not_called_balanced(
    compute: float, memory: float, kind: str
) -> None:
    model = model_that_gains_nothing()
    bound, told = of_pool([], limits(compute, memory, model=model), model, 1.6)
    assert bound.startswith(f"The pool is bound by {kind}: ")
    assert told == (
        "Other work would not run noticeably cheaper beside it: running compute beside decode "
        "reads saves little, as steps are priced here."
    )


def test_pool_of_equal_kinds_is_balanced_however_steps_are_priced() -> None:
    model = model_that_gains_nothing()
    told = of_pool([], limits(1.06, 1.0, model=model), model, 2.1)[1]
    assert told == "The pool is balanced: other work would not run noticeably cheaper beside it."


def test_all_reduces_are_named_where_there_are_some() -> None:
    workload = from_lengths([3_000] * 50, [20] * 50)
    told = advice_on(workload, model="llama-3.1-70b", tp=8)[2]
    assert told.startswith("The pool is bound by compute: ")
    assert " s of all-reduces and " in told
    assert "all-reduces" not in advice_on(workload)[2]


def advice_on(workload: Workload, **settings: object) -> list[str]:
    return search.choose(workload, search.Settings(sample=1.0, **settings)).advice  # type: ignore[arg-type]


def test_pool_of_prompts_is_told_to_take_answers_in() -> None:
    why, used, bound, partner = advice_on(from_lengths([3_000] * 2_000, [20] * 2_000))
    assert "is chosen: predicted" in why
    assert " at most; the KV cache holds 450,896 tokens. Of peak FLOP/s " in used
    assert bound.startswith("The pool is bound by compute: ")
    assert "Order buys next to nothing here: all policies lie within" in bound
    assert partner.startswith("Pool it with memory-heavy work: ")


def test_pool_of_answers_is_told_to_take_prompts_in() -> None:
    bound, partner = of_pool([], limits(80.0, 800.0), model_of(), 880.0)
    assert bound.startswith("The pool is bound by decode reads (memory bandwidth): ")
    assert partner.startswith("Pool it with compute-heavy work: ")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "sequential"])
def test_engine_that_does_not_overlap_is_promised_nothing_by_it(engine: str) -> None:
    """Simulated, the other kind of work adds to such a run what it takes alone."""
    partner = advice_on(from_lengths([3_000] * 200, [20] * 200), engine=engine, planner="dfs")[-1]
    assert partner.startswith("This engine runs compute and decode reads one after the other: ")


def test_partner_whose_answer_outlasts_the_pool_is_not_named() -> None:
    """A token of an answer takes a step: 16,384 of them, on an A100, more than two minutes."""
    short = of_pool([], limits(20.0, 2.0), model_of(), 22.0)[1]
    assert short == "The pool is too short for memory-heavy work to run cheaper beside it."
    assert " and 4,096 output tokens " in of_pool([], limits(80.0, 8.0), model_of(), 88.0)[1]
    assert " and 16,384 output tokens " in of_pool([], limits(800.0, 80.0), model_of(), 880.0)[1]


def test_run_that_waits_for_one_request_has_room_for_others() -> None:
    one, more = (from_lengths([1_000] * n, [500] * n) for n in (1, 10))
    _, _, bound, room = advice_on(one)
    assert "Order buys next to nothing here: " in bound
    assert "overlap" not in bound
    assert room.startswith(
        "Until it ends there is room for other requests: at best the pool's work "
    )
    assert room.endswith(" of the run's 5.84 s.")
    taken = [search.choose(pool, search.Settings(sample=1.0)).chosen for pool in (one, more)]
    assert taken[1].reported_seconds < 1.3 * taken[0].reported_seconds


def test_run_that_is_full_beside_its_longest_request_has_no_room() -> None:
    """Of 100 s one request takes 60, and all work 90."""
    for overlaps in (True, False):
        told = of_pool([], limits(90.0, 40.0, longest=60.0), model_of(), 100.0, overlaps=overlaps)
        assert not any("room" in sentence for sentence in told)
    empty = of_pool([], limits(20.0, 20.0, longest=60.0), model_of(), 100.0, overlaps=False)
    assert " would take 40.0 of the run's 100.0 s." in empty[1]


def test_short_pool_that_is_balanced_is_not_called_too_short() -> None:
    model = step_model(System(find_model("llama-3.1-8b"), find_gpu("a100-80g")), "max")
    told = of_pool([], limits(20.0, 19.9), model, 25.0)[1]
    assert told == "The pool is balanced: other work would not run noticeably cheaper beside it."


def test_partner_is_named_of_one_replica_alone() -> None:
    """Bounds know nothing of the slowest of several."""
    pool = from_lengths([3_000] * 1_600, [20] * 1_600)
    told = {dp: advice_on(pool, planner="fcfs", dp=dp)[-1] for dp in (1, 2)}
    assert told[1].startswith("Pool it with memory-heavy work: ")
    assert told[2] == (
        "How much memory-heavy work would run cheaper beside it is told for one replica alone."
    )


def test_partner_is_named_of_runs_close_to_their_bound_alone() -> None:
    close, far = (of_pool([], limits(800.0, 80.0), model_of(), 880.0 / k)[1] for k in (0.86, 0.84))
    assert " output tokens would add, by its bounds, " in close
    assert far == (
        "How much memory-heavy work would run cheaper beside it is not told: that is reckoned by "
        "bounds, and this run is at 84% of its own."
    )


def test_times_of_work_are_said_to_be_of_each_of_several_replicas() -> None:
    for longest, begin in ((0.0, "The pool is bound by compute: 30.0 s"), (110.0, "The longest ")):
        shared = limits(30.0, 20.0, longest)._replace(replicas=4)
        told = of_pool([], shared, model_of(), 160.0)[0]
        assert told.startswith(begin)
        assert ", each at its best rate, for each of 4 replicas." in told
        assert "replica" not in of_pool([], limits(30.0, 20.0, longest), model_of(), 160.0)[0]


def test_one_policy_alone_is_not_compared() -> None:
    why = advice_on(from_lengths([50] * 9, [5] * 9), planner="dfs")[0]
    assert why.startswith("dfs: predicted ")


def test_request_that_outlasts_all_others_is_named() -> None:
    bound = advice_on(from_lengths([50] * 9, [5] * 8 + [9_000]), planner="dfs")[2]
    assert "The longest request alone takes " in bound


def test_request_that_takes_most_of_the_run_is_what_bounds_it() -> None:
    limit = limits(30.0, 20.0, longest=110.0)
    alone = of_pool([], limit, model_of(), 160.0)[0]
    assert alone.startswith("The longest request alone takes at least 110.0 of the 160.0 s: no ")
    assert alone.endswith(
        "The whole pool has 30.0 s of compute and 20.0 s of decode reads, each at its best rate."
    )
    assert "bound by" not in alone
    less = of_pool([], limit, model_of(), 230.0)[0]
    assert less.startswith("The pool is bound by compute: 30.0 s of compute and 20.0 s of decode")
    assert less.endswith(
        "The longest request alone takes at least 110.0 s: no order ends sooner than that."
    )


def test_loss_in_hindsight_is_admitted() -> None:
    choice = search.choose(from_lengths([500, 50] * 40, [5, 200] * 40), search.Settings())
    fast, slow = choice.rows[:2]
    fast = replace(fast, policy="fast", predicted_seconds=2.0, seconds=7.0)
    slow = replace(slow, policy="slow", predicted_seconds=1.0, seconds=9.0, regret=2.0)
    why = advise([fast, slow], slow, choice.bounds, model_of())[0]
    assert why.startswith(
        "slow is chosen: predicted 1.00 s, 100.0% faster than fast, the next best"
    )
    assert why.endswith("On the true lengths fast would have been 2.00 s faster.")


def test_a_loss_that_is_not_seen_when_printed_is_not_told() -> None:
    choice = search.choose(from_lengths([500, 50] * 40, [5, 200] * 40), search.Settings())
    fast, slow = choice.rows[:2]
    fast = replace(fast, policy="fast", predicted_seconds=2.0, seconds=7.0)
    slow = replace(slow, policy="slow", predicted_seconds=1.0, seconds=7.04, regret=0.04)
    assert "would have been" not in advise([fast, slow], slow, choice.bounds, model_of())[0]


def test_a_tie_is_told_as_one() -> None:
    choice = search.choose(from_lengths([500, 50] * 40, [5, 200] * 40), search.Settings())
    first, second = choice.rows[:2]
    first = replace(first, policy="first", predicted_seconds=100.1, seconds=9.0)
    second = replace(second, policy="second", predicted_seconds=100.0, seconds=9.0)
    why = advise([first, second], first, choice.bounds, model_of())[0]
    assert why == (
        "first is chosen: predicted 100.1 s, level with second (0.1% ahead by chance), the next "
        "best."
    )
    equal = replace(second, predicted_seconds=100.1)
    why = advise([first, equal], first, choice.bounds, model_of())[0]
    assert why.endswith("as fast as second, the next best.")


def test_nothing_is_lost_in_hindsight_where_no_true_length_is_known() -> None:
    workload = from_lengths([500, 50] * 40, [5, 200] * 40)
    blind = replace(workload, has_output=np.zeros(80, np.bool_))
    choice = search.choose(blind, search.Settings())
    assert choice.chosen.seconds is None
    assert choice.chosen.regret is None
    assert "would have been" not in choice.advice[0]


def test_steps_beyond_the_profile_are_noted_not_refused() -> None:
    workload = from_lengths([10] * 900, [40] * 900)
    settings = search.Settings(model="llama-2-7b", planner="fcfs", sample=1.0)
    choice = search.choose(workload, settings)
    assert any("has more decoding requests than the kernel profile" in n for n in choice.notes)
    assert outside(choice.log, model_of("llama-2-7b").coverage)[0].told() in choice.notes


def test_when_replicas_end_stands_before_what_bounds_the_pool() -> None:
    """The last two sentences are of the pool, and another may be put between them."""
    pool = from_lengths([3_000] * 20, [20] * 19 + [400])
    _, used, ends, bound, partner = advice_on(pool, planner="fcfs", dp=2)
    assert " at a time on each replica in the mean, " in used
    assert ends.startswith("Replicas end between ")
    assert [bound, partner] == advice_on(pool, planner="dfs", dp=2)[-2:]
