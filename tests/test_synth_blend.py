"""The pools that come out: targets met, nothing twice, real files where there are some."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmlu import needs_mmlu
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.errors import InputError, UnknownName
from blendsim.perf.density import closed_form, table_density
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.settings import Settings
from blendsim.synth.blend import Blend, blend
from blendsim.synth.recipes import GRID_SOURCES, RECIPES, Recipe, grid
from blendsim.synth.sources import open_source
from blendsim.traces.summary import summary
from blendsim.traces.workload_file import read_workload, write_workload

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SYSTEM = Settings().system
SMALL = Recipe(1.4, 0.35, 6000)

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real traces not beside the checkout")


def made(recipe: Recipe, data: Path | None = None) -> Blend:
    return blend(recipe, SYSTEM, data)


def reaches(found: Blend, recipe: Recipe) -> None:
    """Both targets within 1 %, recounted from the pool by other code than the solver's."""
    told = summary(found.workload)
    costs = closed_form(SYSTEM, found.workload.prompt_len, found.workload.output_len)
    density = table_density(costs, told["sharing_ratio"])
    assert density == pytest.approx(recipe.density, rel=0.01)
    assert told["sharing_ratio"] == pytest.approx(recipe.sharing, rel=0.01)
    assert found.reached == pytest.approx((density, told["sharing_ratio"]))
    assert len(found.workload) == recipe.requests == sum(row.requests for row in found.rows)


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipe_at_a_tenth_of_its_size_reaches_both_targets(name: str) -> None:
    recipe = replace(RECIPES[name], requests=40_000)
    reaches(made(recipe), recipe)


@pytest.mark.parametrize("source", GRID_SOURCES)
@pytest.mark.parametrize("corner", [0, 4, 60, 64])
def test_grid_corner_reaches_both_targets(source: str, corner: int) -> None:
    recipe = grid(source)[corner]
    assert made(recipe).reached.error(recipe) <= 0.01


@pytest.mark.slow
def test_full_size_reaches_both_targets() -> None:
    reaches(made(RECIPES["trace1"]), RECIPES["trace1"])


@needs_data
@pytest.mark.parametrize("source", GRID_SOURCES)
def test_real_files_reach_both_targets(source: str) -> None:
    recipe = grid(source)[32]
    reaches(made(recipe, DATA), recipe)


@needs_data
@needs_mmlu
def test_rows_say_which_source_was_a_file_and_which_a_generator() -> None:
    origins = {row.source: row.origin for row in made(grid("azure")[40], DATA).rows}
    assert origins["openvid"] == "generator demo:openvid"
    assert origins["azure"].startswith(
        "file AzureLLMInferenceTrace_code.csv.gz, sha256 b99df47b5e34"
    )
    assert origins["mmlu"].startswith("file mmlu_5shot_llama3_tokens.npz")
    assert "14,015 distinct prompts" in origins["mmlu"]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_workload(made(SMALL).workload, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_workload(made(replace(SMALL, seed=1)).workload, tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_only_video_lengths_are_known() -> None:
    workload = made(SMALL).workload
    video = workload.source == workload.source_names.index("openvid")
    assert np.array_equal(workload.is_known, video)
    assert workload.has_output.all()


def test_sources_share_nothing_with_each_other() -> None:
    found = made(SMALL)
    alone = sum(row.sharing * row.input_tokens for row in found.rows)
    whole = summary(found.workload)
    assert whole["sharing_ratio"] * whole["input_tokens"] == pytest.approx(alone)


def test_system_prompt_is_all_that_a_length_source_shares() -> None:
    supply = open_source("burstgpt", None, 0, 7)
    workload = supply.requests(50, 0)
    assert summary(workload)["sharing_ratio"] * workload.prompt_len.sum() == pytest.approx(49 * 7)
    assert supply.draw(50, 0).shared == 49 * 7
    assert (workload.prompt_len > 7).all()


@pytest.mark.parametrize("n", [1, 300, 14_042, 20_000])
@pytest.mark.parametrize("data", [None, pytest.param(DATA, marks=needs_mmlu)])
def test_questions_never_repeat_and_share_what_the_supply_counts(n: int, data: Path | None) -> None:
    supply = open_source("mmlu", data, 3, 5)
    workload, drawn = supply.requests(n, 1), supply.draw(n, 1)
    told = summary(workload)
    assert drawn.shared == round(told["sharing_ratio"] * told["input_tokens"])
    assert np.array_equal(drawn.prompt, workload.prompt_len)
    ends = workload.prompts.offsets
    # A prompt that is listed to its end could be another's twin; one that is not has its own rest.
    whole = np.flatnonzero(np.diff(ends) == workload.prompt_len)
    texts = {workload.prompts.units[ends[row] : ends[row + 1]].tobytes() for row in whole}
    assert len(texts) == len(whole)
    assert (np.diff(ends) <= workload.prompt_len).all()


def test_new_questions_keep_the_length_and_sharing_of_the_old() -> None:
    supply = open_source("mmlu", None, 0, 5)
    old, both = supply.draw(14_042, 0), supply.draw(28_084, 0)
    assert both.prompt[14_042:].mean() == pytest.approx(old.prompt.mean())
    assert both.shared / both.prompt.sum() == pytest.approx(old.shared / old.prompt.sum(), rel=0.02)


def test_file_rows_come_once_before_any_comes_again(tmp_path: Path) -> None:
    (tmp_path / "BurstGPT_1.csv").write_text(
        "Timestamp,Request tokens,Response tokens\n1,10,1\n2,20,2\n3,30,3\n"
    )
    prompt, output, _ = open_source("burstgpt", tmp_path, 0, 0).draw(7, 0)
    assert sorted(prompt[:3].tolist()) == sorted(prompt[3:6].tolist()) == [10, 20, 30]
    assert np.array_equal(prompt, output * 10)


def test_real_video_frames_are_normalised(tmp_path: Path) -> None:
    (tmp_path / "OpenVid-1M.csv").write_text('video,caption,frame\na,"x, y",100\nb,z,300\n')
    drawn = open_source("openvid", tmp_path, 0, 0).draw(2, 0)
    assert sorted(drawn.output.tolist()) == [8192, 24576]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("OpenVid-1M.csv", "video,seconds\na,1\n", "no column 'frame'"),
        ("OpenVid-1M.csv", "video,frame\na,0\n", "one frame or more"),
        ("mmlu_5shot_llama3_tokens.npz", "not numpy", "not a file of MMLU prompts"),
        ("sharegpt.csv", '{"body": {}, "custom_id": "1"}\n', "sharegpt.csv"),
    ],
)
def test_broken_source_files_are_refused(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    source = {"O": "openvid", "m": "mmlu", "s": "sharegpt"}[name[0]]
    with pytest.raises(InputError, match=why):
        open_source(source, tmp_path, 0, 5)


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="burstgpt"):
        open_source("burst", None, 0, 5)


