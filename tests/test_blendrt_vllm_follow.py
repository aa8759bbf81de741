"""vLLM following a plan step by step: on a scheduler as its own in little (vllm_small), and, where
vLLM is installed, on its own (vllm_oracle/follow.py).
"""

import logging
from typing import Any

import numpy as np
import pytest
from follow_worlds import (
    END,
    POLICIES,
    answers_of,
    drawn_job,
    drive,
    followed,
    give,
    lead,
    run,
    scheduler_for,
    simulated,
    stepped_on_vllm,
    steps_of,
    with_room_to_answer,
)
from replay_worlds import BLOCKS, prompt_of
from vllm_small import Request
from vllm_worlds import environment, small_worlds

from blendrt.vllm.following import ROW, Course
from blendrt.vllm.gate import Gate
from blendrt.vllm.lead import admitting_as, follows, leading_core
from blendsim.errors import InputError
from blendsim.serving.flavour import PREDICTED_PEAK, VLLM_PLANNED


@pytest.mark.parametrize("policy", POLICIES)
def test_every_step_is_the_simulators(policy: str) -> None:
    ran = run(followed(policy))
    assert ran.steps == steps_of(simulated(policy))
    assert ran.answered == answers_of(policy)
    assert ran.course == Course(steps=len(ran.steps))
    assert sum(step[2] for step in ran.steps) > 20


@pytest.mark.parametrize(
    ("policy", "engine"), [("blend", "nanoflow"), ("paced", "nanoflow"), ("dfs", VLLM_PLANNED)]
)
def test_requests_enter_while_their_predicted_peak_fits_if_the_plan_is_for_that(
    policy: str, engine: str
) -> None:
    """As vLLM by itself never does."""
    job = admitting_as(followed(policy), engine)
    assert job.flavour.admission == PREDICTED_PEAK
    assert follows(job)
    ran = run(job)
    assert ran.steps == steps_of(simulated(policy, PREDICTED_PEAK))
    assert ran.steps != steps_of(simulated(policy))
    assert ran.answered == answers_of(policy)


def test_plans_served_in_order_are_admitted_as_vllm_does() -> None:
    job = followed("dfs")
    assert admitting_as(job, "nanoflow") is job
    assert admitting_as(followed("blend"), None) is followed("blend")


@pytest.mark.parametrize("policy", ["blend", "paced"])
def test_fed_in_order_alone_the_steps_are_others(policy: str) -> None:
    """So the test before this one can fail."""
    ran = run(followed(policy), is_plain=True)
    assert ran.answered == answers_of(policy)
    assert ran.steps != steps_of(simulated(policy))


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_that_end_early_are_told_to_the_plan(policy: str) -> None:
    job = followed(policy)
    ran = run(with_room_to_answer(job), lengths=job.output_len)
    assert ran.steps == steps_of(simulated(policy))
    assert ran.answered == answers_of(policy)
    assert ran.course == Course(steps=len(ran.steps))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_early", [False, True])
def test_steps_scheduled_ahead_are_those_decided(policy: str, is_early: bool) -> None:
    """All but a few: of a victim's last block vLLM has not seen the last token yet."""
    job = followed(policy)
    asked = with_room_to_answer(job) if is_early else job
    ran = run(asked, lengths=job.output_len, is_ahead=True)
    assert ran.answered == answers_of(policy)
    assert ran.course is not None
    assert ran.course.differed < 0.03 * ran.course.steps
    assert ran.course.preempted == 0
    assert ran.course.given_up is None


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_is_lost_where_memory_is_less_than_the_plan_believes(
    policy: str, is_ahead: bool
) -> None:
    job = followed(policy)
    ran = run(job, blocks=BLOCKS - 12, told=BLOCKS, is_ahead=is_ahead)
    assert ran.answered == answers_of(policy)
    assert ran.course is not None
    assert ran.course.differed > 0
    assert ran.course.preempted > 0


@pytest.mark.parametrize("aligned", [False, True])
def test_whatever_the_pool_nobody_is_lost(aligned: bool) -> None:
    """Where no prompt ends with a block that is shared, every step is as decided, too."""
    differed = 0
    for number, world in enumerate(small_worlds(10, aligned, start=7)):
        job = drawn_job(world, np.random.default_rng(number))
        room = world["capacity"] * 16 - job.workload.prompt_len
        loose = job._replace(output_len=np.minimum(2 * job.output_len + 3, room))
        answers = dict(enumerate(job.output_len.tolist()))
        for is_ahead in (False, True):
            for asked in (job, loose):
                ran = run(asked, job.output_len, world["capacity"], world["capacity"], is_ahead)
                assert ran.answered == answers
                assert ran.course is not None
                differed += 0 if is_ahead else ran.course.differed
    assert (differed > 0) == aligned


