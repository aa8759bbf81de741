"""`plan --order FILE`: an order of one's own as a file has it, from end to end, and what is
refused.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run, run_json
from test_cli_errors import complaint

from blendsim.plan import read_plan
from blendsim.planner.make import OVERLAPPED
from blendsim.request import Workload, from_lengths, pool, select
from blendsim.traces.order_file import read_listed, rows_of

REQUESTS = 120
_ANSWER = {"status_code": 200, "body": {"usage": {"completion_tokens": 30}}}
PLAN = ("plan", "--trace", "trace.csv")
#: One policy beside what is tested, all lengths known, and few at once, so that long answers that
#: begin late end late.
QUICK = (*PLAN, "--planner", "dfs", "--sample", "1", "--max-running", "16")


def write_trace(path: Path, n: int = REQUESTS) -> None:
    """A CSV of requests a0, a1, … that share nothing, of answers all of which differ."""
    rng = np.random.default_rng(2)
    answers = 20 + 7 * rng.permutation(n)
    rows = [f"a{k},{100 + k},{d}" for k, d in enumerate(answers)]
    path.write_text("\n".join(["id,input_tokens,output_tokens", *rows]) + "\n")


def ids_by_answer(path: Path) -> list[str]:
    """Of a trace as `write_trace` writes it, the longest answer first."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [row[0] for row in sorted(rows, key=lambda row: -int(row[2]))]


