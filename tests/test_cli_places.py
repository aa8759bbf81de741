"""Where commands may not write: in place of what is no plain file, or of what they read."""

import os
from pathlib import Path

import pytest
from command_line import invoke, run

from blendsim.cli.places import require_places
from blendsim.cli.run import require_files
from blendsim.errors import InputError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace, a plan of it and its simulated log."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "t.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "20,5\n" * 9)
    (folder / "c.toml").write_text("[settings]\nseed = 2\n")
    (folder / "prices.toml").write_text("")
    plan = folder / "plan.parquet"
    run("plan", "--trace", folder / "t.csv", "--planner", "fcfs", "-o", plan)
    run("simulate", plan, "-o", folder / "steps.parquet")
    return folder


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("report steps.parquet", "steps.parquet"),
        ("report steps.parquet", "./steps.parquet"),
        ("report steps.parquet", "t.csv"),
        ("report steps.parquet --plan plan.parquet", "plan.parquet"),
        ("report steps.parquet --workload t.csv", "t.csv"),
        ("simulate plan.parquet", "plan.parquet"),
        ("simulate plan.parquet", "t.csv"),
        ("replay plan.parquet --model tiny", "plan.parquet"),
        ("plan --trace t.csv", "t.csv"),
        ("plan --trace t.csv --config c.toml", "c.toml"),
        ("plan --trace t.csv --price prices.toml", "prices.toml"),
        ("plan --trace t.csv --gpu a100-80g,h200", "t.csv"),
        ("search --trace t.csv --evaluations 8", "t.csv"),
    ],
)
def test_what_a_command_reads_is_not_written_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str, output: str
) -> None:
    monkeypatch.chdir(home)
    before = Path(output).read_bytes()
    told = run(*command.split(), "-o", output, code=2)
    assert told.splitlines()[-1] == f"error: {Path(output)}: is read by this command; write to " + (
        "another file"
    )
    assert Path(output).read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        "report steps.parquet",
        "simulate plan.parquet",
        "plan --trace t.csv",
        "plan --trace t.csv --gpu a100-80g,h200",
        "search --trace t.csv --evaluations 8",
        "synth --recipe trace1 --requests 100",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_pipes_and_links_stay_what_they_are(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    monkeypatch.chdir(home)
    place, kept = tmp_path / "there", tmp_path / "kept"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        kept.write_text("kept")
        place.symlink_to(kept)
    assert f"{place}: is a {kind}" in run(*command.split(), "-o", place, code=2)
    assert place.is_fifo() if kind == "pipe" else place.is_symlink()
    assert [path.name for path in tmp_path.iterdir() if path != kept] == ["there"]


def test_link_to_nothing_and_links_to_devices_are_refused(tmp_path: Path) -> None:
    for target in ("nothing", "/dev/null"):
        place = tmp_path / "link"
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        with pytest.raises(InputError, match="is a link"):
            require_places([place], [])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two outputs"):
        require_places([tmp_path / "a", None, tmp_path / "a"], [])


def test_plain_files_may_be_replaced_and_names_of_traces_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    require_places([tmp_path / "a", tmp_path / "b"], ["demo:mixed", "x" * 5000, None, tmp_path])


def test_log_of_run_does_not_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(InputError, match="is a pipe"):
        require_files(tmp_path / "batch", tmp_path / "out", tmp_path / "log", None)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("plan --trace t.csv", "plan.csv"),
        ("plan --trace t.csv --gpu a100-80g,h200", "plan.json"),
        ("search --trace t.csv --evaluations 8", "plan.html"),
        ("simulate plan.parquet", "steps.jsonl"),
        ("replay plan.parquet --model tiny", "steps.CSV"),
        ("synth --recipe trace1 --requests 9", "trace.txt"),
        ("trace save t.csv", "trace.jsonl.gz"),
    ],
)
def test_tables_are_not_written_under_another_formats_name(
    home: Path, command: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    done = invoke(*command.split(), "-o", output)
    assert done.exit_code == 2, done.output
    assert f"error: {output}: is written as Parquet; name it .parquet" in done.stderr
    assert not Path(output).exists()


def test_a_directory_in_which_nothing_can_be_written_is_told_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    place = home / "plan2.parquet"
    with pytest.raises(InputError, match=f"nothing can be written in {home}; choose another -o"):
        require_places([place], [])
