"""Paced runs as long as their longest answer, whose other reads would be done long before."""

from typing import Any

import numpy as np
import pytest
from pacing_worlds import AMPLE, record_of

from blendsim import search
from blendsim.pacing import Gains
from blendsim.request import Workload, from_lengths, pool
from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine, log_in
from blendsim.serving import paced_line, remaining
from blendsim.serving import pacing as pacing_module
from blendsim.steplog import StepLog

LONGEST = 6_000


def long_and_short() -> Workload:
    """One answer of 6,000 tokens, 200 of some 600 and many prompts with hardly an answer, which fit
    the KV cache of an H200 all at once.
    """
    outputs = np.random.default_rng(0).integers(400, 800, 200)
    answers = from_lengths([100] * 201, [LONGEST, *outputs], source="answers")
    return pool([answers, from_lengths([1_000] * 2_000, [8] * 2_000, source="prompts")])


def log(sample: float = 1.0, **asked: Any) -> StepLog:
    settings = search.Settings(gpu="h200", sample=sample, **({"overlap": "table"} | asked))
    problem = search.prepare(long_and_short(), settings)
    engine = find_engine(problem, "nanoflow")
    return log_in(problem, plan_policy(problem, "paced"), engine, problem.true_lengths)


def test_reads_last_as_long_as_the_longest_answer() -> None:
    done = log()
    assert len(done) <= LONGEST * 1.01
    reads = done.count("context_tokens")
    early = reads[: len(reads) // 2].sum() / reads.sum()
    assert 0.4 < early < 0.6


def test_steps_have_about_as_many_tokens_early_and_late() -> None:
    tokens = log().tokens
    early, late = tokens[100 : LONGEST // 2].mean(), tokens[LONGEST // 2 : LONGEST - 100].mean()
    assert early == pytest.approx(late, rel=0.2)


def test_room_left_empty_is_what_even_reads_do_not_fill() -> None:
    """AMPLE's longest takes 50 steps and all read 3,069.5 tokens."""
    core = AMPLE.core()
    pacing_module.look(core.state)
    p = record_of(core)
    assert p.longest_end == 50
    full = 50 * p.most_held * p.reuse
    assert p.kept_empty == pytest.approx(400 * (1 - (1 + remaining.MARGIN) * 3_069.5 / full))


def test_none_is_left_empty_where_a_full_cache_is_read_for_longer() -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.most_held = 3_069.5 / 50
    pacing_module.look(core.state)
    assert p.kept_empty == 0.0


def test_none_is_left_empty_where_reads_fill_most_of_the_cache_anyway() -> None:
    """Who waits would find no room, and run on alone at the end."""
    core = AMPLE.core()
    p = record_of(core)
    for share, is_left in ((0.5, True), (0.6, False)):
        p.most_held = (1 + remaining.MARGIN) * 3_069.5 / 50 / share
        pacing_module.look(core.state)
        assert (p.kept_empty > 0.0) == is_left


def test_none_is_left_empty_where_those_held_back_would_compute_more_than_they_read() -> None:
    """Their share of the tokens is a tenth less, and a tenth more, than of the reads."""
    core = AMPLE.core()
    p = record_of(core)
    pacing_module.look(core.state)
    assert p.kept_empty > 0.0
    tokens = p.tokens_left * p.right_reads / p.reads_left
    for part, is_left in ((0.9, True), (1.1, False)):
        p.right_tokens, p.left_tokens = part * tokens, 0.0
        pacing_module.look(core.state)
        assert (p.kept_empty > 0.0) == is_left


def test_none_is_left_empty_where_steps_do_not_overlap() -> None:
    """Reads take as long beside tokens as before them: to wait with them spares nothing."""
    core = AMPLE.core()
    p, overlap = record_of(core), core.state.pace[0].overlap
    for line, is_left in ((overlap.lines.copy(), True), (np.ones((1, 3)), False)):
        pace = core.state.pace[0]._replace(overlap=overlap._replace(lines=line))
        state = core.state._replace(pace=(pace,))
        pacing_module.look(state)
        assert (p.kept_empty > 0.0) == is_left


def test_engines_that_gain_nothing_by_overlap_keep_the_cache_full() -> None:
    kept, full = (
        log(overlap="sum", pacing=Gains(longest_fill=fill)) for fill in (Gains().longest_fill, 0.0)
    )
    assert kept.end == full.end
    beside = [log(pacing=Gains(longest_fill=fill)).end for fill in (Gains().longest_fill, 0.0)]
    assert beside[0] < beside[1]


def test_chats_do_not_wait_beside_long_answers_that_were_all_sampled() -> None:
    """They are the memory-heavy end's as far as anybody knows, and bring the prompts to compute."""
    rng = np.random.default_rng(0)
    videos = from_lengths([100] * 30, rng.integers(4_000, 16_000, 30), source="videos")
    chats = from_lengths([300] * 16_000, rng.integers(1, 60, 16_000), source="chats")
    workload = pool([videos, chats])
    seconds = []
    for longest_fill in (Gains().longest_fill, 0.0):
        settings = search.Settings(sample=0.01, pacing=Gains(longest_fill=longest_fill))
        problem = search.prepare(workload, settings)
        plan = plan_policy(problem, "paced")
        done = log_in(problem, plan, find_engine(problem, "nanoflow"), problem.true_lengths)
        seconds.append(done.end)
    assert seconds[0] <= 1.005 * seconds[1]


@pytest.mark.parametrize(("request_id", "empty"), [(3, 300), (4, 300), (5, 0)])
def test_who_takes_about_as_long_as_the_longest_is_not_held_back(
    request_id: int, empty: int
) -> None:
    """They take 30, 40 and 50 steps, the longest 50."""
    core = AMPLE.core()
    p = record_of(core)
    p.longest_end, p.kept_empty = 50.0, 300.5
    assert paced_line.kept_empty(core.state, request_id) == empty


def test_who_could_not_end_in_time_any_more_is_not_held_back() -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.longest_end, p.kept_empty = 50.0, 300.5
    core.state.scalars[0].step = 17  # 33 steps are left to who takes 30
    assert paced_line.kept_empty(core.state, 3) == 0
    core.state.scalars[0].step = 16
    assert paced_line.kept_empty(core.state, 3) == 300


def test_room_left_empty_is_nobodys_who_could_enter() -> None:
    core = AMPLE.core()
    p = record_of(core)
    core.step()
    p.longest_end, p.kept_empty = 1_000.0, 0.0
    assert paced_line.may_enter(core.state, 3, 0)
    p.kept_empty = 400.0
    assert not paced_line.may_enter(core.state, 3, 0)


def test_the_limit_is_a_gain() -> None:
    """Reads would fill 0.5 of the cache so."""
    core = AMPLE.core()
    p = record_of(core)
    p.most_held = (1 + remaining.MARGIN) * 3_069.5 / 50 / 0.5
    for limit, is_left in ((0.0, False), (0.45, False), (0.55, True), (1.0, True)):
        p.longest_fill = limit
        pacing_module.look(core.state)
        assert (p.kept_empty > 0.0) == is_left


def test_none_is_left_empty_where_readers_of_a_prefix_wait() -> None:
    """They would bring it in anew, one after the other."""
    core = AMPLE.core()
    p = record_of(core)
    for spared, is_left in ((0.0, True), (0.08, True), (0.12, False)):
        p.right_spared = spared * p.right_reads
        pacing_module.look(core.state)
        assert (p.kept_empty > 0.0) == is_left