def write_order(path: Path, ids: list[str]) -> None:
    path.write_text("\n".join(ids) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trace in it, and its longest answers first in an order."""
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "trace.csv")
    write_order(tmp_path / "longest.txt", ids_by_answer(tmp_path / "trace.csv"))
    return tmp_path


# ---- what it does


@pytest.mark.usefixtures("folder")
def test_who_is_answered_may_be_listed_and_is_passed_over() -> None:
    answered = [{"custom_id": f"a{k}", "response": _ANSWER, "error": None} for k in range(0, 40)]
    Path("results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answered))
    asked = (*PLAN, "--planner", "fcfs", "--lengths", "results.jsonl", "--rest")
    told = run_json(*asked, "--order", "longest.txt", "-o", "plan.parquet")
    assert [row["policy"] for row in told["rows"]] == ["fcfs", "longest"]
    assert (told["policy"], len(read_plan(Path("plan.parquet")))) == ("longest", REQUESTS - 40)


@pytest.mark.usefixtures("folder")
def test_orders_have_rows_beside_the_policies() -> None:
    write_order(Path("shortest.v2.txt"), ids_by_answer(Path("trace.csv"))[::-1])
    files = ("--order", "longest.txt", "--order", "shortest.v2.txt")
    told = run_json(*PLAN, "--token-budget", "2048", *files)
    assert [row["policy"] for row in told["rows"]] == [*OVERLAPPED, "longest", "shortest.v2"]
    assert [row["policy"] for row in told["rows"] if row["chosen"]] == [told["policy"]]
    assert told["regret"] == told["seconds"] - min(row["seconds"] for row in told["rows"])
    told = run_json(*QUICK, *files)
    assert [row["policy"] for row in told["rows"]] == ["dfs", "longest", "shortest.v2"]


def test_a_plan_of_ones_own_order_is_chosen_written_and_simulated(folder: Path) -> None:
    made = run_json(*QUICK, "--order", "longest.txt", "-o", "plan.parquet")
    assert made["policy"] == "longest"
    assert made["seconds"] < min(row["seconds"] for row in made["rows"] if not row["chosen"])
    plan = read_plan(folder / "plan.parquet")
    ids = [f"a{row}" for row in plan.order.tolist()]
    assert ids == ids_by_answer(folder / "trace.csv")
    told = run_json("simulate", "plan.parquet")
    assert (told["policy"], told["seconds"]) == ("longest", made["seconds"])
    lines = run(*QUICK, "--order", "longest.txt").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("* ")] == ["longest"]
    assert any(line.startswith("longest is chosen: predicted ") for line in lines)


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_what_export_writes_is_an_order(folder: Path, name: str) -> None:
    """Beside others it takes as long as the plan that was exported."""
    run(*QUICK, "--order", "longest.txt", "-o", "plan.parquet")
    run("export", "plan.parquet", "-o", name)
    rows = run_json(*QUICK, "--order", name, "--order", "longest.txt")["rows"]
    assert [row["policy"] for row in rows] == ["dfs", "mine", "longest"]
    assert rows[1]["seconds"] == rows[2]["seconds"] != rows[0]["seconds"]
    assert read_listed(folder / name).ids == ids_by_answer(folder / "trace.csv")


def test_requests_that_are_left_out_are_passed_over(folder: Path) -> None:
    with (folder / "trace.csv").open("a") as trace:
        trace.write("huge,500000,10\n")
    ids = ids_by_answer(folder / "trace.csv")
    assert "huge" in ids
    write_order(folder / "all.txt", ids)
    rows = run_json(*QUICK, "--skip-oversize", "--order", "all.txt", "--order", "longest.txt")
    _, whole, without = rows["rows"]
    assert whole["requests"] == REQUESTS
    assert whole["seconds"] == without["seconds"]


@pytest.mark.usefixtures("folder")
def test_requests_of_several_traces_are_called_as_in_the_pool_or_as_in_their_trace() -> None:
    write_trace(Path("other.csv"), 40)
    Path("other.csv").write_text(Path("other.csv").read_text().replace("\na", "\nb"))
    ids = [*ids_by_answer(Path("other.csv")), *ids_by_answer(Path("trace.csv"))]
    write_order(Path("bare.txt"), ids)
    write_order(
        Path("long.txt"), [f"{'trace' if name[0] == 'a' else 'other'}/{name}" for name in ids]
    )
    rows = run_json(*QUICK, "--trace", "other.csv", "--order", "bare.txt", "--order", "long.txt")
    dfs, bare, long = rows["rows"]
    assert bare["seconds"] == long["seconds"] != dfs["seconds"]


@pytest.mark.usefixtures("folder")
def test_compare_takes_orders_too() -> None:
    asked = ("--engines", "vllm,nanoflow", "--sample", "1", "--max-running", "16")
    told = run_json("compare", "--trace", "trace.csv", *asked, "--order", "longest.txt")
    rows = {row["policy"]: row["seconds"] for row in told["rows"]}
    assert list(rows)[-2:] == ["vllm-longest", "nanoflow-longest"]
    assert rows["vllm-longest"] < rows["vLLM-DFS"]
    assert [row["policy"] for row in told["common"]] == list(rows)


# ---- files


def two_of_one_id() -> Workload:
    """Requests x/0, x/1, y/0, y/2."""
    x = from_lengths([10, 11], [5, 6], source="x", ids=np.array(["0", "1"]))
    y = from_lengths([12, 13], [7, 8], source="y", ids=np.array(["0", "2"]))
    return pool([x, y])


def rows_in(path: Path, text: str, workload: Workload) -> list[int]:
    path.write_text(text, newline="")
    found: list[int] = rows_of(read_listed(path), workload, workload).tolist()
    return found


@pytest.mark.parametrize(
    "text",
    [
        "x/1\ny/2\nx/0\ny/0\n",
        "x/1\r\ny/2\r\nx/0\r\ny/0",
        "\ufeffid\n1\n2\n\nx/0\ny/0\n\n",
        '"rank",id\n0,1\n0,"2"\n1,x/0\n1,"y/0"\n',
    ],
)
def test_lines_and_columns_are_read_alike(tmp_path: Path, text: str) -> None:
    assert rows_in(tmp_path / "o.txt", text, two_of_one_id()) == [1, 3, 0, 2]


def test_files_of_others_and_compressed_ones_are_read(tmp_path: Path) -> None:
    workload = from_lengths([10, 11, 12], [5, 6, 7])
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"score": [0.1, 0.2, 0.3], "id": [2, 0, 1]}), numbers)
    assert rows_of(read_listed(numbers), workload, workload).tolist() == [2, 0, 1]
    small = tmp_path / "small.txt.gz"
    small.write_bytes(gzip.compress(b"2\n0\n1\n"))
    assert rows_of(read_listed(small), workload, workload).tolist() == [2, 0, 1]


def test_ids_with_commas_stand_in_lines_as_they_are(tmp_path: Path) -> None:
    workload = from_lengths([10, 11], [5, 6], ids=np.array(['a, "b"', "c"]))
    assert rows_in(tmp_path / "o.txt", 'c\na, "b"\n', workload) == [1, 0]
    assert rows_in(tmp_path / "o.csv", 'id\nc\n"a, ""b"""\n', workload) == [1, 0]


def test_what_was_left_out_may_be_missing(tmp_path: Path) -> None:
    whole = from_lengths([10, 11, 12], [5, 6, 7])
    kept = select(whole, np.array([0, 2]))
    (tmp_path / "o.txt").write_text("2\n0\n")
    assert rows_of(read_listed(tmp_path / "o.txt"), whole, kept).tolist() == [1, 0]


# ---- what is refused


BAD = {
    "unknown": ("x/1\nx/9\n", ["line 2: no request of the pool is called 'x/9'", "'x/0'"]),
    "no header": ("request\nx/1\n", ["line 1: no request", "'request'", "in a column 'id'"]),
    "repeated": (
        "id\nx/1\n1\n",
        ["line 3: '1' stands in line 2 already; list each request once"],
    ),
    "missing": (
        "y/0\nx/1\n",
        ["lacks 2 of 4 requests, the first of them is 'x/0'; list each request once"],
    ),
    "shared": (
        "x/1\n\n0\n",
        ["line 3: several traces have a request called '0'; write which is meant: 'x/0', 'y/0'"],
    ),
    "no id": ("rank,id\n1,x/1\n1\n", ["line 3: has no id; give one or remove the line"]),
    "no text": (b"x/1\n\xff\n", ["line 2: byte 0xff is not UTF-8 text"]),
    "nothing": ("\n", ["lists no request; list the id of each, one a line"]),
    "header alone": ("id\n", ["lists no request"]),
    "no Parquet": (b"PAR1 is no table", ["not a Parquet file blendsim can read"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_order_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, told = BAD[name]
    for source, ids in (("x", "01"), ("y", "02")):
        rows = [f"{one},10,5" for one in ids]
        Path(f"{source}.csv").write_text("\n".join(["id,input_tokens,output_tokens", *rows]) + "\n")
    Path("o.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = complaint(tmp_path, "plan", "--trace", "x.csv", "--trace", "y.csv", "--order", "o.txt")
    assert said.startswith("error: o.txt")
    assert [part for part in told if part not in said] == [], said


def test_a_table_without_ids_is_told(folder: Path) -> None:
    pq.write_table(pa.table({"request": ["a0"], "rank": [1]}), "o.parquet")
    said = complaint(folder, *PLAN, "--order", "o.parquet")
    assert said == "error: o.parquet: has no column 'id' but request, rank; call it so"
    pq.write_table(pa.table({"id": ["a0", None]}), "o.parquet")
    said = complaint(folder, *PLAN, "--order", "o.parquet")
    assert said == "error: o.parquet, row 1 (from 0): has no id; give one or remove the row"


def test_names_that_cannot_be_are_refused_before_a_trace_is_read(folder: Path) -> None:
    write_order(folder / "paced.txt", ["a0"])
    there = folder / "there"
    there.mkdir()
    write_order(there / "longest.csv", ["a0"])
    gone = ("plan", "--trace", "gone.csv")
    said = complaint(folder, *gone, "--order", "paced.txt")
    assert "--order paced.txt: an order of your own called 'paced' would pass for" in said
    said = complaint(folder, *gone, "--order", "longest.txt", "--order", "there/longest.csv")
    assert "--order there/longest.csv: its row would be called 'longest', as that of" in said
    assert "gone.txt: no such file" in complaint(folder, *gone, "--order", "gone.txt")


@pytest.mark.parametrize(
    "others",
    [("--evaluations", "9"), ("--budget", "9s"), ("--gpu", "h200,a100-80g"), ("--deadline", "1h")],
)
def test_searches_and_several_systems_take_no_order(folder: Path, others: tuple[str, str]) -> None:
    said = complaint(folder, *PLAN, "--order", "longest.txt", *others)
    assert "--order is for the policies of one system" in said


def test_an_order_is_not_written_over(folder: Path) -> None:
    said = complaint(folder, *QUICK, "--order", "longest.txt", "-o", "longest.txt")
    assert "longest.txt: is read by this command" in said


def test_blanks_around_an_id_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "o.txt").write_bytes(b"a \r\n a\n\ta\n")
    assert read_listed(tmp_path / "o.txt").ids == ["a ", " a", "\ta"]
