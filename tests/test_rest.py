"""What is left of a batch whose run broke off (`--rest`): planned like a batch without the answered
lines, by the lengths of those that are answered.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workloads
from test_cli_range import results
from test_traces_openai import lines, request

from blendsim import search
from blendsim.errors import InputError, PlanMismatch
from blendsim.plan import fingerprint, require_same_workload
from blendsim.planner.outlook import guessed, sort_pool
from blendsim.planner.tree import pool_tree
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, joined, pool, select, set_apart
from blendsim.search.problem import with_worlds
from blendsim.search.simulation import simulate_plan
from blendsim.search.thinning import thin
from blendsim.traces import ReadOptions, load, load_pool, write_workload

SETTINGS = search.Settings(sample=1.0)
N = 120
ANSWERED = [k for k in range(N) if k % 5 < 3]
SHORT, LONG = 10, 900  # what the two kinds of requests answer


def rows(numbers: Iterable[int] = range(N)) -> list[object]:
    """Requests of two kinds, by their prefixes of 40 and 60 tokens."""
    kinds = ([7] * 40, [8] * 60)
    return [
        request(f"r{k}", prompt=[*kinds[k % 2], *[100 + k] * (3 + k % 11)], max_tokens=4_000)
        for k in numbers
    ]


def half_done(folder: Path, numbers: Iterable[int] = ANSWERED) -> ReadOptions:
    """A batch file in the folder, and the results of a run that broke off."""
    lines(folder / "batch.jsonl", *rows())
    lengths = {f"r{k}": (LONG if k % 2 else SHORT) + k % 3 for k in numbers}
    return ReadOptions(lengths=results(folder / "results.jsonl", lengths), rest=True)


def rest_of(folder: Path) -> Workload:
    options = half_done(folder)
    return load(str(folder / "batch.jsonl"), options)


def without_answered(folder: Path) -> Workload:
    """A batch file that has only what is left, of the same name."""
    (folder / "cut").mkdir()
    cut = lines(folder / "cut" / "batch.jsonl", *rows(k for k in range(N) if k not in ANSWERED))
    return load(str(cut))


def test_only_what_has_no_answer_is_left_and_told(tmp_path: Path) -> None:
    rest = rest_of(tmp_path)
    assert rest.ids.tolist() == [f"r{k}" for k in range(N) if k not in ANSWERED]
    assert not rest.has_output.any()
    assert rest.answered is not None
    assert rest.answered.ids.tolist() == [f"r{k}" for k in ANSWERED]
    assert rest.answered.output_len.tolist() == [
        (LONG if k % 2 else SHORT) + k % 3 for k in ANSWERED
    ]
    rest.check()
    told = (
        f"{tmp_path}/batch.jsonl: 72 of 120 requests are answered in {tmp_path}/results.jsonl and "
        "left out; what is left is expected to answer as they did"
    )
    assert rest.notes == (told,)


def test_the_rest_is_planned_as_a_batch_without_the_answered_lines(tmp_path: Path) -> None:
    """With the same evidence it is the same problem, to the bit."""
    rest, cut = rest_of(tmp_path), without_answered(tmp_path)
    blind = search.prepare(cut, SETTINGS)
    mine = with_worlds(search.prepare(rest, SETTINGS), 3)
    same = with_worlds(search.prepare(replace(cut, answered=rest.answered), SETTINGS), 3)
    assert mine.lengths.expected.tolist() == same.lengths.expected.tolist()
    assert mine.drawn.tolist() == same.drawn.tolist()
    assert [world.tolist() for world in mine.worlds] == [w.tolist() for w in same.worlds]
    assert mine.lengths.workload_hash == same.lengths.workload_hash
    assert mine.lengths.expected.tolist() != blind.lengths.expected.tolist(), "or it says nothing"
    assert mine.prompts.order.tolist() == blind.prompts.order.tolist()
    assert mine.prompts.common.tolist() == blind.prompts.common.tolist()
    for policy in ("dfs", "blend", "paced"):
        plans = [search.plan_policy(problem, policy) for problem in (mine, same, blind)]
        assert plans[0].order.tolist() == plans[1].order.tolist()
        assert plans[0].density.tolist() == plans[1].density.tolist()
        assert plans[0].density.tolist() != plans[2].density.tolist()
        assert sorted(plans[0].order.tolist()) == list(range(len(rest)))
        assert not plans[0].is_first.any(), "nobody is sampled any more"


@pytest.mark.parametrize("rule", ["subtree-mean", "shrunk"])
def test_lengths_that_are_answered_tell_of_requests_with_the_same_prefix(
    tmp_path: Path, rule: str
) -> None:
    rest = rest_of(tmp_path)
    problem = with_worlds(search.prepare(rest, replace(SETTINGS, length_rule=rule)), 4)
    is_long = np.array([int(name[1:]) % 2 == 1 for name in rest.ids.tolist()])
    assert is_long.any()
    for lengths in (problem.lengths.expected, problem.drawn, *problem.worlds):
        assert lengths[is_long].min() > 100 * SHORT / 2 > lengths[~is_long].max()
    assert problem.lengths.notes == (), "nothing is guessed"
    assert not guessed(rest, problem.tree, problem.lengths).any()
    assert problem.lengths.expected[is_long].max() < LONG + 3
    assert not problem.lengths.is_visible.any()


def test_a_source_without_an_answer_is_a_guess_as_ever(tmp_path: Path) -> None:
    options = half_done(tmp_path)
    other = lines(tmp_path / "other.jsonl", request("z", prompt=[5] * 30, max_tokens=40))
    both = load_pool([str(tmp_path / "batch.jsonl"), str(other)], options)
    problem = search.prepare(both, SETTINGS)
    assert guessed(both, problem.tree, problem.lengths).tolist() == [False] * 48 + [True]
    assert problem.lengths.expected[-1] == 40, "the mean of the others, cut at max_tokens"
    assert "1 of 1 requests has no output length" in both.notes[-1]


def test_prefixes_of_answered_requests_are_in_no_cache(tmp_path: Path) -> None:
    """Of three requests two share a prefix, and one of these is answered."""
    prompts = {"a": [7] * 64 + [1] * 8, "b": [7] * 64 + [2] * 8, "c": [9] * 72}
    batch = lines(
        tmp_path / "batch.jsonl",
        *(request(name, prompt=tokens, max_tokens=9) for name, tokens in prompts.items()),
    )
    seen = results(tmp_path / "results.jsonl", {"a": 5})
    for is_rest, hits in ((False, 64), (True, 0)):
        workload = load(str(batch), ReadOptions(lengths=seen, rest=is_rest))
        problem = search.prepare(workload, SETTINGS)
        assert shareable_tokens(workload, problem.prompts, 16) == hits
        plan = search.plan_policy(problem, "dfs")
        log = simulate_plan(workload, plan, replace(SETTINGS, engine="vllm", token_budget=72)).log
        assert int(log.count("hit_tokens").sum()) == hits
        assert int(log.count("finished").sum()) == len(workload)


def test_a_plan_of_the_rest_is_for_these_answers_alone(tmp_path: Path) -> None:
    rest, cut = rest_of(tmp_path), without_answered(tmp_path)
    plan = search.plan_policy(search.prepare(rest, SETTINGS), "dfs")
    require_same_workload(plan, rest)
    assert rest.answered is not None
    longer = replace(rest.answered, output_len=rest.answered.output_len + 1)
    for other in (cut, replace(rest, answered=longer)):
        with pytest.raises(PlanMismatch, match="made for another workload"):
            require_same_workload(plan, other)
    hidden = np.zeros(len(cut), np.bool_)
    assert fingerprint(cut, hidden) == fingerprint(replace(rest, answered=None), hidden)


def test_small_pools_of_a_search_know_the_answers_too(tmp_path: Path) -> None:
    problem = search.prepare(rest_of(tmp_path), SETTINGS)
    small = with_worlds(thin(problem, 2, 0), 3)
    is_long = np.array([int(name[1:]) % 2 == 1 for name in small.workload.ids.tolist()])
    assert 0 < is_long.sum() < len(is_long) < len(problem.workload)
    for world in small.worlds:
        assert world[is_long].min() > 100 * SHORT / 2 > world[~is_long].max()


@given(workloads(least=2), st.data())
@settings(deadline=None)
def test_the_pool_is_sorted_as_if_nobody_else_had_been_there(
    workload: Workload, data: st.DataObject
) -> None:
    n = len(workload)
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    answered = np.array(data.draw(flags)) & workload.has_output
    rest = set_apart(workload, answered)
    prompts, tree = sort_pool(rest)
    alone = sort_prompts(select(workload, ~answered))
    assert prompts.order.tolist() == alone.order.tolist()
    assert prompts.common.tolist() == alone.common.tolist()
    every = joined(rest)
    assert sorted(every.ids.tolist()) == sorted(workload.ids.tolist())
    expected = pool_tree(every, sort_prompts(every))
    assert [column.tolist() for column in tree] == [column.tolist() for column in expected]


def test_several_batches_with_answers_are_one_pool(tmp_path: Path) -> None:
    options = half_done(tmp_path)
    other = lines(
        tmp_path / "other.jsonl",
        *(request(f"z{k}", prompt=[7] * 40 + [k], max_tokens=50) for k in range(8)),
    )
    seen = results(tmp_path / "z.jsonl", {"z1": 3, "z6": 4})
    both = results(
        tmp_path / "both.jsonl", {"z1": 3, "z6": 4} | {f"r{k}": 10 + k for k in ANSWERED}
    )
    parts = [
        load(str(tmp_path / "batch.jsonl"), replace(options, lengths=both)),
        load(str(other), replace(options, lengths=seen)),
    ]
    names = [str(tmp_path / "batch.jsonl"), str(other)]
    found, pooled = pool(parts), load_pool(names, replace(options, lengths=both))
    for one in (found, pooled):
        one.check()
        assert len(one) == N - len(ANSWERED) + 6
        assert one.ids[-1] == "other/z7"
        assert one.answered is not None
        assert one.answered.ids.tolist() == (
            [f"batch/r{k}" for k in ANSWERED] + ["other/z1", "other/z6"]
        )
    hidden = np.zeros(len(found), np.bool_)
    assert fingerprint(found, hidden) == fingerprint(pooled, hidden)


def test_requests_that_failed_are_left_and_counted(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", *rows(range(4)))
    answer = {"response": {"body": {"usage": {"completion_tokens": 5}}}}
    seen = lines(
        tmp_path / "results.jsonl",
        {"custom_id": "r0"} | answer,
        {"custom_id": "r1", "response": None, "error": {"code": "expired"}},
        {"custom_id": "r2", "response": {"status_code": 500, "body": {}}},
        {"custom_id": "r2"} | answer,
        {"custom_id": "gone", "response": None, "error": {"code": "expired"}},
    )
    rest = load(str(batch), ReadOptions(lengths=seen, rest=True))
    assert rest.ids.tolist() == ["r1", "r3"]
    assert "2 of 4 requests are answered" in rest.notes[0]
    assert "; 1 of the 2 left has an error there; what" in rest.notes[0]


def test_lengths_that_a_trace_has_itself_stay_visible(tmp_path: Path) -> None:
    kept = [{"id": f"{k}", "prompt": [k] * 20, "output_tokens": 6 + k} for k in range(4)]
    trace = lines(tmp_path / "prompts.jsonl", *kept)
    seen = results(tmp_path / "results.jsonl", {"1": 50, "3": 60})
    rest = load(str(trace), ReadOptions(lengths=seen, rest=True))
    assert rest.ids.tolist() == ["0", "2"]
    assert rest.notes[0].endswith("and left out"), "their lengths are known"
    problem = search.prepare(rest, SETTINGS)
    assert problem.lengths.expected.tolist() == [6, 8]
    assert problem.lengths.is_visible.all()


def test_a_torn_end_is_left_out_and_told(tmp_path: Path) -> None:
    options = half_done(tmp_path)
    assert options.lengths is not None
    whole = options.lengths.read_text()
    last = whole.rstrip("\n").rsplit("\n", 1)[1]
    for at in (1, 10, len(last) // 2, len(last) - 1):
        options.lengths.write_text(whole[: -len(last) - 1] + last[:at])
        rest = load(str(tmp_path / "batch.jsonl"), options)
        assert len(rest) == N - len(ANSWERED) + 1
        told = f"{options.lengths}, line 72: is torn, as by a run that was killed, and left out"
        assert rest.notes[0] == told
        with pytest.raises(InputError, match="line 72: is not JSON"):
            load(str(tmp_path / "batch.jsonl"), replace(options, rest=False))
    half = last.encode()[:10] + "é".encode()[:1]  # within a character
    options.lengths.write_bytes(whole[: -len(last) - 1].encode() + half)
    assert load(str(tmp_path / "batch.jsonl"), options).notes[0] == told
    options.lengths.write_bytes(half + b"\n" + whole.encode())
    with pytest.raises(InputError, match="line 1: byte 0xc3 is not UTF-8 text"):
        load(str(tmp_path / "batch.jsonl"), options)
    options.lengths.write_text(whole[:-1])  # lacks its end alone
    assert len(load(str(tmp_path / "batch.jsonl"), options).notes) == 1
    options.lengths.write_text(whole[:30] + "\n" + whole)
    with pytest.raises(InputError, match="line 1: is not JSON"):
        load(str(tmp_path / "batch.jsonl"), options)
    options.lengths.write_text(last[:20])
    with pytest.raises(InputError, match="line 1: is not JSON"):
        load(str(tmp_path / "batch.jsonl"), options)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    options, batch = half_done(tmp_path), str(tmp_path / "batch.jsonl")
    with pytest.raises(InputError, match=r"^--rest plans what has no answer yet: name the results"):
        load(batch, ReadOptions(rest=True))
    all_done = half_done(tmp_path, range(N))
    told = (
        f"{tmp_path}/results.jsonl: has an answer to all 120 requests of {batch}, so nothing is "
        "left to plan; leave --rest out to plan all of it again"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load(batch, all_done)
    elsewhere = results(tmp_path / "elsewhere.jsonl", {"x": 4})
    for trace in (batch, "demo:clips?n=5"):
        with pytest.raises(InputError, match="none of its 1 results belongs to a request"):
            load(trace, replace(options, lengths=elsewhere))
    mixed = results(tmp_path / "mixed.jsonl", {"x": 4, "r0": 5})
    rest = load(batch, replace(options, lengths=mixed))
    assert "1 of 2 results of" in rest.notes[0], "told, as without --rest"
    with pytest.raises(InputError, match="72 requests are answered and would be lost; save the"):
        write_workload(rest_of(tmp_path), tmp_path / "pool.parquet")


def test_an_answer_that_two_traces_could_have_is_refused(tmp_path: Path) -> None:
    kept = [{"id": f"{k}", "prompt": [k] * 20, "output_tokens": 6} for k in range(3)]
    names = [str(lines(tmp_path / f"{name}.jsonl", *kept)) for name in "ab"]
    seen = results(tmp_path / "results.jsonl", {"1": 50})
    with pytest.raises(InputError, match="both have requests called '1', so that it cannot be"):
        load_pool(names, ReadOptions(lengths=seen, rest=True))


def test_other_traces_of_the_pool_stay_whole(tmp_path: Path) -> None:
    options = half_done(tmp_path, range(N))
    both = load_pool([str(tmp_path / "batch.jsonl"), "demo:clips?n=5"], options)
    assert len(both) == 5
    problem = search.prepare(both, SETTINGS)
    assert problem.lengths.is_visible.all()
    assert json.dumps(both.notes).count("are answered in") == 1


def answer(name: str, tokens: int | None) -> dict[str, object]:
    body = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return {"custom_id": name, "response": {"status_code": 200, "body": body}}


def failure(name: str) -> dict[str, object]:
    return {"custom_id": name, "response": None, "error": {"code": "expired"}}


def test_of_several_answers_the_last_counts_and_an_answer_before_an_error(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", *rows(range(4)))
    given = [answer("r0", 5), failure("r1"), answer("r1", 6), failure("r1"), answer("r0", 7)]
    seen = lines(tmp_path / "results.jsonl", *given, answer("r0", None))
    told = f"{seen}: 1 request has more than one answer there; the last of each counts"
    whole = load(str(batch), ReadOptions(lengths=seen))
    assert whole.output_len.tolist() == [7, 6, 0, 0]
    assert whole.notes[0] == told
    rest = load(str(batch), ReadOptions(lengths=seen, rest=True))
    assert rest.ids.tolist() == ["r2", "r3"]
    assert rest.answered is not None
    assert rest.answered.output_len.tolist() == [7, 6]
    assert rest.notes[0] == told
    assert not any("usage" in note for note in (*whole.notes, *rest.notes))


def test_answers_without_usage_are_answers_of_no_length(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", *rows(range(5)))
    seen = lines(tmp_path / "results.jsonl", answer("r0", None), answer("r1", 6), answer("r2", 0))
    told = (
        f"{seen}: 2 of 3 answers count no generated tokens, so that no length is learned from them"
    )
    whole = load(str(batch), ReadOptions(lengths=seen))
    assert whole.has_output.tolist() == [False, True, False, False, False]
    assert whole.notes[0] == told
    rest = load(str(batch), ReadOptions(lengths=seen, rest=True))
    rest.check()
    assert rest.ids.tolist() == ["r3", "r4"]
    assert rest.answered is not None
    assert rest.answered.ids.tolist() == ["r1"]
    assert rest.notes[0] == told
    assert "3 of 5 requests are answered in" in rest.notes[1]


def test_a_run_whose_answers_count_nothing_still_tells_what_is_left(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", *rows(range(3)))
    seen = lines(tmp_path / "results.jsonl", answer("r1", None))
    rest = load(str(batch), ReadOptions(lengths=seen, rest=True))
    assert rest.ids.tolist() == ["r0", "r2"]
    assert rest.answered is None
    told = "1 of 1 answer counts no generated tokens, so that no length is learned from it"
    assert told in rest.notes[0]
    assert rest.notes[1].endswith(f"1 of 3 requests is answered in {seen} and left out")
    assert "2 of 2 requests have no output length" in rest.notes[2]
    told = r"line 1: response\.body\.usage counts no generated tokens; results need"
    with pytest.raises(InputError, match=told):
        load(str(batch), ReadOptions(lengths=seen))


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_answer_of_another_status_is_none(status: int, tmp_path: Path) -> None:
    """As OpenAI has it for what an endpoint refuses: the error stands in the body alone."""
    batch = lines(tmp_path / "batch.jsonl", *rows(range(3)))
    body = {"error": {"message": "too long", "type": "invalid_request_error"}}
    seen = lines(
        tmp_path / "results.jsonl",
        {"custom_id": "r0", "response": {"body": {"usage": {"completion_tokens": 5}}}},
        {"custom_id": "r1", "response": {"status_code": status, "body": body}, "error": None},
    )
    rest = load(str(batch), ReadOptions(lengths=seen, rest=True))
    assert rest.ids.tolist() == ["r1", "r2"]
