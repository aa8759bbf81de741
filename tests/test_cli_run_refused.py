"""`blendsim run` and requests that cannot be answered: an error line each; the others go on."""

import json
from pathlib import Path

import pytest
from batch_worlds import (
    complaint,
    line_of,
    make_folder,
    make_model,
    results,
    run,
    told,
    write_lines,
)

from blendsim.cli.progress import Progress
from blendsim.cli.status import INCOMPLETE
from blendsim.live.course import Course
from blendsim.traces.results import read_results

model = pytest.fixture(scope="module")(make_model)
folder = pytest.fixture(make_folder)

SHAPED = line_of(2, response_format={"type": "json_object"})
WHY = (
    "line 2, column 'body.response_format': {'type': 'json_object'} cannot be done, answers are "
    "text of no set shape; remove it"
)
LONG = line_of(200, messages=[{"role": "user", "content": "z" * 600}])


def test_it_gets_an_error_line_and_the_others_are_answered(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1), line_of(3)])
    assert run(model).exit_code == 0
    alone = {name: told(each) for name, each in results(folder).items()}
    (folder / "out.jsonl").unlink()
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED, line_of(3)])
    done = run(model)
    assert done.exit_code == INCOMPLETE, done.output
    said = " ".join(done.stdout.split())
    assert "out.jsonl has answers to 2 of 3 requests" in said
    assert f"1 cannot be answered; their lines say why, the first: {WHY}" in said
    assert f"1 of 3 requests cannot be answered and get an error line; the first: {WHY}" in (
        done.stderr
    )
    answers = results(folder)
    refused = answers.pop("request-2")
    assert {name: told(each) for name, each in answers.items()} == alone
    assert (refused["status_code"], refused["body"]["error"]["message"]) == (400, WHY)
    assert read_results(folder / "out.jsonl").lengths.keys() == alone.keys()


def test_those_that_are_too_long_are_counted_too_before_the_first_step(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Course, "take", broken)
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED, LONG])
    said = run(model).stderr
    first = f"requests cannot be answered and get an error line; the first: {WHY}\n"
    assert f"\n1 of 3 {first}" in f"\n{said}"
    assert f"\nwith those that are too long 2 of 3 {first}" in said
    (folder / "out.jsonl").unlink()
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED])
    assert "too long" not in run(model).stderr


def test_json_counts_them(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED, LONG])
    done = run(model, "--json")
    assert done.exit_code == INCOMPLETE, done.output
    result = json.loads(done.stdout)
    names = ("requests", "answered", "answered_before", "refused", "first_refused")
    assert [result[name] for name in names] == [3, 1, 0, 2, WHY]


def test_going_on_refuses_them_again_and_answers_them_once_mended(
    model: Path, folder: Path
) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED])
    assert run(model).exit_code == INCOMPLETE
    kept = (folder / "out.jsonl").read_text()
    again = run(model, "--resume", "--json")
    assert again.exit_code == INCOMPLETE, again.output
    assert json.loads(again.stdout)["answered_before"] == 1
    assert sorted((folder / "out.jsonl").read_text().splitlines()) == sorted(kept.splitlines())
    write_lines(folder / "batch.jsonl", [line_of(1), line_of(2)])
    assert run(model, "--resume").exit_code == 0
    assert all(each["status_code"] == 200 for each in results(folder).values())


def test_what_another_engine_answered_stays(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(2)])
    assert run(model).exit_code == 0
    row = json.loads((folder / "out.jsonl").read_text())
    write_lines(folder / "out.jsonl", [row | {"id": "batch_req_theirs"}])
    kept = (folder / "out.jsonl").read_bytes()
    write_lines(folder / "batch.jsonl", [SHAPED])
    done = run(model, "--resume")
    assert done.exit_code == 0, done.output
    assert "answers to 1 of 1 request, 1 of them before" in done.stdout
    assert (folder / "out.jsonl").read_bytes() == kept


def test_an_answer_of_ours_to_another_request_is_not_kept(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(2)])
    assert run(model).exit_code == 0
    kept = (folder / "out.jsonl").read_bytes()
    for changed in (SHAPED, line_of(2, messages=[{"role": "user", "content": "else"}])):
        write_lines(folder / "batch.jsonl", [changed])
        assert "'request-2' asks for something else" in complaint(model, "--resume")
        assert (folder / "out.jsonl").read_bytes() == kept


def test_a_break_keeps_their_lines(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED])
    with monkeypatch.context() as patch:
        patch.setattr(Course, "take", broken)
        assert run(model).exit_code == 130
    assert results(folder).keys() == {"request-2"}
    assert run(model, "--resume").exit_code == INCOMPLETE
    assert results(folder).keys() == {"request-1", "request-2"}


def test_a_batch_without_a_request_that_can_be_answered_loads_no_model(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blendrt import loading

    monkeypatch.setattr(loading, "load_decoder", None)
    write_lines(folder / "batch.jsonl", [SHAPED])
    assert run(model).exit_code == INCOMPLETE
    assert results(folder)["request-2"]["status_code"] == 400


@pytest.mark.parametrize(
    ("row", "words"),
    [(SHAPED, WHY), (LONG, "batch.jsonl: request 'request-200': the prompt has 6")],
)
def test_strict_answers_all_or_nothing(
    model: Path, folder: Path, row: dict[str, object], words: str
) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1), row])
    assert words in complaint(model, "--strict")
    assert not (folder / "out.jsonl").exists()
    write_lines(folder / "batch.jsonl", [line_of(1)])
    assert run(model, "--strict").exit_code == 0


def test_they_do_not_count_among_those_that_are_to_be_answered(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "__call__", lambda _, stage: said.append(stage))
    write_lines(folder / "batch.jsonl", [line_of(1), SHAPED, LONG, line_of(3)])
    assert run(model).exit_code == INCOMPLETE
    counted = [stage for stage in said if stage.endswith("requests answered")]
    assert counted == ["50 % of 2 requests answered", "100 % of 2 requests answered"]


def test_results_are_not_called_compressed(model: Path, folder: Path) -> None:
    done = run(model, "-o", "out.jsonl.gz")
    assert done.exit_code == 2
    assert "error: out.jsonl.gz: results are plain JSON lines, one added at a time" in done.stderr
    assert not (folder / "out.jsonl.gz").exists()


def test_a_compressed_batch_says_by_what(model: Path, folder: Path) -> None:
    (folder / "batch.jsonl").write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 20)
    assert "compressed by zstd; decompress it, or compress it by gzip" in complaint(model)


@pytest.mark.parametrize("share", ["1", "1.0"])
def test_shares_are_told_as_they_are_written(model: Path, folder: Path, share: str) -> None:
    assert "--sample 1: run answers a share of the requests first" in complaint(
        model, "--sample", share
    )