def test_too_few_requests_are_refused_with_a_reason() -> None:
    with pytest.raises(InputError, match="too few"):
        made(Recipe(1.4, 0.35, 20))


def synth(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["synth", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_command_writes_the_workload_it_tells_of(tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    code, out, _ = synth("--recipe", "trace3", "--requests", "9000", "-o", str(path), "--json")
    told = json.loads(out)
    workload = read_workload(path)
    assert code == 0
    assert told["requests"] == len(workload) == 9000
    assert told["input_tokens"] == workload.prompt_len.sum()
    assert told["density"] == pytest.approx(1.4, rel=0.01)
    assert told["sharing_ratio"] == pytest.approx(0.05, rel=0.01)
    in_blocks = shareable_tokens(workload, sort_prompts(workload), 16)
    assert told["block_tokens"] == 16
    assert told["block_sharing_ratio"] == in_blocks / workload.prompt_len.sum()
    assert told["block_sharing_ratio"] == pytest.approx(0.032, rel=0.03)  # as the page says
    of_rows = [row["block_sharing_ratio"] * row["input_tokens"] for row in told["rows"]]
    assert sum(of_rows) == pytest.approx(in_blocks)
    assert [row["origin"] for row in told["rows"]] == [
        "generator demo:burstgpt",
        "generator demo:mmlu",
        "generator demo:openvid",
    ]
    assert any(
        "9,000" not in note and "from generator demo:mmlu" in note for note in workload.notes
    )


def test_command_prints_a_line_a_source() -> None:
    code, out, _ = synth("--density", "1.2", "--sharing", ".2", "--requests", "9000")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:6]] == [
        "burstgpt",
        "mmlu",
        "openvid",
        "all",
    ]
    assert "burstgpt: generator demo:burstgpt" in out
    titles, *rows = (line.split() for line in (out.splitlines()[0], *out.splitlines()[2:6]))
    assert titles[-3:] == ["sharing", "in", "blocks"]
    assert rows[0][-1] == "0.0000"  # a system prompt of 5 tokens fills no block
    assert 0.18 < float(rows[-1][-1]) < float(rows[-1][-2]) == pytest.approx(0.2, rel=0.01)
    assert "in blocks: in full KV blocks of 16 tokens" in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--density", "1.4"), "give --recipe"),
        (("--recipe", "trace7"), "unknown recipe"),
        (("--density", "80", "--sharing", ".3"), "out of reach"),
        (("--recipe", "trace1", "--data", "nowhere"), "no such directory"),
        (("--recipe", "trace1", "--sources", "mmlu,openvid"), "three different"),
        (("--recipe", "trace1", "-o", "nowhere/w.parquet"), "does not exist"),
    ],
)
def test_command_refuses_in_one_line(arguments: tuple[str, ...], why: str) -> None:
    code, out, err = synth(*arguments)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
