"""Work stealing between ranks: who takes what from whom, and that nothing gets lost on the way."""

from dataclasses import replace

import numpy as np
import pytest
from cluster_worlds import PLAIN, alone, events, listed, run, seconds_model, sharing, total
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import SMALL, tiny_pool

from blendsim import search
from blendsim.errors import InputError
from blendsim.plan import DUAL_SCAN, Plan, deal
from blendsim.prefix import sort_prompts
from blendsim.request import Workload
from blendsim.serving.flavour import FLAVOURS
from blendsim.serving.sides import running_requests
from blendsim.sim.run import simulate
from blendsim.sim.stealing import Crew
from blendsim.steplog import StepLog
from blendsim.topology import Topology

STEALS = Topology(steals=True)

#: One prompt at a time: the others wait.
NARROW = replace(PLAIN, max_running=1)

#: Engines that take requests as the plan lists them; SGLang sorts its line itself.
MIXING = [name for name, flavour in FLAVOURS.items() if not flavour.prefill_first]


def ends(log: StepLog, ranks: int) -> list[float]:
    """When each rank is through."""
    return [float(log.times[log.replica == r, :2].sum(axis=1).max(initial=0)) for r in range(ranks)]


# ---- by hand: every step takes a second


def test_rank_with_nothing_waiting_takes_the_upper_half_of_the_others_line() -> None:
    workload = alone([10] * 9, [1] * 9)
    plan = listed(workload, [0] * 8 + [1])
    assert ends(run(workload, plan=plan, flavour=NARROW), 2) == [8.0, 1.0]
    log = run(workload, STEALS, plan, flavour=NARROW)
    # At 1 seven wait on rank 0 and four of them go. At 3 the next four are two and two.
    assert ends(log, 2) == [4.0, 5.0]
    assert log.meta["stolen"] == 4


def test_rank_scanned_from_both_ends_gives_away_its_middle() -> None:
    workload = alone([900] * 20 + [10] * 21, [1] * 20 + [2_000] * 20 + [1])
    crew = crew_of(workload, listed(workload, [0] * 40 + [1], DUAL_SCAN))
    thief, victim = crew.replicas[1], crew.replicas[0]
    thief.advance()
    crew.balance(1.0)
    assert waiting(victim) == [*range(10), *range(30, 40)]
    assert waiting(thief) == list(range(10, 30))
    for replica in crew.replicas:
        replica.core.check()


def test_sampled_requests_still_run_first_after_a_theft() -> None:
    workload = alone([10] * 9, [1] * 9)
    plan = listed(workload, [0] * 8 + [1])
    crew = crew_of(workload, replace(plan, is_first=np.array([True] * 4 + [False] * 4 + [False])))
    crew.replicas[1].advance()
    crew.balance(1.0)
    assert [waiting(replica) for replica in crew.replicas] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    firsts = [int(r.core.state.scalars[0].first_count) for r in crew.replicas]
    assert firsts == [2, 2]


def test_sampled_requests_that_have_run_are_no_part_of_those_that_run_first() -> None:
    """Of five of the victim one has ended; four and four wait, and half of either goes."""
    workload = alone([10] * 10, [1] * 10)
    plan = replace(listed(workload, [0] * 9 + [1]), is_first=np.arange(10) < 5)
    crew = crew_of(workload, plan)
    crew.replicas[0].advance(0.5)
    crew.replicas[1].advance()
    crew.balance(1.0)
    assert [waiting(replica) for replica in crew.replicas] == [[1, 2, 5, 6], [3, 4, 7, 8]]
    firsts = [int(r.core.state.scalars[0].first_count) for r in crew.replicas]
    assert firsts == [2, 2]


def test_shared_prompts_are_little_work_to_steal() -> None:
    """All share 160 tokens: 8 of 10 more and 4 of 330 wait, about half of which are two."""
    workload = sharing([170] * 8 + [490] * 4 + [170], [1] * 13, shared=160)
    crew = crew_of(workload, listed(workload, [0] * 12 + [1]))
    crew.replicas[1].advance()
    crew.balance(1.0)
    assert waiting(crew.replicas[1]) == [10, 11]


def test_rank_whose_own_requests_wait_to_come_back_takes_nothing() -> None:
    workload = alone([10] * 9, [1] * 9)
    for requeued, stolen in ((0, 4), (1, 0)):
        crew = crew_of(workload, listed(workload, [0] * 8 + [1]))
        crew.replicas[1].advance()
        crew.replicas[1].core.state.scalars[0].requeued = requeued
        crew.balance(1.0)
        assert crew.stolen == stolen


def test_the_rank_with_most_work_left_is_robbed() -> None:
    workload = alone([10, 10, 10, 50, 50, 10], [1] * 6)
    crew = crew_of(workload, listed(workload, [0, 0, 0, 1, 1, 2]))
    crew.replicas[2].advance()
    crew.balance(1.0)
    assert [waiting(replica) for replica in crew.replicas] == [[0, 1, 2], [3], [4]]