def test_vllm_goes_on_alone_when_the_plans_memory_is_not_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = followed("blend")
    with caplog.at_level(logging.WARNING):
        ran = run(job, blocks=25, told=200)
    assert ran.answered == answers_of("blend")
    assert ran.course is not None
    assert ran.course.given_up is not None
    (record,) = caplog.records
    assert "went on in its own order" in record.message


def test_a_course_that_differed_says_how_often() -> None:
    assert Course(steps=9).note() is None
    note = Course(steps=1_000, differed=3, first="step 7").note()
    assert note == "3 of 1,000 steps differed from what the plan decided; first step 7"


def test_requests_of_no_plan_run_when_it_is_done() -> None:
    job = followed("blend")
    scheduler = scheduler_for(job)
    scheduler.follow(lead(job))
    scheduler.add_request(Request("request 1000", [1] * 40, 3, [END]))
    give(scheduler, job, job.plan.order.tolist())
    _, answered = drive(scheduler)
    assert list(answered)[-1] == 1000
    assert answered == answers_of("blend") | {1000: 3}


def test_of_two_requests_with_one_row_both_are_answered() -> None:
    job = followed("blend")
    scheduler = scheduler_for(job)
    scheduler.follow(lead(job))
    give(scheduler, job, job.plan.order.tolist())
    scheduler.add_request(Request("request 1000", [1] * 40, 3, [END], {ROW: 7}))
    assert drive(scheduler)[1] == answers_of("blend") | {1000: 3}


def test_requests_that_never_came_are_passed_over() -> None:
    job = followed("blend")
    scheduler = scheduler_for(job)
    scheduler.follow(lead(job))
    there = [row for row in job.plan.order.tolist() if row % 3]
    give(scheduler, job, there)
    _, answered = drive(scheduler)
    assert answered == {row: int(job.output_len[row]) for row in there}


@pytest.mark.parametrize("is_ahead", [False, True])
def test_requests_taken_back_are_passed_over(is_ahead: bool) -> None:
    """Those that wait, and those that run."""
    job = followed("paced")
    scheduler = scheduler_for(job, is_ahead=is_ahead)
    scheduler.follow(lead(job))
    give(scheduler, job, job.plan.order.tolist())
    for _ in range(3):
        output = scheduler.schedule()
        names = output.num_scheduled_tokens
        sampled = {k: 9 for k in names if not scheduler.requests[k].is_prefill_chunk}
        scheduler.update_from_output(output, sampled)
    taken = [f"request {row}" for row in range(0, 300, 2)]
    for name in taken:
        scheduler.finish_requests(name)
    left = {int(name.split()[1]) for name in scheduler.requests}
    assert 100 < len(left) < 200
    _, answered = drive(scheduler, is_ahead=is_ahead)
    assert answered == {row: int(job.output_len[row]) for row in left}


def test_after_a_plan_it_schedules_as_ever() -> None:
    job = followed("blend")
    scheduler = scheduler_for(job)
    own = scheduler.waiting
    scheduler.follow(lead(job))
    give(scheduler, job, job.plan.order.tolist())
    drive(scheduler)
    scheduler.unfollow()
    assert scheduler.waiting is own
    scheduler.kv_cache_manager.block_pool = scheduler._pool = type(scheduler._pool)(BLOCKS, True)
    give(scheduler, job, job.plan.order.tolist())
    assert drive(scheduler)[0] == run(job, is_plain=True).steps


def test_a_plan_left_early_leaves_its_requests_in_the_queue() -> None:
    job = followed("blend")
    scheduler = scheduler_for(job)
    scheduler.follow(lead(job))
    give(scheduler, job, job.plan.order.tolist())
    scheduler.schedule()
    scheduler.unfollow()
    waiting = [int(request.request_id.split()[1]) for request in scheduler.waiting]
    running = [int(request.request_id.split()[1]) for request in scheduler.running]
    assert running
    assert sorted(waiting + running) == list(range(300))


def test_a_scheduler_by_priority_follows_no_plan() -> None:
    scheduler = scheduler_for(followed("blend"))
    scheduler.scheduler_config.policy = "priority"
    with pytest.raises(InputError, match="priority"):
        scheduler.follow(lead(followed("blend")))


def test_plans_for_both_ends_are_followed_and_no_others() -> None:
    assert [policy for policy in POLICIES if follows(followed(policy))] == ["blend", "paced"]


def test_who_is_thrown_out_is_told_to_vllms_worker() -> None:
    """The core's victims are, though vLLM had no say in it."""
    job = followed("blend")
    expected = simulated("blend").count("preempted").tolist()
    assert [step[2] for step in run(job).steps] == expected


def test_one_that_has_requests_already_is_refused() -> None:
    scheduler = scheduler_for(followed("blend"))
    scheduler.add_request(waiting("a")[0])
    with pytest.raises(InputError, match="has requests already"):
        scheduler.follow(lead(followed("blend")))


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [("num_spec_tokens", 3, "speculatively"), ("use_pp", True, "several GPUs in turn")],
)
def test_what_the_core_knows_nothing_of_is_refused(name: str, value: object, what: str) -> None:
    scheduler = scheduler_for(followed("blend"))
    setattr(scheduler, name, value)
    with pytest.raises(InputError, match=what):
        scheduler.follow(lead(followed("blend")))


