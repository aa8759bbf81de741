"""Lines of batch files that cannot be planned, left out where that is asked for; lengths that a
request fixes itself; requests that servers refuse.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, refusal, run, run_json
from test_cli_export import written
from test_traces_openai import lines, read, request

from blendsim import search
from blendsim.errors import InputError
from blendsim.request import from_lengths
from blendsim.traces import ReadOptions, load, without_oversize

SKIP = ReadOptions(skip_unusable=True)


def mixed(path: Path) -> Path:
    """Three requests among lines that are none of the kinds that are told apart."""
    embedding = {"custom_id": "e", "url": "/v1/embeddings", "body": {"input": "x"}}
    rows = [
        request("a", prompt="one", max_tokens=9),
        request("b", prompt="two", n=3),
        request("a", prompt="again"),
        embedding,
        request("c", prompt="three", max_tokens=9),
        {"custom_id": 5, "body": {"prompt": "x"}},
        request("b", prompt="a second b"),
        request("d", prompt=["x", "y"]),
        request("5", prompt="four", max_tokens=9),
    ]
    lines(path, *rows)
    path.write_text(path.read_text() + '{"custom_id": "torn", "bo')
    return path


def test_lines_that_cannot_be_planned_are_left_out_and_told(tmp_path: Path) -> None:
    batch = mixed(tmp_path / "batch.jsonl")
    workload = load(str(batch), SKIP)
    assert workload.ids.tolist() == ["a", "c", "5"]
    told = (
        f"{batch}: 7 of 10 lines cannot be planned and were left out, as from what `export` "
        f"writes: 2, 3, 4, 6, 7 and 2 more; the first is {batch}, line 2, column 'body.n': 3 "
        "answers of one request; write one request an answer"
    )
    assert told in workload.notes


def test_plain_prompts_are_left_out_too(tmp_path: Path) -> None:
    rows = [{"prompt": "x"}, {"prompt": ""}, {"id": 1, "prompt": "y"}, {"prompt": "z"}]
    workload = load(str(lines(tmp_path / "p.jsonl", *rows)), SKIP)
    assert workload.ids.tolist() == ["1", "4"]


def test_without_the_option_all_bad_lines_are_counted_and_it_is_named(tmp_path: Path) -> None:
    batch = mixed(tmp_path / "batch.jsonl")
    told = (
        "line 2, column 'body.n': 3 answers of one request; write one request an answer (7 of 10 "
        "lines cannot be planned: 2, 3, 4, 6, 7 and 2 more; mend or remove all of them); "
        "--skip-unusable leaves such lines out"
    )
    with pytest.raises(InputError, match=f"{re.escape(told)}$"):
        load(str(batch))


def test_a_file_without_any_request_is_refused_all_the_same(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", request("a", prompt="x", n=2))
    with pytest.raises(InputError, match=r"\(1 of 1 line cannot be planned\)$"):
        load(str(batch), SKIP)


def test_nothing_is_told_where_all_lines_can_be_planned(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", request("a", prompt="x", max_tokens=5))
    assert load(str(batch), SKIP).notes == load(str(batch)).notes


@pytest.mark.parametrize("is_saved", [False, True])
def test_export_writes_the_lines_that_were_planned(tmp_path: Path, is_saved: bool) -> None:
    batch = trace = mixed(tmp_path / "batch.jsonl")
    plan, ordered = tmp_path / "plan.parquet", tmp_path / "ordered.jsonl"
    option: tuple[str, ...] = ("--skip-unusable",)
    assert "--skip-unusable" in refusal(invoke("plan", "--trace", trace, "--planner", "dfs"))
    if is_saved:
        trace = tmp_path / "pool.parquet"
        run("trace", "save", batch, *option, "-o", trace)
        option = ()
    told = run_json("plan", "--trace", trace, "--planner", "dfs", *option, "-o", plan)
    assert any("7 of 10 lines cannot be planned and were left out" in n for n in told["notes"])
    done = run_json("export", plan, "-o", ordered)
    assert any("7 of 10 lines cannot be planned and were left out" in n for n in done["notes"])
    found = {json.loads(line)["body"]["prompt"] for line in written(ordered)}
    assert found == {"one", "three", "four"}


FIXED: list[tuple[dict[str, Any], int]] = [
    ({"max_tokens": 1}, 1),
    ({"max_completion_tokens": 1}, 1),
    ({"max_tokens": 40, "min_tokens": 40}, 40),
    ({"max_tokens": 40, "min_tokens": 40, "ignore_eos": True}, 40),
    ({"max_tokens": 40, "ignore_eos": True}, 40),
    ({"max_tokens": 40, "ignore_eos": True, "stop": ["x"]}, 0),
    ({"max_tokens": 40, "ignore_eos": False}, 0),
    ({"max_tokens": 40, "min_tokens": 39}, 0),
    ({"min_tokens": 40}, 0),
]


@pytest.mark.parametrize(("body", "output"), FIXED)
@pytest.mark.parametrize("kind", ["batch", "plain"])
def test_a_length_that_the_request_fixes_is_known(
    kind: str, body: dict[str, Any], output: int, tmp_path: Path
) -> None:
    row = request("a", prompt="x", **body) if kind == "batch" else {"prompt": "x"} | body
    workload = read(tmp_path, row)
    workload.check()
    assert workload.output_len.tolist() == [output]
    assert workload.has_output.tolist() == workload.is_known.tolist() == [output > 0]
    assert any("guess" in note for note in workload.notes) == (output == 0)


def test_a_length_that_is_given_stays(tmp_path: Path) -> None:
    row = {"prompt": "x", "max_tokens": 40, "min_tokens": 40, "output_tokens": 30}
    workload = read(tmp_path, row)
    assert workload.output_len.tolist() == [30]
    assert not workload.is_known.any()


def test_an_answer_of_one_token_at_most_is_known_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("input_tokens,output_tokens,max_tokens\n5,1,1\n5,7,9\n")
    workload = load(str(tmp_path / "a.csv"))
    assert workload.output_len.tolist() == [1, 7]
    assert workload.is_known.tolist() == [True, False]


def test_what_a_request_fixes_says_nothing_of_the_others(tmp_path: Path) -> None:
    rows = [request(f"{k}", prompt=[7] * 40 + [k], max_tokens=1) for k in range(20)]
    rows += [request(f"l{k}", prompt=[7] * 40 + [100 + k], max_tokens=800) for k in range(20)]
    problem = search.prepare(read(tmp_path, *rows), search.Settings())
    assert problem.lengths.expected.tolist() == [1] * 20 + [200] * 20
    assert problem.lengths.is_visible.tolist() == [True] * 20 + [False] * 20
    told = [note for note in problem.lengths.notes if "0.25 of max_tokens" in note]
    assert told[0].startswith("20 requests have no output length to learn from")
    alone = search.prepare(read(tmp_path, *rows[:20]), search.Settings())
    assert alone.notes == list(alone.workload.notes)
    assert not any("guess" in note for note in alone.notes)


def test_answers_of_which_the_best_is_wanted_are_noted(tmp_path: Path) -> None:
    rows = [request(f"{k}", prompt="x", best_of=k) for k in range(1, 4)]
    told = "2 requests have best_of above 1: a server that honours it generates that many answers"
    assert any(told in note for note in read(tmp_path, *rows).notes)
    assert not any("best_of" in note for note in read(tmp_path, rows[0]).notes)


def test_answers_that_may_not_fit_are_told_with_the_first() -> None:
    workload = replace(
        from_lengths([90, 50, 20, 60], [9] * 4), output_limit=np.array([9, 51, 0, 99])
    )
    kept = without_oversize(workload, 100, skip=False)
    assert kept.notes == (
        "2 of 4 requests ask for more than the 100 tokens that fit, their prompt and max_tokens "
        "together: vLLM refuses such, lower max_tokens before you send them; the first is 1, with "
        "a prompt of 50 and max_tokens 51",
    )
    assert kept.ids.tolist() == workload.ids.tolist()
    fitting = replace(workload, output_limit=np.array([10, 50, 80, 40]))
    assert without_oversize(fitting, 100, skip=False) is fitting
    assert len(without_oversize(workload, 98, skip=True).notes) == 2


def test_plan_and_export_tell_of_requests_that_a_server_refuses(tmp_path: Path) -> None:
    rows = [request(f"r{k}", prompt=[k, 5, 6], max_tokens=131_072) for k in range(20)]
    batch, plan = lines(tmp_path / "batch.jsonl", *rows), tmp_path / "plan.parquet"
    asked = ("--trace", batch, "--planner", "dfs", "--engine", "vllm")
    told = "20 of 20 requests ask for more than the 131,072 tokens that fit, their prompt and max_"
    plans = run_json("plan", *asked, "-o", plan)["notes"]
    exports = run_json("export", plan, "-o", tmp_path / "o.jsonl")["notes"]
    for notes in (plans, exports):
        assert sum(told in note for note in notes) == 1
    assert any("the first is r0, with a prompt of 3 and max_tokens 131,072" in n for n in plans)