def test_rank_whose_running_requests_are_work_enough_takes_nothing() -> None:
    workload = alone([10, 10, 10], [1, 1, 20_000])
    crew = crew_of(workload, listed(workload, [0, 0, 1]))
    crew.replicas[1].advance(1.5)
    crew.balance(1.5)
    assert (waiting(crew.replicas[0]), crew.stolen) == ([0, 1], 0)


def test_what_runs_is_the_prompt_left_the_answer_left_and_its_reads() -> None:
    """One request of 250 + 9 tokens, 100 of them a step."""
    workload = alone([250], [9])
    crew = crew_of(workload, listed(workload))
    system = seconds_model().system
    token = 2.0 * system.model.active_parameters / system.flops
    read = system.model.kv_bytes_per_token / system.gpu.bandwidth

    def left(prompt: int, answer: int, context: int) -> float:
        return (prompt + answer) * token + (context * answer + answer**2 / 2) * read

    crew.replicas[0].advance(0.5)
    assert crew._running_seconds() == pytest.approx([left(150, 9, 250)])
    crew.replicas[0].advance(1.5)
    assert crew._running_seconds() == pytest.approx([left(50, 9, 250)])
    crew.replicas[0].advance(2.5)  # with the prompt's end comes the first token
    assert crew._running_seconds() == pytest.approx([left(0, 8, 251)])
    crew.replicas[0].advance(5.5)
    assert crew._running_seconds() == pytest.approx([left(0, 5, 254)])


def test_what_runs_on_the_victim_counts_as_its_work() -> None:
    """Two ranks have as much waiting; the one whose running request has long to go is robbed."""
    workload = alone([10, 10, 10, 10, 10, 10, 10], [1, 1, 1, 5_000, 1, 1, 1])
    crew = crew_of(workload, listed(workload, [0, 0, 0, 1, 1, 1, 2]))
    for replica in crew.replicas:
        replica.advance(0.5)
    crew.replicas[2].advance()
    crew.balance(1.0)
    assert [waiting(replica) for replica in crew.replicas] == [[1, 2], [], [4, 5]]


def test_thief_starts_when_it_takes_not_when_it_stopped() -> None:
    workload = alone([10] * 7, [1] * 7)
    log = run(workload, STEALS, listed(workload, [0] * 6 + [1]), flavour=NARROW)
    slow = Topology(steals=True, steal_seconds=2.5)
    late = run(workload, slow, listed(workload, [0] * 6 + [1]), flavour=NARROW)
    on_thief = [[e[0] for e in events(each) if e[1] == 1] for each in (log, late)]
    assert on_thief[0][:2] == [0.0, 1.0]
    assert on_thief[1][:2] == [0.0, 2.5]


def crew_of(workload: Workload, plan: Plan) -> Crew:
    prompts = sort_prompts(workload)
    return Crew(plan, workload, workload.output_len, prompts, seconds_model(), NARROW, 1.0)


def waiting(replica: object) -> list[int]:
    state = replica.core.state  # type: ignore[attr-defined]
    s = state.scalars[0]
    return state.queue[int(s.front) : int(s.back) + 1].tolist()


# ---- any pool


def uneven(seed: int, n: int, ranks: int, policy: str) -> tuple[search.Problem, Plan]:
    """A pool in little memory, dealt out without a look at its work."""
    rng = np.random.default_rng(seed)
    lengths = list(zip(rng.integers(1, 300, n), rng.integers(1, 200, n), strict=True))
    pool = tiny_pool(lengths, rng.integers(0, 150, n).tolist(), rng.integers(0, 3, n).tolist())
    problem = search.prepare(pool, search.Settings(sample=1.0, kv_bytes=SMALL))
    return problem, deal(search.plan_policy(problem, policy), np.sort(rng.integers(0, ranks, n)))


def served(problem: search.Problem, plan: Plan, name: str, topology: Topology) -> StepLog:
    workload, flavour = problem.workload, FLAVOURS[name]
    output = workload.output_len
    return simulate(plan, workload, output, problem.prompts, problem.model, flavour, topology)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1_000),
    n=st.integers(4, 60),
    ranks=st.integers(2, 4),
    name=st.sampled_from(MIXING),
    policy=st.sampled_from(["fcfs", "dfs", "blend"]),
    steal_seconds=st.sampled_from([0.05, 1.0]),
)
def test_every_request_ends_once_whoever_serves_it(
    seed: int, n: int, ranks: int, name: str, policy: str, steal_seconds: float
) -> None:
    problem, plan = uneven(seed, n, ranks, policy)
    log = served(problem, plan, name, Topology(steals=True, steal_seconds=steal_seconds))
    output, prompt = problem.workload.output_len, problem.workload.prompt_len
    assert total(log, "finished") == n
    assert total(log, "decode_requests") == int((output - 1).sum())
    if not total(log, "preempted"):
        assert total(log, "prefill_tokens") + total(log, "hit_tokens") == int(prompt.sum())
        assert total(log, "sampled_tokens") == int(output.sum())


