"""`blendsim export`: a batch in the order of its plan, and when each request is served."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import invoke, run_json
from test_traces_openai import lines, request


def batch(path: Path, n: int = 30, first: int = 0) -> Path:
    """Prompts of a few lengths as token ids, some behind one prefix; blank lines and odd spaces.
    Ids are numbered from `first`.
    """
    rows = [
        request(
            f"r{first + k}",
            prompt=[*([7] * 40 if k % 3 else []), *[100 + k] * (1 + 60 * (k % 5))],
            max_tokens=4 + 100 * (k % 4 == 0),
        )
        for k in range(n)
    ]
    lines(path, *rows)
    text = path.read_text().replace('"custom_id": "r3"', '"custom_id":   "r3"')
    path.write_text(text.replace("\n", "\n\n", 1))
    return path


def planned(tmp_path: Path, *traces: Path, **asked: object) -> Path:
    """A blended plan of the traces."""
    options = [part for trace in traces for part in ("--trace", trace)]
    options += [part for name, value in asked.items() for part in (f"--{name}", value)]
    done = invoke("plan", *options, "--planner", "blend", "-o", tmp_path / "plan.parquet")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "plan.parquet"


def written(path: Path) -> list[str]:
    """Lines that are not blank."""
    return [line for line in path.read_text().split("\n") if line]


def test_the_lines_of_a_batch_are_put_in_order_as_they_stand(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    plan, ordered = planned(tmp_path, source), tmp_path / "ordered.jsonl"
    done = invoke("export", plan, "-o", ordered)
    assert done.exit_code == 0, done.stderr
    assert "30 requests in the order in which they are served" in done.stdout
    assert sorted(written(ordered)) == sorted(written(source))
    assert written(ordered) != written(source), "or this says nothing"
    assert invoke("export", plan, "-o", tmp_path / "served.parquet").exit_code == 0
    served = pq.read_table(tmp_path / "served.parquet")
    assert [json.loads(line)["custom_id"] for line in written(ordered)] == (
        served["id"].to_pylist()
    )
    again = tmp_path / "again.jsonl"
    told = invoke("export", plan, "-o", again, "--json")
    found = json.loads(told.stdout)
    assert (found["requests"], found["files"]) == (30, [str(again)])
    assert found["file_requests"] == [30]
    assert found["seconds"] == served["ended"].to_numpy().max()
    stay = served["ended"].to_numpy() - served["entered"].to_numpy()
    assert found["mean_stay_seconds"] == pytest.approx(stay.mean())
    assert found["longest_stay_seconds"] == pytest.approx(stay.max())
    assert any("have no output length" in note for note in found["notes"])
    assert again.read_bytes() == ordered.read_bytes()


def test_every_replica_has_a_file_and_several_batches_are_one_pool(tmp_path: Path) -> None:
    one, two = batch(tmp_path / "one.jsonl", 20), batch(tmp_path / "two.jsonl", 12, first=20)
    plan = planned(tmp_path, one, two, dp=2)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 0, done.stderr
    assert not (tmp_path / "ordered.jsonl").exists()
    parts = [written(tmp_path / f"ordered-{k}.jsonl") for k in range(2)]
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == sorted(written(one) + written(two))
    told = run_json("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert told["file_requests"] == [len(part) for part in parts]


def test_batches_of_the_same_ids_are_not_mixed(tmp_path: Path) -> None:
    one, two = batch(tmp_path / "one.jsonl", 20), batch(tmp_path / "two.jsonl", 12, first=15)
    plan = planned(tmp_path, one, two)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: {one} and {two} both have requests called 'r15', 'r16', 'r17' and 2 more, whose "
        "answers could not be told apart; make ids unique, or plan the files apart"
    )
    assert not (tmp_path / "ordered.jsonl").exists()
    assert invoke("export", plan, "-o", tmp_path / "served.csv").exit_code == 0


def test_lines_without_ids_may_have_the_same_numbers(tmp_path: Path) -> None:
    rows = [{"prompt": [5, k]} for k in range(3)]
    one, two = lines(tmp_path / "one.jsonl", *rows), lines(tmp_path / "two.jsonl", *rows)
    plan, ordered = planned(tmp_path, one, two), tmp_path / "ordered.jsonl"
    assert invoke("export", plan, "-o", ordered).exit_code == 0
    assert sorted(written(ordered)) == sorted(written(one) + written(two))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ordered.txt", "ordered.txt: the name says what is written; end it in .jsonl, .csv, .par"),
        ("missing/ordered.jsonl", "does not exist; create it or choose another -o"),
        ("batch.jsonl", "batch.jsonl: is read by this command"),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    source = batch(tmp_path / "batch.jsonl")
    before, plan = source.read_bytes(), planned(tmp_path, source)
    done = invoke("export", plan, "-o", tmp_path / name)
    assert done.exit_code == 2
    assert words in done.stderr
    assert source.read_bytes() == before


def test_a_trace_without_lines_of_requests_gives_a_table_only(tmp_path: Path) -> None:
    trace = tmp_path / "lengths.csv"
    trace.write_text("prompt_tokens,response_tokens\n" + "30,4\n8,90\n" * 10)
    plan = planned(tmp_path, trace)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 2
    assert f"{trace}: is lengths-csv, not openai-batch or prompts-jsonl, so" in done.stderr
    assert "name the output .csv or .parquet" in done.stderr
    assert not (tmp_path / "ordered.jsonl").exists()
    assert invoke("export", plan, "-o", tmp_path / "served.csv").exit_code == 0
    assert len(written(tmp_path / "served.csv")) == 21


def test_plain_lines_with_prompts_are_put_in_order(tmp_path: Path) -> None:
    rows = [
        {"prompt": [*([7] * 40 if k % 3 else []), *[100 + k] * (1 + 60 * (k % 5))]}
        | ({"id": k} if k % 2 else {})
        for k in range(100, 130)
    ]
    source = lines(tmp_path / "plain.jsonl", *rows)
    source.write_text(source.read_text().replace("\n", "\n\n", 1))
    batched = batch(tmp_path / "batch.jsonl", 8)
    plan, ordered = planned(tmp_path, source, batched), tmp_path / "ordered.jsonl"
    done = invoke("export", plan, "-o", ordered)
    assert done.exit_code == 0, done.stderr
    assert sorted(written(ordered)) == sorted(written(source) + written(batched))
    assert invoke("export", plan, "-o", tmp_path / "served.parquet").exit_code == 0
    ids = pq.read_table(tmp_path / "served.parquet")["id"].to_pylist()
    by_line = dict(enumerate(source.read_text().split("\n"), start=1))
    for one, line in zip(ids, written(ordered), strict=True):
        row = json.loads(line)
        if "custom_id" in row:
            assert one == f"batch/{row['custom_id']}"
        elif "id" in row:
            assert one == f"plain/{row['id']}"
        else:
            assert by_line[int(one.removeprefix("plain/"))] == line


def test_pools_of_prefill_and_decode_are_refused(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    plan = planned(tmp_path, source, topology="1P1D")
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code == 2
    assert "export has no topology 1P1D" in done.stderr


def test_what_the_plan_was_made_from_is_not_replaced(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    lengths = lines(
        tmp_path / "results.jsonl",
        *(
            {"custom_id": f"r{k}", "response": {"body": {"usage": {"completion_tokens": 9}}}}
            for k in range(30)
        ),
    )
    before, plan = lengths.read_bytes(), planned(tmp_path, source, lengths=lengths)
    for command in ("export", "simulate"):
        done = invoke(command, plan, "-o", lengths)
        assert done.exit_code == 2
        assert "is read by this command" in done.stderr
    assert lengths.read_bytes() == before


def test_requests_that_the_plan_leaves_out_are_told(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    with source.open("a") as file:
        file.write(json.dumps(request("huge", prompt=[5] * 140_000, max_tokens=4)) + "\n")
    args = ("--trace", source, "--planner", "dfs", "--skip-oversize", "-o")
    assert invoke("plan", *args, tmp_path / "plan.parquet").exit_code == 0
    done = invoke("export", tmp_path / "plan.parquet", "-o", tmp_path / "ordered.jsonl")
    assert len(written(tmp_path / "ordered.jsonl")) == 30
    assert "huge" in done.stdout or "1 request" in done.stdout


def test_odd_ids_are_found_again(tmp_path: Path) -> None:
    rows = [request(name, prompt=[1, 2, 3], max_tokens=4) for name in ("a\0", "b\ud800", "c/d")]
    source = lines(tmp_path / "batch.jsonl", *rows)
    plan = planned(tmp_path, source)
    assert invoke("export", plan, "-o", tmp_path / "ordered.jsonl").exit_code == 0
    assert sorted(written(tmp_path / "ordered.jsonl")) == sorted(written(source))
    assert invoke("export", plan, "-o", tmp_path / "served.csv").exit_code == 0
    assert "\\ud800" in (tmp_path / "served.csv").read_text()


def test_a_trace_whose_name_is_no_unicode_gives_a_table(tmp_path: Path) -> None:
    trace = tmp_path / os.fsdecode(b"day\xff.csv")
    trace.write_text("num_prefill_tokens,num_decode_tokens\n40,8\n50,6\n")
    plan, out = tmp_path / "plan.parquet", tmp_path / "served.parquet"
    assert invoke("plan", "--trace", trace, "--planner", "fcfs", "-o", plan).exit_code == 0
    assert invoke("export", plan, "-o", out).exit_code == 0
    assert pq.read_table(out)["source"].to_pylist() == ["day\\xff"] * 2


def test_lines_that_vllm_run_batch_does_not_take_are_noted_for_vllm(tmp_path: Path) -> None:
    rows = [request(f"r{k}", prompt=[1, 2, 3 + k], max_tokens=4) for k in range(6)]
    for row in rows[:2]:
        row["url"] = "/v1/completions"
    source = lines(tmp_path / "batch.jsonl", *rows)
    said = {}
    for engine in ("vllm", "nanoflow"):
        plan = planned(tmp_path, source, engine=engine)
        done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl", "--json")
        said[engine] = " ".join(json.loads(done.stdout)["notes"])
    assert (
        "`vllm run-batch` (as of 0.20.2) takes lines for /v1/chat/completions alone, and of 6 "
        "lines 2 are for /v1/completions: start `vllm serve` and send it all of them"
    ) in said["vllm"]
    assert "run-batch" not in said["nanoflow"]
    table = invoke("export", planned(tmp_path, source, engine="vllm"), "-o", tmp_path / "t.csv")
    assert "run-batch" not in table.stdout
    chats = lines(tmp_path / "batch.jsonl", *rows[2:])
    done = invoke("export", planned(tmp_path, chats, engine="vllm"), "-o", tmp_path / "o.jsonl")
    assert "run-batch" not in done.stdout
    plain = lines(tmp_path / "plain.jsonl", *({"prompt": [5, k]} for k in range(3)))
    done = invoke("export", planned(tmp_path, plain, engine="vllm"), "-o", tmp_path / "o.jsonl")
    assert "and of 3 lines 3 are for no url at all: start" in " ".join(done.stdout.split())


def test_lengths_that_no_trace_has_are_noted_once(tmp_path: Path) -> None:
    one, two = batch(tmp_path / "one.jsonl", 20), batch(tmp_path / "two.jsonl", 12, first=20)
    plan = planned(tmp_path, one, two)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl", "--json")
    told = [note for note in json.loads(done.stdout)["notes"] if "output length" in note]
    assert told == [
        "32 of 32 requests have no output length, so that their order and times are the plan's "
        "guess; in `plan` --lengths RESULTS.jsonl of an earlier run of these requests does better; "
        "for new requests --output-guess TOKENS takes the mean of a batch like them"
    ]
    results = lines(
        tmp_path / "results.jsonl",
        *(
            {"custom_id": f"r{k}", "response": {"body": {"usage": {"completion_tokens": 9}}}}
            for k in range(19)
        ),
    )
    plan = planned(tmp_path, one, lengths=results)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl", "--json")
    told = [note for note in json.loads(done.stdout)["notes"] if "output length" in note]
    assert told == [
        "1 of 20 requests has no output length, so that its order and times are the plan's guess"
    ]


def test_json_has_the_arguments_of_the_server_that_the_note_names(tmp_path: Path) -> None:
    source, out = batch(tmp_path / "batch.jsonl"), tmp_path / "o.jsonl"
    for engine, name in (
        ("vllm", "vllm"),
        ("vllm-planned", "vllm-planned"),
        ("sglang-lpm", "sglang"),
        ("nanoflow", None),
    ):
        plan = planned(tmp_path, source, engine=engine)
        told = run_json("export", plan, "-o", out)
        if name is None:
            assert told["server"] is None
            continue
        assert told["server"]["engine"] == name
        assert any(f"with {' '.join(told['server']['args'])}" in each for each in told["notes"])


def test_plan_tells_the_same_server_in_json(tmp_path: Path) -> None:
    source, plan = batch(tmp_path / "batch.jsonl"), tmp_path / "plan.parquet"
    given = ("--trace", source, "--planner", "auto", "--engine", "vllm")
    told = run_json("plan", *given, "-o", plan)
    server = told["server"]
    assert server["args"][:2] == ["--max-num-batched-tokens", str(told["token_budget"])]
    assert run_json("export", plan, "-o", tmp_path / "o.jsonl")["server"] == server
    assert run_json("plan", "--trace", source, "--engine", "nanoflow")["server"] is None
    pools = ("--engine", "vllm", "--topology", "1P1D", "--planner", "dfs")
    assert run_json("plan", "--trace", source, *pools)["server"] is None


def test_the_python_of_the_page_joins_answers_in_the_order_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "export.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    batch(tmp_path / "batch.jsonl", 6)
    replies = [{"custom_id": f"r{k}", "response": {"body": {"said": "a\u2028b"}}} for k in range(6)]
    lines(tmp_path / "results-0.jsonl", replies[5], replies[0], replies[3])
    lines(tmp_path / "results-1.jsonl", replies[4], {"custom_id": "r3"}, replies[1])
    last = tmp_path / "results-1.jsonl"
    last.write_text(last.read_text().rstrip("\n"))  # as where the end of the last line is missing
    monkeypatch.chdir(tmp_path)
    (block,) = blocks
    exec(block, {})
    found = [json.loads(line) for line in written(tmp_path / "in-order.jsonl")]
    assert found == [replies[0], replies[1], {"custom_id": "r3"}, replies[4], replies[5]]


def test_several_files_are_written_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, batch(tmp_path / "batch.jsonl"), dp=3)
    before = sorted(os.listdir(tmp_path))
    real, opened = Path.open, []

    def full(self: Path, mode: str = "r", **given: Any) -> Any:
        if mode == "w":
            opened.append(self)
            if len(opened) == 3:
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, **given)

    monkeypatch.setattr(Path, "open", full)
    done = invoke("export", plan, "-o", tmp_path / "ordered.jsonl")
    assert done.exit_code != 0
    assert "ordered-2.jsonl" in done.stderr
    assert "No space left" in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_what_changed_since_is_named(tmp_path: Path) -> None:
    """A results file that grew leaves less to answer."""
    source, seen = batch(tmp_path / "batch.jsonl"), tmp_path / "seen.jsonl"
    usage = {"body": {"usage": {"completion_tokens": 5}}}
    answers = [{"custom_id": f"r{k}", "response": usage} for k in range(20)]
    lines(seen, *answers[:10])
    plan = tmp_path / "plan.parquet"
    asked = ("--trace", source, "--lengths", seen, "--rest", "--planner", "dfs", "-o", plan)
    assert invoke("plan", *asked).exit_code == 0
    lines(seen, *answers)
    for command in (("simulate", plan), ("export", plan, "-o", tmp_path / "o.jsonl")):
        done = invoke(*command)
        assert done.exit_code == 2
        told = "the plan is for 20 requests, the workload has 10"
        assert told in done.stderr
        assert f"it was read from {source} with the results in {seen}" in done.stderr
