"""A GPU that a file describes: what the file may say, and what its kernels take."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from command_line import run_json
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli_errors import complaint
from test_cli_plan import write_csv

from blendsim.errors import InputError, ProfileError
from blendsim.gpu_file import read_gpu
from blendsim.perf.measured import IMPORTED, MEASURED, chosen_model
from blendsim.perf.model import StepModel
from blendsim.perf.model_shapes import token_weight_bytes, token_weights
from blendsim.perf.plausible import peak_of
from blendsim.perf.store import load_profile
from blendsim.plan import read_plan, write_plan
from blendsim.report.matching import differing_machines
from blendsim.settings import Settings, remembered
from blendsim.specs import GPUS, LINKS, GpuSpec

FAST = 'name = "h200-fast"\nlike = "H200"\nbandwidth = 7.2e12\n'
PLAN = ("plan", "--trace", "trace.csv", "--planner", "dfs")


class World(NamedTuple):
    """A model on some GPU of the tables."""

    gpu: str
    settings: dict[str, Any]


WORLDS = {
    "dense": World("h200", {}),
    "measured": World("h200", {"profile": MEASURED, "overlap": "table"}),
    "cliffs": World("a100-80g", {}),
    "on two": World("h100", {"tp": 2}),
    "fp8": World("h100", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "nvfp4": World("b200", {"quantization": "nvfp4"}),
    "experts": World("h200", {"model": "qwen3-30b-a3b", "tp": 2}),
    "windows": World("h200", {"model": "gpt-oss-20b"}),
    "latent": World("h200", {"model": "deepseek-v3", "ep": 8, "dp": 8}),
    "linear": World("b200", {"model": "qwen3.5-9b"}),
}


def model_of(world: World, **figures: Any) -> StepModel:
    """Its step costs on a GPU that is like its own but for these figures; on its own for none."""
    asked = Settings(**{"gpu": world.gpu, "profile": IMPORTED, **world.settings})
    if figures:
        spec = replace(GPUS[world.gpu], name="described", like=world.gpu, **figures)
        asked = replace(asked, gpu="described", gpu_spec=spec)
    return chosen_model(asked.system, asked.overlap, asked.profile)


def tables_of(model: StepModel) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays and rates that steps and bounds are priced by."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name in model.tables._fields:
        value = getattr(model.tables, name)
        parts = value if isinstance(value, tuple) else (value,)
        found |= {f"{name} {i}": np.asarray(part) for i, part in enumerate(parts)}
    for field in fields(model):
        value = getattr(model, field.name)
        if isinstance(value, float | np.ndarray) and field.name != "lines":
            found[field.name] = np.asarray(value)
    return found


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
        ("memory_bytes = 1.5e11", "memory_bytes = 150000000000.0 is not of type int"),
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
        ('name = "x.toml"\nlike = "h200"', "'x.toml' is no name"),
        ("name =", "not a readable TOML file"),
    ],
)
def test_a_file_names_a_gpu_and_one_it_is_like(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        read_gpu(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_figures_take_the_same_seconds_to_the_last_digit(name: str) -> None:
    own, same = model_of(WORLDS[name]), model_of(WORLDS[name], flops=GPUS[WORLDS[name].gpu].flops)
    assert same.system.gpu.name == "described"
    if own.calibrations:  # of whole steps of the GPU's own, by which bounds go
        own = chosen_without_calibrations(own)
    mine, theirs = tables_of(own), tables_of(same)
    assert [key for key in mine if not np.array_equal(mine[key], theirs[key])] == []


def chosen_without_calibrations(model: StepModel) -> StepModel:
    beside = model.best_kernel_seconds_per_context_token
    return replace(model, calibrations=(), best_seconds_per_context_token=beside)


@pytest.mark.parametrize("name", WORLDS)
def test_twice_as_much_of_everything_takes_half_but_for_launches(name: str) -> None:
    world, base = WORLDS[name], GPUS[WORLDS[name].gpu]
    link = replace(base.link, bandwidth=2 * base.link.bandwidth, latency=base.link.latency / 2)
    peaks = {key: 2 * getattr(base, key) for key in ("flops", "fp8_flops", "fp4_flops")}
    slow, fast = model_of(world), model_of(world, **peaks, bandwidth=2 * base.bandwidth, link=link)
    for key in ("head", "decode", "prefill", "network"):
        mine, halved = getattr(fast.tables, key), getattr(slow.tables, key) / 2
        np.testing.assert_allclose(mine, halved, rtol=1e-12)
    kernels = (each.tables.layers - each.small_seconds for each in (fast, slow))
    np.testing.assert_allclose(next(kernels), next(kernels) / 2, rtol=1e-9)
    launches = 2 * fast.small_seconds[1:] - slow.small_seconds[1:]
    assert (launches > 0).all()
    assert launches[-1] == pytest.approx(launches[-1_000]), "the same however many tokens"
    if slow.tables.windows.size:
        np.testing.assert_allclose(fast.tables.windows, slow.tables.windows / 2, rtol=1e-12)


def gemm_of(bandwidth: float, flops: float, tokens: int, operator: str) -> float:
    spec = replace(GPUS["h200"], name="described", like="h200", bandwidth=bandwidth, flops=flops)
    profile = load_profile(spec, Settings().spec)
    row = profile.tokens.tolist().index(tokens)
    return float(profile.gemm[row, profile.operators.index(operator)])


def test_a_matrix_follows_the_memory_or_the_peak_whichever_binds_it() -> None:
    bandwidth, flops = GPUS["h200"].bandwidth, GPUS["h200"].flops
    one, many = gemm_of(bandwidth, flops, 1, "down"), gemm_of(bandwidth, flops, 8_192, "down")
    assert gemm_of(2 * bandwidth, flops, 1, "down") == pytest.approx(one / 2)
    assert gemm_of(bandwidth, 2 * flops, 1, "down") == one
    assert gemm_of(2 * bandwidth, flops, 8_192, "down") == many
    assert gemm_of(bandwidth, 2 * flops, 8_192, "down") == pytest.approx(many / 2)


def test_a_matrix_between_both_is_held_by_the_nearer_roof() -> None:
    """Of 128 tokens reads take 5 times the products; with 10 times the bandwidth products bind."""
    bandwidth, flops, tokens = GPUS["h200"].bandwidth, GPUS["h200"].flops, 128
    outputs, inputs = 4_096, 14_336
    moved = 2 * (outputs * inputs + tokens * (outputs + inputs))
    reads, products = moved / bandwidth, 2 * tokens * outputs * inputs / flops
    assert reads / 10 < products < reads
    now = gemm_of(10 * bandwidth, flops, tokens, "down")
    assert now == pytest.approx(gemm_of(bandwidth, flops, tokens, "down") * products / reads)


FACTORS = st.floats(0.25, 8.0)
BOTH_KINDS = st.sampled_from(["a100-80g", "h200"])  # with cliffs, and without


@settings(max_examples=20, deadline=None)
@given(flops=FACTORS, bandwidth=FACTORS, sms=st.integers(60, 300), gpu=BOTH_KINDS)
def test_no_kernel_passes_a_roof_that_it_did_not_pass_before(
    flops: float, bandwidth: float, sms: int, gpu: str
) -> None:
    base, model = GPUS[gpu], Settings().spec
    now = replace(
        base, name="described", like=gpu, flops=flops * base.flops,
        bandwidth=bandwidth * base.bandwidth, sm_count=sms,
    )  # fmt: skip
    before, after = load_profile(base, model), load_profile(now, model)
    counts = np.array(list(token_weights(model, 1).values()))
    moved = np.array(list(token_weight_bytes(model, 1).values()))
    operations = 2.0 * before.tokens[:, None] * counts
    read = 2.0 * 8 * 128 * 2 * before.decode.batches[:, None] * before.decode.lengths
    length = before.prefill.lengths
    pairs = before.prefill.batches[:, None] * length * (length + 1.0) / 2.0
    for work, rate, kernels in (
        (operations, "flops", [each.gemm for each in (before, after)]),
        (moved + 0.0 * operations, "bandwidth", [each.gemm for each in (before, after)]),
        (read, "bandwidth", [each.decode.seconds for each in (before, after)]),
        (4.0 * 32 * 128 * pairs, "flops", [each.prefill.seconds for each in (before, after)]),
    ):
        was_below = work / kernels[0] <= getattr(base, rate)
        assert was_below.sum() > 100
        assert (work / kernels[1])[was_below].max() <= getattr(now, rate) * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(low=FACTORS, more=st.floats(1.0, 4.0), name=st.sampled_from(sorted(WORLDS)))
def test_more_bandwidth_makes_no_kernel_slower(low: float, more: float, name: str) -> None:
    world, own = WORLDS[name], GPUS[WORLDS[name].gpu].bandwidth
    slow, fast = (model_of(world, bandwidth=low * own * each) for each in (1.0, more))
    before, after = tables_of(slow), tables_of(fast)
    assert [key for key in before if (after[key] > before[key] * (1 + 1e-12)).any()] == []


def test_cliffs_of_attention_lie_where_the_sms_put_them() -> None:
    """An A100 runs 216 blocks at once: 27 requests of 8 KV heads fill a wave, and the 28th begins
    another. With half of the SMs a wave is 13.5 requests.
    """
    world = WORLDS["cliffs"]
    own, half = (model_of(world, **figures).tables.decode for figures in ({}, {"sm_count": 54}))
    step = [(rows[14] / rows[13])[-4] for rows in (own, half)]
    assert step[1] > 1.05 * step[0]
    steps = [(rows[28] / rows[27])[-4] for rows in (own, half)]
    assert steps[0] > 1.05


def test_a_faster_link_shortens_all_reduces_alone() -> None:
    world, link = WORLDS["on two"], GPUS["h100"].link
    own = model_of(world)
    fast = model_of(world, link=replace(link, bandwidth=2 * link.bandwidth))
    assert np.array_equal(fast.tables.layers, own.tables.layers)
    assert fast.tables.network[-1] == pytest.approx(own.tables.network[-1] / 2)
    assert fast.tables.network[1] == own.tables.network[1], "a small one waits for the latency"
    assert peak_of(fast.system.gpu, "bf16") == peak_of(own.system.gpu, "bf16")


def test_by_itself_imported_kernels_are_scaled_and_the_overlap_is_the_table() -> None:
    """Overlap and whole steps were measured of an H200, and of it alone."""
    found = model_of(World("h200", {"profile": "auto"}), bandwidth=7.2e12)
    assert np.array_equal(
        found.tables.decode, model_of(WORLDS["dense"], bandwidth=7.2e12).tables.decode
    )
    assert (found.overlap, found.calibrations) == ("table", ())
    measured = model_of(World("h200", {"profile": MEASURED}), bandwidth=7.2e12)
    assert (measured.overlap, measured.calibrations, measured.measured) == ("table", (), ())
    assert not np.array_equal(measured.tables.decode, found.tables.decode)
    with pytest.raises(ProfileError, match="no overlap is measured yet for described"):
        model_of(World("h200", {"profile": MEASURED, "overlap": "fit"}), bandwidth=7.2e12)


def test_settings_keep_what_the_file_says(folder: Path) -> None:
    asked = Settings(gpu="fast.toml")
    assert (asked.gpu, asked.system.gpu.bandwidth) == ("h200-fast", 7.2e12)
    (folder / "fast.toml").unlink()
    assert replace(asked, tp=2).system.gpu == asked.system.gpu
    assert remembered(asdict(asked), "plan") == asked
    assert replace(asked, gpu="H200") == Settings(gpu="h200")


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
