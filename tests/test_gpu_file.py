"""A GPU that a file describes: what the file may say, and what its kernels take."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from command_line import run, run_json
from test_cli_errors import complaint
from test_cli_plan import write_csv

from blendsim.errors import InputError
from blendsim.gpu_file import read_gpu
from blendsim.plan import read_plan, write_plan
from blendsim.report.matching import differing_machines
from blendsim.settings import Settings, remembered
from blendsim.specs import GPUS, LINKS, GpuSpec

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "profiles.md").read_text()
SECTION = PAGE.split("\n## A GPU described by a file\n")[1].split("\n## ")[0]
FAST = 'name = "h200-fast"\nlike = "H200"\nbandwidth = 7.2e12\n'
PLAN = ("plan", "--trace", "trace.csv", "--planner", "dfs")


def written(folder: Path, text: str, name: str = "fast.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trace and a GPU in it."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "trace.csv")
    written(tmp_path, FAST)
    return tmp_path


def test_what_a_file_leaves_out_is_as_of_the_gpu_it_is_like(tmp_path: Path) -> None:
    found = read_gpu(written(tmp_path, FAST))
    assert found == replace(GPUS["h200"], name="h200-fast", like="h200", bandwidth=7.2e12)


def test_a_file_says_every_figure(tmp_path: Path) -> None:
    text = 'name = "b300"\nlike = "b200"\nflops = 2.5e15\nfp8_flops = 5e15\nfp4_flops = 14e15\n'
    text += "bandwidth = 8e12\nmemory_bytes = 288_000_000_000\nsm_count = 160\nlink = "
    link = LINKS["nvlink5"]
    expected = GpuSpec("b300", 2.5e15, 8e12, 288_000_000_000, 160, link, 5e15, 14e15, "b200")
    assert read_gpu(written(tmp_path, text + '"nvlink5"\n')) == expected
    slow = replace(link, bandwidth=1e12)  # its latency, and that it is no bus, stay
    own = read_gpu(written(tmp_path, text + "{bandwidth = 1e12}\n"))
    assert own == replace(expected, link=slow)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bandwith = 7e12", "no setting 'bandwith'; nearest known: bandwidth"),
        ('bandwidth = "7e12"', "bandwidth = '7e12' is not of type float"),
        (
            "memory_bytes = 1.5e11",
            "memory_bytes = 150000000000.0 is not of type int; write 150_000_000_000",
        ),
        ("bandwidth = 7.2", "bandwidth = 7.2 is not within 1,000 times either way of 4.8e+12"),
        ("flops = -1", "flops = -1 is not within"),
        ("sm_count = 0", "sm_count = 0 is not within"),
        ("fp8_flops = nan", "fp8_flops = nan is not finite"),
        ("fp4_flops = 4e15", "h200 has no kernels in fp4 to scale; leave it out"),
        ('link = "nvlink9"', "unknown link 'nvlink9'"),
        ("link = 5", "link = 5 is not of type Link"),
        ("link = {bandwith = 5}", "no setting 'bandwith'"),
        ("link = {bandwidth = 0}", "link 'nvlink4': 0 bytes/s"),
        ("link = {bandwidth = 900}", "link bandwidth = 900 is not within"),
    ],
)
def test_what_a_file_cannot_mean_is_told(tmp_path: Path, line: str, words: str) -> None:
    path = written(tmp_path, f'name = "x"\nlike = "h200"\n{line}\n')
    with pytest.raises(InputError) as caught:
        read_gpu(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('like = "h200"', "name is missing"),
        ('name = "x"', "like is missing"),
        ('name = "x"\nlike = 5', "like is missing"),
        ('name = "x"\nlike = "h2000"', "unknown GPU 'h2000'"),
        ('name = "H200-SXM"\nlike = "h200"', "is the h200 of the tables"),
        ('name = "a,b"\nlike = "h200"', "'a,b' is no name"),
        ('name = ".."\nlike = "h200"', "'..' is no name"),
        ('name = "x.toml"\nlike = "h200"', "'x.toml' is no name"),
        ("name =", "not a readable TOML file"),
    ],
)
def test_a_file_names_a_gpu_and_one_it_is_like(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        read_gpu(path)
    assert str(caught.value).startswith(str(path))


def test_settings_keep_what_the_file_says(folder: Path) -> None:
    asked = Settings(gpu="fast.toml")
    assert (asked.gpu, asked.system.gpu.bandwidth) == ("h200-fast", 7.2e12)
    (folder / "fast.toml").unlink()
    assert replace(asked, tp=2).system.gpu == asked.system.gpu
    assert remembered(asdict(asked), "plan") == asked
    assert replace(asked, gpu="H200") == Settings(gpu="h200")


def test_an_engine_goes_by_what_the_gpu_is_like_and_not_by_its_name(tmp_path: Path) -> None:
    """vLLM has fewer tokens a step on an A100 than on other GPUs of its size."""
    path = written(tmp_path, FAST.replace("h200-fast", "no-a100"))
    budgets = {
        gpu: Settings(gpu=gpu, engine="vllm").flavour().token_budget
        for gpu in (str(path), "h200", "a100-80g")
    }
    assert budgets[str(path)] == budgets["h200"] > budgets["a100-80g"]


def test_a_description_in_settings_is_checked_as_a_file_is() -> None:
    spec = replace(GPUS["h200"], name="h200x", like="h200", bandwidth=1.0)
    with pytest.raises(InputError, match="bandwidth = 1 is not within 1,000 times"):
        Settings(gpu="h200x", gpu_spec=spec)
    values = asdict(replace(spec, bandwidth=5e12))
    del values["link"]["bandwidth"]
    with pytest.raises(InputError, match=r"^plan: gpu_spec: link: bandwidth is missing"):
        remembered({"gpu": "h200x", "gpu_spec": values}, "plan")


def test_a_plan_is_simulated_when_the_file_is_gone(folder: Path) -> None:
    made = run_json(*PLAN, "--gpu", "fast.toml", "-o", "plan.parquet")
    (folder / "fast.toml").unlink()
    again = run_json("simulate", "plan.parquet", "-o", "steps.parquet")
    assert again["seconds"] == made["seconds"]
    assert run_json("report", "steps.parquet")["losses"] is not None
    own = run_json("simulate", "plan.parquet", "--gpu", "h200", "--profile", "imported")
    assert own["seconds"] > made["seconds"]
    text = 'name = "h200-fast"\nlike = "h200"\nbandwidth = 9.6e12\n'
    written(folder, text, "faster.toml")
    faster = run_json("simulate", "plan.parquet", "--gpu", f"../{folder.name}/faster.toml")
    assert faster["seconds"] < made["seconds"]


def test_a_plan_whose_description_is_damaged_is_refused(folder: Path) -> None:
    run_json(*PLAN, "--gpu", "fast.toml", "-o", "plan.parquet")
    plan = read_plan(folder / "plan.parquet")
    kept = plan.meta["settings"]
    spec = {**kept["gpu_spec"], "like": "h3000"}
    meta = {**plan.meta, "settings": {**kept, "gpu_spec": spec}}
    write_plan(replace(plan, meta=meta), folder / "plan.parquet")
    line = complaint(folder, "simulate", "plan.parquet")
    assert line.startswith("error: plan.parquet: unknown GPU 'h3000'")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "command",
    [
        PLAN,
        ("compare", "--trace", "trace.csv", "--engines", "vllm"),
        ("search", "--trace", "trace.csv", "--evaluations", "4"),
        (*PLAN, "--dp", "1,2"),
    ],
)
def test_every_command_says_that_kernels_are_scaled(command: tuple[str, ...]) -> None:
    notes = run_json(*command, "--gpu", "fast.toml")["notes"]
    (told,) = [note for note in notes if note.startswith("nothing was measured of h200-fast")]
    assert "those of h200 (profile imported)" in told
    assert "bandwidth × 1.5" in told


def test_a_config_file_names_the_file(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\ngpu = "fast.toml"\n')
    by_option = run_json(*PLAN, "--gpu", "fast.toml")
    assert run_json(*PLAN, "--config", "c.toml")["seconds"] == by_option["seconds"]
    (folder / "c.toml").write_text('[settings]\ngpu = "none.toml"\n')
    line = complaint(folder, *PLAN, "--config", "c.toml")
    assert line == "error: c.toml: [settings]: none.toml: no such file; check --gpu"


def test_a_config_file_does_not_describe_one_itself(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings.gpu_spec]\nname = "h200-fast"\n')
    line = complaint(folder, *PLAN, "--config", "c.toml")
    assert line == (
        "error: c.toml: [settings]: gpu_spec is what plans keep; describe a GPU in a file and name "
        'it, as in gpu = "FILE.toml"'
    )


@pytest.mark.usefixtures("folder")
def test_densities_follow_the_figures() -> None:
    told = [
        run_json("trace", "info", "trace.csv", "--gpu", gpu)["density"]
        for gpu in ("h200", "fast.toml")
    ]
    assert told[1] == pytest.approx(1.5 * told[0])


def test_systems_are_compared_and_priced_by_name(folder: Path) -> None:
    (folder / "p.toml").write_text('currency = "EUR"\n[gpu_hour]\nh200 = 4\nh200-fast = 5\n')
    told = run_json(*PLAN, "--gpu", "h200,fast.toml", "--price", "p.toml")
    assert {row["gpu"]: row["cost"] > 0 for row in told["rows"]} == {
        "h200": True,
        "h200-fast": True,
    }
    seconds = {row["gpu"]: row["seconds"] for row in told["rows"]}
    assert seconds["h200-fast"] < seconds["h200"]
    own = run_json(*PLAN, "--gpu", "h200", "--profile", "imported")["seconds"]
    assert seconds["h200"] == own, "both by imported kernels"
    (folder / "p.toml").write_text('currency = "EUR"\n[gpu_hour]\nh200 = 4\n')
    line = complaint(folder, *PLAN, "--gpu", "h200,fast.toml", "--price", "p.toml")
    assert "no price for h200-fast" in line


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    written(folder, FAST.replace("7.2", "9.6"), "other.toml")
    line = complaint(folder, *PLAN, "--gpu", "fast.toml,other.toml")
    assert line == "error: --gpu fast.toml,other.toml has two called h200-fast; rename one"


def test_the_file_is_not_written_over(folder: Path) -> None:
    line = complaint(folder, *PLAN, "--gpu", "fast.toml", "-o", "fast.toml")
    assert line == "error: fast.toml: is read by this command; write to another file"
    assert (folder / "fast.toml").read_text() == FAST


def test_no_device_is_a_gpu_that_a_file_describes(folder: Path) -> None:
    simulated = {"settings": asdict(Settings(gpu="fast.toml"))}
    machine = {"machine": {"device": "NVIDIA H200"}}
    told = differing_machines(simulated, machine)
    assert told == ["the GPU simulated is h200-fast, NVIDIA H200 was measured"]
    assert differing_machines({"settings": asdict(Settings(gpu="h200"))}, machine) == []


def test_the_example_of_the_page_runs_as_it_is_shown(folder: Path) -> None:
    written(folder, SECTION.split("```toml\n")[1].split("```")[0], "h200-fast.toml")
    command, *shown = SECTION.split("```console\n$ blendsim ")[1].split("\n```")[0].splitlines()
    told = [line.split() for line in run(*command.split()).splitlines()]
    assert len(shown) == 4
    assert [line for line in shown if line.split() not in told] == []


@pytest.mark.usefixtures("folder")
def test_how_far_off_the_page_says_it_is(folder: Path) -> None:
    """An H200 foretold from an H100, which is the same chip with slower memory."""
    (row,) = (line for line in SECTION.splitlines() if line.startswith("| H200 | H100, "))
    text = f'name = "foretold"\nlike = "h100"\nbandwidth = {GPUS["h200"].bandwidth}\n'
    written(folder, f"{text}memory_bytes = {GPUS['h200'].memory_bytes}\n", "foretold.toml")
    found = []
    for gpu in ("foretold.toml", "h200"):
        asked = ("plan", "--trace", "demo:mixed", "--profile", "imported", "--gpu", gpu)
        seconds = {each["policy"]: each["seconds"] for each in run_json(*asked)["rows"]}
        found += [f"{seconds[policy]:,.1f}" for policy in ("dfs", "blend", "paced")]
    assert [cell.strip() for cell in row.split("|")[3:9]] == found
