"""`blendsim trace save`: a batch's prompts made into tokens once, for all commands after it."""

import json
from pathlib import Path

import pytest
from command_line import invoke
from test_cli_export import batch, planned, written
from test_cli_range import results
from test_traces_openai import lines, request, tokenizer

from blendsim.cli import remarks
from blendsim.plan import read_plan
from blendsim.traces import load, write_workload
from blendsim.traces.workload_file import Lines


def saved(source: Path, *options: object) -> Path:
    """The trace at `source`, saved beside it."""
    pool = source.with_suffix(".parquet")
    done = invoke("trace", "save", source, *options, "-o", pool)
    assert done.exit_code == 0, done.stderr
    return pool


def texts(path: Path, n: int = 30) -> Path:
    """A batch of texts that a word tokenizer knows."""
    words = ("what is a prefix", "what is a suffix", "is a prefix a suffix")
    return lines(
        path, *(request(f"r{k}", prompt=" ".join(words[k % 3 :]), max_tokens=4) for k in range(n))
    )


def test_a_saved_trace_gives_the_plan_of_the_trace(tmp_path: Path) -> None:
    source = texts(tmp_path / "batch.jsonl")
    words = tokenizer(tmp_path)
    pool = saved(source, "--tokenizer", words)
    for options in ((), ("--lengths", results(tmp_path / "r.jsonl", {"r0": 3, "r7": 4}))):
        plans = []
        for k, given in enumerate((("--trace", source, "--tokenizer", words), ("--trace", pool))):
            place = tmp_path / f"{k}"
            done = invoke("plan", *given, *options, "--planner", "blend", "-o", place)
            assert done.exit_code == 0, done.stderr
            plans.append(read_plan(place))
        assert plans[0].workload_hash == plans[1].workload_hash
        assert plans[0].order.tolist() == plans[1].order.tolist()


def test_a_saved_trace_says_nothing_of_lengths_that_a_later_run_may_give(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    done = invoke("trace", "save", source, "-o", tmp_path / "p", "--json")
    told = json.loads(done.stdout)
    assert (told["requests"], told["output"]) == (30, str(tmp_path / "p"))
    assert told["input_tokens"] == int(load(str(source)).prompt_len.sum())
    assert told["notes"] == []
    assert "30 requests of" in invoke("trace", "save", source, "-o", tmp_path / "p").stdout


def test_lines_are_exported_for_a_plan_of_a_saved_trace_and_for_one_of_its_trace(
    tmp_path: Path,
) -> None:
    one, two = batch(tmp_path / "one.jsonl", 20), batch(tmp_path / "two.jsonl", 12, first=20)
    pools = saved(one), saved(two)
    ordered, again = tmp_path / "ordered.jsonl", tmp_path / "again.jsonl"
    assert invoke("export", planned(tmp_path, *pools), "-o", ordered).exit_code == 0
    assert sorted(written(ordered)) == sorted(written(one) + written(two))
    assert invoke("export", planned(tmp_path, one, two), "-o", again).exit_code == 0
    assert again.read_bytes() == ordered.read_bytes()
    by_saved = tmp_path / "saved.jsonl"
    plan = planned(tmp_path, one)
    assert invoke("export", plan, "-o", again).exit_code == 0
    assert invoke("export", plan, "--workload", pools[0], "-o", by_saved).exit_code == 0
    assert by_saved.read_bytes() == again.read_bytes()


def test_lines_are_found_beside_a_saved_trace_that_was_moved(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    pool = saved(source)
    (tmp_path / "else").mkdir()
    for path in (source, pool):
        path.rename(tmp_path / "else" / path.name)
    plan = planned(tmp_path, tmp_path / "else" / pool.name)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 0, done.stderr
    assert len(written(tmp_path / "ordered.jsonl")) == 30


def test_lines_that_are_gone_or_changed_are_refused(tmp_path: Path) -> None:
    source, ordered = batch(tmp_path / "batch.jsonl"), tmp_path / "ordered.jsonl"
    plan = planned(tmp_path, saved(source))
    before = source.read_bytes()
    assert "is read by this command" in invoke("export", plan, "-o", source).stderr
    source.write_bytes(before.replace(b"POST", b"post") + b"\n")
    done = invoke("export", plan, "-o", ordered)
    assert done.exit_code == 2
    assert "batch.jsonl: has changed since" in done.stderr
    source.unlink()
    done = invoke("export", plan, "-o", ordered)
    assert done.exit_code == 2
    assert f"was saved from {source}, which is not there; put it back" in done.stderr
    assert not ordered.exists()


def test_what_has_no_lines_is_saved_without(tmp_path: Path) -> None:
    trace = tmp_path / "lengths.csv"
    trace.write_text("prompt_tokens,response_tokens\n" + "30,4\n8,90\n" * 10)
    plan = planned(tmp_path, saved(trace))
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 2
    assert "lengths.parquet: is workload, not openai-batch or prompts-jsonl" in done.stderr
    odd = tmp_path / "odd.parquet"
    write_workload(load(str(trace)), odd, Lines("a", "b", "lengths-csv"))
    assert "is workload, not" in invoke("export", planned(tmp_path, odd), "-o", "o.jsonl").stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("batch.jsonl", "is read by this command"), ("none/p.parquet", "does not exist")],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    source = batch(tmp_path / "batch.jsonl")
    before = source.read_bytes()
    done = invoke("trace", "save", source, "-o", tmp_path / name)
    assert done.exit_code == 2
    assert words in done.stderr
    assert source.read_bytes() == before


def test_results_are_no_trace_to_save(tmp_path: Path) -> None:
    given = results(tmp_path / "results.jsonl", {"r0": 3})
    done = invoke("trace", "save", given, "-o", tmp_path / "p.parquet")
    assert done.exit_code == 2
    assert "looks like the results of a batch" in done.stderr


def test_a_plan_says_how_not_to_make_tokens_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, words = texts(tmp_path / "batch.jsonl"), tokenizer(tmp_path)
    told = f"`blendsim trace save {source} --tokenizer {words} -o pool.parquet` keeps them"
    for given in (("--planner", "dfs"), ("--planner", "dfs", "--deadline", "9h")):
        command = ("plan", "--trace", source, *given)
        assert told not in invoke(*command, "--tokenizer", words).stderr, "it took no time"
        monkeypatch.setattr(remarks, "LONG_READ", 0.0)
        assert told in invoke(*command, "--tokenizer", words).stderr
        assert "trace save" not in invoke(*command).stderr, "bytes take no time"
        monkeypatch.undo()