def waiting(*names: str) -> list[Any]:
    return [Request(name, prompt_of(followed("dfs").workload, 0), 1) for name in names]


def test_the_gate_shows_those_let_in_and_counts_all() -> None:
    a, b, c = requests = waiting("a", "b", "c")
    gate = Gate(requests)
    assert (bool(gate), len(gate), gate.peek_request()) == (True, 3, a)
    gate.let_in([c, a])
    assert (gate.pop_request(), gate.peek_request(), len(gate)) == (c, a, 2)
    gate.let_in([c, b])  # c waits elsewhere
    assert (gate.peek_request(), len(gate)) == (b, 2)
    gate.let_in([])
    assert (bool(gate), len(gate), list(gate)) == (False, 2, [a, b])
    with pytest.raises(IndexError):
        gate.peek_request()
    gate.stand_open()
    assert [gate.pop_request(), gate.pop_request()] == [a, b]
    assert not gate


def test_thrown_out_requests_come_first_through_an_open_gate() -> None:
    a, b, c, d = waiting("a", "b", "c", "d")
    gate = Gate([a])
    gate.prepend_request(b)
    gate.prepend_requests([c, d])
    assert list(gate) == [d, c, b, a]
    assert list(reversed(gate)) == [a, b, c, d]
    assert d in gate


def test_removed_requests_stand_nowhere() -> None:
    a, b, c = requests = waiting("a", "b", "c")
    gate = Gate(requests)
    gate.let_in([b, c])
    gate.remove_requests([b, *waiting("x")])
    assert (gate.peek_request(), list(gate)) == (c, [a, c])
    gate.remove_request(a)
    assert list(gate) == [c]


def test_the_plan_reckons_with_a_token_more_until_it_is_told() -> None:
    job = followed("blend")
    core = lead(job, BLOCKS + 7)
    assert int(core.state.scalars[0].capacity) == BLOCKS + 7
    assert np.array_equal(core.state.requests.output, job.output_len[core.rows] + 1)


@pytest.fixture(scope="module")
def on_vllm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every plan on vLLM's own scheduler, in step and ahead, answers forced and ending early."""
    if not environment().exists():
        pytest.skip("no vLLM environment; make vllm-env")
    jobs = []
    for policy in POLICIES:
        job = followed(policy)
        for is_early in (False, True):
            asked = with_room_to_answer(job) if is_early else job
            for is_ahead in (False, True):
                case = {"lengths": job.output_len.tolist(), "is_async": is_ahead, "is_plain": False}
                jobs.append((f"{policy}-{is_early}-{is_ahead}", asked, case))
        case = {"lengths": job.output_len.tolist(), "is_async": True, "is_plain": False}
        jobs.append((f"{policy}-little", job, case | {"blocks": BLOCKS - 12, "told": BLOCKS}))
    return stepped_on_vllm(jobs, tmp_path_factory.mktemp("follow"))


def answered_by(runs: dict[str, Any], name: str) -> dict[int, int]:
    return {int(row): tokens for row, tokens in runs[name]["answered"].items()}


@pytest.mark.vllm
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_early", [False, True])
def test_every_step_of_vllms_own_scheduler_is_the_simulators(
    on_vllm: dict[str, Any], policy: str, is_early: bool
) -> None:
    ran = on_vllm[f"{policy}-{is_early}-False"]
    steps = [[tokens, *rest] for tokens, _, *rest in ran["steps"]]
    assert steps == steps_of(simulated(policy))
    assert answered_by(on_vllm, f"{policy}-{is_early}-False") == answers_of(policy)
    assert Course(**ran["course"]) == Course(steps=len(steps))


@pytest.mark.vllm
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_early", [False, True])
def test_steps_that_vllm_schedules_ahead_are_those_decided(
    on_vllm: dict[str, Any], policy: str, is_early: bool
) -> None:
    name = f"{policy}-{is_early}-True"
    assert answered_by(on_vllm, name) == answers_of(policy)
    course = Course(**on_vllm[name]["course"])
    assert course.differed < 0.03 * course.steps
    assert (course.preempted, course.given_up) == (0, None)


@pytest.mark.vllm
@pytest.mark.parametrize("policy", POLICIES)
def test_vllm_loses_nobody_where_memory_is_less_than_the_plan_believes(
    on_vllm: dict[str, Any], policy: str
) -> None:
    assert answered_by(on_vllm, f"{policy}-little") == answers_of(policy)
    assert on_vllm[f"{policy}-little"]["course"]["differed"] > 0


def test_vllm_may_have_more_memory_than_the_gpu_of_the_plan() -> None:
    """A plan for 80 GB runs on a card of 141."""
    core = leading_core(followed("blend"), 0, 50_000)
    assert int(core.state.scalars[0].capacity) == 50_000