@pytest.mark.parametrize("policy", ["fcfs", "blend"])
def test_stealing_evens_out_ranks_that_were_dealt_out_badly(policy: str) -> None:
    saved = []
    for seed in range(12):
        problem, plan = uneven(seed, 150, 3, policy)
        skewed = deal(plan, np.minimum(np.arange(150) // 25, 2))
        apart, stealing = (
            served(problem, skewed, "nanoflow", topology)
            for topology in (Topology(), Topology(steals=True, steal_seconds=0.1))
        )
        spread = [max(e) - min(e) for e in (ends(apart, 3), ends(stealing, 3))]
        assert spread[1] < 0.6 * spread[0]
        saved.append(stealing.end / apart.end)
    assert max(saved) < 0.8


def test_stealing_costs_little_where_ranks_are_even() -> None:
    """Requests that run cannot move, and guesses err: it may be slower, but not by much."""
    ratio = []
    for seed in range(30):
        problem, _ = uneven(seed, 80, 2, "dfs")
        even = search.plan_policy(problem._replace(settings=replace(problem.settings, dp=3)), "dfs")
        seconds = [
            served(problem, even, "nanoflow", topology).end
            for topology in (Topology(), Topology(steals=True, steal_seconds=0.1))
        ]
        ratio.append(seconds[1] / seconds[0])
    assert max(ratio) < 1.1
    assert float(np.mean(ratio)) < 1.0


def test_wrong_guesses_of_length_are_made_up_for() -> None:
    """Planning expects the same of all; half the line answers twelve times as long."""
    n = 400
    output = np.where(np.arange(n) < n // 2, 10, 120)
    workload = alone([100] * n, output.tolist())
    plan = replace(
        listed(workload, [0] * (n // 2) + [1] * (n // 2)),
        expected_output=np.full(n, 60),
    )
    flavour = replace(PLAIN, max_running=8)
    apart, stealing = (run(workload, t, plan, flavour=flavour) for t in (Topology(), STEALS))
    assert stealing.end < 0.65 * apart.end


def test_same_theft_twice_is_the_same_log() -> None:
    problem, plan = uneven(5, 120, 4, "blend")
    logs = [served(problem, plan, "vllm", STEALS) for _ in range(2)]
    assert np.array_equal(logs[0].counts, logs[1].counts)
    assert np.array_equal(logs[0].times, logs[1].times)


def test_prefix_is_computed_once_a_rank_however_its_readers_move() -> None:
    workload = sharing([170] * 60, [4] * 60, shared=160)
    plan = listed(workload, [0] * 50 + [1] * 10)
    flavour = replace(NARROW, token_budget=200)
    log = run(workload, STEALS, plan, flavour=flavour)
    assert int(log.meta["stolen"]) > 5
    assert total(log, "prefill_tokens") == 2 * 170 + 58 * 10


def test_no_theft_beats_the_bounds() -> None:
    problem, _ = uneven(3, 60, 2, "dfs")
    asked = search.Settings(sample=1.0, kv_bytes=SMALL, dp=4, steals=True, steal_seconds=0.05)
    for row in search.choose(problem.workload, asked).rows:
        assert row.share_of_reachable <= 1


def test_one_rank_that_may_steal_runs_as_one_that_may_not() -> None:
    problem, plan = uneven(8, 40, 1, "blend")
    for name in MIXING:
        logs = [served(problem, plan, name, topology) for topology in (Topology(), STEALS)]
        assert np.array_equal(logs[0].counts, logs[1].counts)
        assert np.array_equal(logs[0].times, logs[1].times)


def test_a_rank_that_was_dealt_nothing_takes_some_wherever_it_stands() -> None:
    workload = alone([10] * 6, [5] * 6)
    found = []
    for ranks in ([0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 1]):
        plan = replace(listed(workload, ranks), meta={"settings": {"dp": 3}})
        log = run(workload, STEALS, plan, flavour=NARROW)
        found.append(log.end)
        assert np.unique(log.replica).tolist() == [0, 1, 2]
    assert found[0] == found[1]


def test_stealing_between_ranks_that_wait_for_each_other_is_refused() -> None:
    settings = search.Settings("qwen3-30b-a3b", "h200", tp=1, dp=2, ep=2, steals=True)
    workload = alone([10] * 4, [5] * 4)
    with pytest.raises(InputError, match="--ep 2 with stealing between ranks is not modelled"):
        search.choose(workload, settings)


def test_plain_twin_names_who_runs() -> None:
    workload: Workload = alone([10, 20, 30], [5, 5, 5])
    plan = listed(workload, admission=DUAL_SCAN)
    prompts, model = sort_prompts(workload), seconds_model()
    crew = Crew(plan, workload, workload.output_len, prompts, model, PLAIN, 1.0)
    crew.replicas[0].advance(0.5)
    state = crew.replicas[0].core.state
    for named in (running_requests(state), running_requests.py_func(state)):
        assert sorted(named.tolist()) == [0, 1, 2]
