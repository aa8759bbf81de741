"""`blendsim run --model tiny`: a try without weights, by a model that says that it is random."""

import json
from pathlib import Path

import pytest
from batch_worlds import REQUESTS, complaint, line_of, make_folder, results, run, told, write_lines
from command_line import invoke, refusal, run_json
from test_packaging import REPOSITORY, SETUPTOOLS

from blendrt.generate.random_model import NAME, SIGNATURE, random_model
from blendrt.loading import choose_model
from blendsim.specs import find_model
from blendsim.traces.tokens import model_tokens

folder = pytest.fixture(make_folder)
TINY = Path(NAME)


def test_all_is_answered_and_called_random(folder: Path) -> None:
    done = run(TINY, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["answered"], result["model"]) == (REQUESTS, SIGNATURE)
    assert "the model is tiny (random): its answers mean nothing" in result["notes"]
    answers = results(folder)
    assert {each["body"]["model"] for each in answers.values()} == {SIGNATURE}
    assert {told(each)[1] for each in answers.values()} == {"stop", "length"}


def test_one_request_is_told_of_in_the_singular(folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(0, max_tokens=1)])
    said = " ".join(run(TINY).stdout.split())
    assert "has answers to 1 of 1 request " in said
    assert " in 1 step and " in said
    assert " 1 was answered first, in " in said


def test_its_log_has_a_page_without_bounds_whatever_workload_is_named(folder: Path) -> None:
    assert run(TINY, "--log", "steps.parquet").exit_code == 0
    for named in ((), ("--workload", "batch.jsonl"), ("--workload", "gone.jsonl")):
        done = invoke("report", "steps.parquet", "-o", "page.html", *named)
        assert done.exit_code == 0, done.stderr
        (folder / "page.html").unlink()
        told = run_json("report", "steps.parquet", *named)
        assert told["notes"] == [
            "Bounds and the account of the seconds are left out: the log is of the part of a batch "
            "that `run` answered last, not of a pool."
        ]
        assert told["requests"] == REQUESTS - 32


def test_no_time_is_predicted_for_a_cpu(folder: Path) -> None:
    told = json.loads(run(TINY, "--json").stdout)
    assert told["rest_seconds"] > 0
    assert (told["is_planned_for_it"], told["predicted_seconds"]) == (False, None)
    (folder / "out.jsonl").unlink()
    assert "predicted to take" not in " ".join(run(TINY).stdout.split())


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"])
def test_a_name_is_no_model_that_it_can_run(folder: Path, name: str) -> None:
    """What was typed is repeated, not what the table calls it."""
    done = invoke("run", "batch.jsonl", "-o", "out.jsonl", "--model", name)
    assert f"--model {name}: is a name, and run needs a Hugging Face directory" in refusal(done)


def test_the_seed_draws_the_weights(folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(i, temperature=0) for i in range(8)])
    found = []
    for seed in ("0", "0", "1"):
        assert run(TINY, "--seed", seed).exit_code == 0
        found.append({name: told(each) for name, each in results(folder).items()})
        (folder / "out.jsonl").unlink()
    assert found[0] == found[1] != found[2]


def test_it_is_for_a_cpu_and_no_directory_of_that_name(folder: Path) -> None:
    assert "--model tiny is to try run on a CPU" in complaint(TINY, "--gpu")
    (folder / NAME).mkdir()
    assert "write ./tiny for that" in complaint(TINY)
    assert not (folder / "out.jsonl").exists()


def test_its_tokens_are_bytes_and_it_has_no_weights(tmp_path: Path) -> None:
    directory = random_model(gpu=False)
    tokens = model_tokens(str(directory))
    text = "".join(map(chr, range(1, 300)))
    (ids,) = tokens.encode([text]).lists
    assert bytes(ids.tolist()) == text.encode()
    assert tokens.text([*ids.tolist(), 256, 271]) == text
    choice = choose_model(str(directory), find_model(str(directory)), gpu=False)
    assert choice.directory is None
    assert choice.config.vocab == 256 + 16


def test_it_is_shipped() -> None:
    place = REPOSITORY / "runtime" / "blendrt" / "generate"
    shipped = {
        path for each in SETUPTOOLS["package-data"]["blendrt.generate"] for path in place.glob(each)
    }
    assert shipped == set((place / NAME).iterdir())
    assert len(shipped) == 3
