"""Answers that end by themselves: those of a run with forced lengths, cut where they end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from late_clock import LateClock
from replay_worlds import VOCAB, greedy, job_of, planned, pool

from blendrt.clock import WallClock
from blendrt.config import TINY
from blendrt.generate import answer as answering
from blendrt.generate.answer import answer, require_own_ids
from blendrt.generate.wanted import Answer, Finish, Wanted
from blendrt.loading import OVERLAP, ModelChoice, Runtime, load_decoder
from blendrt.recorder import Recorder
from blendrt.replay.full import FullReplay
from blendrt.replay.job import Job
from blendsim.errors import InputError
from blendsim.steplog import StepLog

CPU = torch.device("cpu")
ENDS = frozenset({3, 77, 140, 260, 391, 402})
MOST = 60


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(load_decoder(ModelChoice(TINY, None), 0, CPU))


def forced(policy: str) -> Job:
    """The pool, every request made to generate `MOST` tokens."""
    problem, plan = planned(policy, "nanoflow")
    job = job_of(problem, plan)
    return job._replace(output_len=np.full(len(plan), MOST))


def wanted(n: int, temperature: float = 0.0, ends: frozenset[int] = ENDS) -> Wanted:
    return replace(greedy(n, MOST, ends), temperature=np.full(n, temperature))


def said(ids: object) -> str:
    return " ".join(map(str, ids))  # type: ignore[call-overload]


def answers_of(job: Job, runtime: Runtime, asked: Wanted) -> tuple[list[Answer], StepLog]:
    told: list[Answer] = []
    recorder = Recorder()
    answer(job, runtime, asked, said, told.append, recorder)
    return told, recorder.log({})


@pytest.fixture(params=[WallClock, LateClock], ids=["at once", "a step late"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step's tokens come to the host."""
    monkeypatch.setattr(answering, "clock_for", lambda _: request.param())


@pytest.fixture(scope="module")
def whole(runtime: Runtime) -> list[list[int]]:
    """What each request is answered if nothing ends it."""
    replay = FullReplay(forced("dfs"))
    replay.measure(runtime)
    return replay.outputs


def cut(tokens: list[int], ends: frozenset[int] = ENDS) -> list[int]:
    """The answer up to the token that ends it, which belongs to it."""
    places = [i for i, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("policy", ["dfs", "blend", "paced"])
def test_answers_are_those_of_forced_lengths_up_to_their_ends(
    runtime: Runtime, whole: list[list[int]], policy: str
) -> None:
    told, log = answers_of(forced(policy), runtime, wanted(len(whole)))
    assert sorted(each.row for each in told) == list(range(len(whole)))
    for each in told:
        expected = cut(whole[each.row])
        assert each.tokens == expected
        ended = expected[-1] in ENDS
        assert each.finish is (Finish.STOP if ended else Finish.LENGTH)
        assert each.text == said(expected[:-1] if ended else expected)
    # All that can go wrong does: answers of all lengths, memory that runs out while they grow.
    lengths = [len(each.tokens) for each in told]
    assert min(lengths) < 5
    assert lengths.count(MOST) > 5
    assert len(set(lengths)) > 20
    assert log.count("preempted").sum() >= 1
    assert log.count("finished").sum() == len(whole)


@pytest.mark.usefixtures("clock")
def test_every_end_is_in_some_step_of_the_log(runtime: Runtime, whole: list[list[int]]) -> None:
    """The last answers too, though no step comes after them."""
    ends = frozenset(token for tokens in whole for token in tokens[: MOST // 2])
    told, log = answers_of(forced("dfs"), runtime, wanted(len(whole), ends=ends))
    assert {each.finish for each in told} == {Finish.STOP}
    assert log.count("finished").sum() == len(whole)


def test_answers_are_told_while_others_still_grow(runtime: Runtime) -> None:
    told, log = answers_of(forced("dfs"), runtime, wanted(len(pool())))
    finished = np.cumsum(log.count("finished"))
    assert finished[len(finished) // 2] > len(told) // 4


def test_a_request_is_answered_the_same_in_any_order(runtime: Runtime) -> None:
    """Its random numbers are its own."""
    asked = wanted(len(pool()), temperature=1.0)
    one, other = (
        {each.row: each.tokens for each in answers_of(forced(policy), runtime, asked)[0]}
        for policy in ("dfs", "blend")
    )
    assert one == other
    greedy = answers_of(forced("dfs"), runtime, wanted(len(pool())))[0]
    assert sum(one[each.row] == each.tokens for each in greedy) < len(greedy) // 4


def test_stop_texts_end_answers(runtime: Runtime, whole: list[list[int]]) -> None:
    stops = tuple((f"{tokens[4]} {tokens[5]}",) for tokens in whole)
    asked = replace(wanted(len(whole), ends=frozenset()), stop=stops)
    for each in answers_of(forced("dfs"), runtime, asked)[0]:
        text = said(whole[each.row])
        assert each.text == text[: text.find(stops[each.row][0])]
        assert len(each.tokens) <= 6
        assert each.finish is Finish.STOP


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    require_own_ids(pool(), VOCAB)
    with pytest.raises(InputError, match="is beyond the model's vocabulary of 400"):
        require_own_ids(pool(), 400)


def test_tokens_are_chosen_by_the_sequential_executor(runtime: Runtime) -> None:
    overlapped = replace(runtime, executor=OVERLAP)
    with pytest.raises(AssertionError, match="sequential"):
        answers_of(forced("dfs"), overlapped, wanted(len(pool())))
