"""Answers by vLLM: what it is told of each request, in which order, and what comes of its outputs.

vLLM itself is not run here: a stand-in is (vllm_stand_in), whose answers are drawn beforehand.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from replay_worlds import greedy, job_of, planned, pool, prompt_of
from vllm_stand_in import StandInLLM, StandInLoop, install

from blendrt.config import TINY
from blendrt.generate.growing import Ending
from blendrt.generate.wanted import Answer, Finish, Wanted
from blendrt.loading import ModelChoice
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.vllm.feed import admission_rows, open_engine
from blendrt.vllm.following import ROW
from blendrt.vllm.generate import VllmAnswers
from blendsim.request import select

CHOICE = ModelChoice(TINY, None)
END = 5  # a token
MOST = 400


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    return install(monkeypatch)


def said(ids: Any) -> str:
    return "".join(f"<{token}>" for token in ids)


def job(policy: str = "blend", dp: int = 1) -> Job:
    return job_of(*planned(policy, "vllm", select(pool(), np.arange(60)), dp=dp))


def wanted(n: int = 60, **other: Any) -> Wanted:
    """The likeliest tokens, until `END` or `MOST`."""
    return replace(greedy(n, MOST, frozenset({END})), **other)


def answer(
    of: Job, asked: Wanted, told: Callable[[Answer], None], recorder: Recorder | None = None
) -> None:
    """On an engine of its own, without a tokenizer."""
    longest = int((of.workload.prompt_len + asked.most).max())
    with open_engine(of, CHOICE, longest=longest) as engine:
        answers = VllmAnswers(engine, TINY.vocab, said)
        answers.answer(of, asked, told, Recorder() if recorder is None else recorder)


def answers(of: Job, asked: Wanted) -> list[Answer]:
    told: list[Answer] = []
    answer(of, asked, told.append)
    return told


def with_tokenizer(asked: Wanted) -> tuple[list[Answer], Recorder]:
    """Answers of an engine that has one, which a stand-in needs no directory for."""
    told: list[Answer] = []
    recorder = Recorder()
    with open_engine(job(), CHOICE, longest=1000, has_tokenizer=True) as engine:
        VllmAnswers(engine, TINY.vocab, said).answer(job(), asked, told.append, recorder)
    return told, recorder


def test_requests_are_given_in_the_order_the_plan_admits_them(vllm: type[StandInLLM]) -> None:
    of = job()
    answers(of, wanted())
    (engine,) = vllm.made
    rows = admission_rows(of.core(0))
    assert [ids for ids, _ in engine.given] == [prompt_of(pool(), row) for row in rows]
    assert rows != list(range(60))


def test_each_request_is_answered_as_it_asks(vllm: type[StandInLLM]) -> None:
    asked = wanted(
        temperature=np.linspace(0, 1, 60),
        top_p=np.linspace(1, 0.5, 60),
        seed=np.arange(60) - 1,
        is_seeded=np.arange(60) % 3 < 2,
        most=MOST + np.arange(60),
        ends=frozenset({END, 3}),
    )
    of = job()
    answers(of, asked)
    (engine,) = vllm.made
    for row, (_, params) in zip(admission_rows(of.core(0)), engine.given, strict=True):
        assert params == {
            "temperature": asked.temperature[row],
            "top_p": asked.top_p[row],
            "seed": None if row % 3 == 2 else row - 1 if row else 2**63 - 1,  # -1 would be none
            "max_tokens": MOST + row,
            "stop": [],
            "stop_token_ids": [3, END],
            "detokenize": False,
            "output_kind": "final only",
            "extra_args": {ROW: row},
        }


def test_the_engine_has_room_for_the_longest_answer_there_may_be(vllm: type[StandInLLM]) -> None:
    of = job()
    answers(of, wanted())
    (engine,) = vllm.made
    assert engine.arguments["max_model_len"] == int(of.workload.prompt_len.max()) + MOST
    assert engine.arguments["skip_tokenizer_init"] is True


def test_answers_are_told_as_they_end(vllm: type[StandInLLM]) -> None:
    left: list[int] = []
    told: list[Answer] = []

    def take(each: Answer) -> None:
        told.append(each)
        left.append(len(vllm.made[0].scheduler.requests))

    recorder = Recorder()
    answer(job(), wanted(), take, recorder)
    assert sorted(each.row for each in told) == list(range(60))
    assert left[0] > 50
    assert left == sorted(left, reverse=True)
    log = recorder.log({})
    assert int(log.count("finished").sum()) == 60
    assert int(log.count("sampled_tokens").sum()) == sum(len(each.tokens) for each in told)


def test_an_answer_ends_at_an_ending_token_or_at_its_limit(vllm: type[StandInLLM]) -> None:
    most = np.where(np.arange(60) % 2, 3, MOST)
    for each in answers(job(), wanted(most=most)):
        drawn = vllm.answer_of(prompt_of(pool(), each.row))
        if each.row % 2 and len(drawn) > 3:
            assert each == Answer(each.row, drawn[:3], said(drawn[:3]), Finish.LENGTH)
        else:
            assert each == Answer(each.row, drawn, said(drawn[:-1]), Finish.STOP)
            assert each.tokens[-1] == END


def test_an_answer_ends_before_a_stop_text(vllm: type[StandInLLM]) -> None:
    told, _ = with_tokenizer(wanted(stop=(("<7><8>", "never"),) * 60))
    assert vllm.made[0].arguments["skip_tokenizer_init"] is False
    assert vllm.made[0].given[0][1]["stop"] == ["<7><8>", "never"]
    assert vllm.made[0].given[0][1]["detokenize"] is True
    cut = [each for each in told if each.tokens[-1] == 8]
    assert len(cut) > 20
    for each in cut:
        assert each.text == said(each.tokens[:-2])
        assert each.finish is Finish.STOP


def test_an_end_that_only_vllm_sees_is_taken_from_it(vllm: type[StandInLLM]) -> None:
    """Its own decoding goes on from the prompt, and may show a stop text where ours does not."""
    told, _ = with_tokenizer(wanted(stop=((" <",),) * 60))
    for each in told:
        first = vllm.answer_of(prompt_of(pool(), each.row))[:1]
        assert each == Answer(each.row, first, "", Finish.STOP)


def test_an_answer_ends_where_vllms_context_is_full(vllm: type[StandInLLM]) -> None:
    def full(answer: SimpleNamespace) -> Answer:
        model = VllmAnswers(None, TINY.vocab, said)
        return model._answer(3, answer, Ending(wanted(), said))

    output = SimpleNamespace(token_ids=[7], text="", finish_reason="length", stop_reason=None)
    assert full(output) == Answer(3, [7], "<7>", Finish.LENGTH)


def test_ranks_are_answered_one_after_another(vllm: type[StandInLLM]) -> None:
    of = job("dfs", dp=2)
    told = answers(of, wanted())
    (engine,) = vllm.made
    assert engine.resets == 2
    ranks = of.plan.rank[np.argsort(of.plan.order)][[each.row for each in told]]
    assert ranks.tolist() == sorted(ranks.tolist())
    assert np.bincount(ranks).min() > 0


def test_one_engine_answers_one_job_after_another(vllm: type[StandInLLM]) -> None:
    told: list[Answer] = []
    with open_engine(job(), CHOICE, longest=1000) as engine:
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        plain = scheduler.schedule
        model = VllmAnswers(engine, TINY.vocab, said)
        for policy in ("dfs", "blend"):
            model.answer(job(policy), wanted(), told.append, Recorder())
        assert scheduler.schedule == plain
    assert sorted(told[:60]) == sorted(told[60:])


def test_what_was_told_before_a_failure_stays_told(
    vllm: type[StandInLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StandInLoop.step
    told: list[Answer] = []

    def failing(loop: StandInLoop) -> Any:
        if len(told) > 10:
            raise RuntimeError("the GPU is gone")
        return plain(loop)

    monkeypatch.setattr(StandInLoop, "step", failing)
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="gone"):
        answer(job(), wanted(), told.append, recorder)
    assert 10 < len(told) < 60
    assert int(recorder.log({}).count("finished").sum()) == len(told)


def test_what_vllm_could_not_go_on_with_fails_alone(vllm: type[StandInLLM]) -> None:
    model = VllmAnswers(None, TINY.vocab, said)
    output = SimpleNamespace(token_ids=[7], text="", finish_reason="abort", stop_reason=None)
    found = model._answer(3, output, Ending(wanted(), said))
    assert (found.row, found.finish) == (3, Finish.FAILED)
    assert found.why == "vLLM ended it after 1 tokens (abort)"
    output.token_ids, output.finish_reason = [], "stop"
    assert model._answer(3, output, Ending(wanted(), said)).finish is Finish.FAILED
