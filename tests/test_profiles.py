"""The committed profiles and their importer: what is shipped, whence, and what is refused."""

import importlib.util
import os
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.errors import InputError, ProfileError, Unavailable, UnknownName
from blendsim.perf import package
from blendsim.perf.atlas import STATED, read_atlas, write_atlas
from blendsim.perf.calibration import file_of
from blendsim.perf.derive import derive_profile
from blendsim.perf.importer import SHIPPED, import_profiles, sensible_tp
from blendsim.perf.kernels import memory_seconds, prefill_seconds
from blendsim.perf.model import step_model
from blendsim.perf.overlap import default_overlap
from blendsim.perf.records import read_rows, read_toml, write_toml
from blendsim.perf.small import layer_bytes, small_seconds
from blendsim.perf.store import (
    OVERLAP_FILE,
    load_profile,
    profiles_directory,
    read_profile,
    write_profile,
)
from blendsim.serving.flavour import RUNTIMES
from blendsim.specs import GPUS, MODELS, ModelSpec, find_gpu, find_model
from blendsim.system import System

ROOT = profiles_directory()
A100, H200 = find_gpu("a100-80g"), find_gpu("h200")
LLAMA = find_model("llama-3.1-8b")
SMALL = ModelSpec("small", 16, 2048, 8192, 32, 8, 64, 128_256, 131_072)  # Llama-3.2-1B's sizes


def files_of(directory: Path) -> dict[str, bytes]:
    found = directory.rglob("*")
    return {str(p.relative_to(directory)): p.read_bytes() for p in found if p.is_file()}


def test_every_gpu_has_every_shipped_model_at_every_sensible_size():
    have = {(p.parts[-3], p.parts[-2], p.parts[-1]) for p in ROOT.glob("*/*/tp*")}
    want = {
        (gpu.name, model.name, f"tp{tp}")
        for gpu in GPUS.values()
        for model in (MODELS[name] for name in SHIPPED)
        for tp in sensible_tp(model, gpu)
    }
    assert have == want


CUT = ("llama-3.2-3b", "qwen-2.5-14b", "qwen-2.5-32b", "qwen3-4b", "qwen3-14b", "mistral-7b")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", [*CUT, "mistral-small-3.1-24b", "phi-4"])
def test_dense_models_without_tables_of_their_own_are_priced_on_every_gpu(name, gpu):
    """In bf16 on one and two GPUs where it fits, and in fp8 where the GPU computes in it. A prompt
    takes no less than its products do at the peak.
    """
    assert name not in SHIPPED
    model, chip, tokens = MODELS[name], GPUS[gpu], 8192
    ways = [(model, tp) for tp in sensible_tp(model, chip) if tp <= 2]
    if chip.fp8_flops:
        ways.append((model.in_format("fp8", "fp8"), 1))
    assert ways
    for each, tp in ways:
        seconds = step_model(System(each, chip, tp)).layer_seconds[tokens]
        products = 2.0 * each.all_matrix_parameters * tokens / tp
        assert products / chip.flops_in(each.weights) < seconds, (tp, each.label)


@pytest.mark.parametrize(
    ("name", "gpu", "tp", "quantization", "is_apart"),
    [
        ("qwen3-30b-a3b-2507", "a100-80g", 1, "none", False),
        ("qwen3-235b-a22b-2507", "h100", 4, "fp8-block", False),
        ("qwen3-coder-480b-a35b", "h100", 8, "fp8-block", True),
        ("qwen3-coder-480b-a35b", "h200", 8, "none", False),
        ("qwen3-coder-480b-a35b", "h200", 4, "fp8-block", False),
        ("qwen3-coder-480b-a35b", "b200", 4, "fp8", False),
    ],
)
def test_mixtures_of_measured_experts_are_priced(name, gpu, tp, quantization, is_apart):
    model = replace(MODELS[name].in_format(quantization, "auto"), expert_parallel=is_apart)
    priced = step_model(System(model, GPUS[gpu], tp))
    products = 2.0 * (model.active_parameters - 2 * model.vocab * model.hidden) * 8192 / tp
    assert priced.layer_seconds[8192] > products / GPUS[gpu].flops_in(model.weights)


@pytest.mark.parametrize("gpu", GPUS)
def test_committed_profiles_are_what_the_kernels_give(gpu, tmp_path):
    """Nothing under a model's name was edited: cutting it out again gives the same bytes."""
    kernels = read_atlas(ROOT / gpu / "kernels")
    for place in sorted((ROOT / gpu).glob("*/tp*")):
        model, tp = MODELS[place.parent.name], int(place.name[2:])
        write_profile(derive_profile(kernels, GPUS[gpu], model, tp), tmp_path / "again")
        committed = files_of(place)
        committed.pop("overlap.csv", None)  # measured, not derived
        assert files_of(tmp_path / "again") == committed, place
        shutil.rmtree(tmp_path / "again")


def test_measured_profiles_are_those_of_a_run_that_is_kept():
    """And no step model reads them unasked: `fit` on this GPU would mean them."""
    runs = ROOT.parent / "bench" / "results"
    shipped = list(ROOT.glob("*/measured/*/tp*"))
    assert shipped
    for place in shipped:
        gpu, _, model, size = place.parts[-4:]
        kept = runs.glob(f"{gpu}/*/profiles/{gpu}/{model}/{size}")
        tables = files_of(place)
        for runtime in RUNTIMES:
            tables.pop(file_of(runtime), None)  # a calibration: tests/test_evidence_calibrated.py
        assert tables in [files_of(run) for run in kept], place
        assert default_overlap(System(MODELS[model], GPUS[gpu], int(size[2:]))) == "table"


def test_profiles_are_small_enough_to_ship():
    sizes = [len(content) for content in files_of(ROOT).values()]
    # 0.3e6 of it are Qwen3.5's gated delta nets and attention heads of 256 values on four GPUs.
    assert sum(sizes) < 7e6
    assert max(sizes) < 1e6


@pytest.mark.parametrize("gpu", GPUS)
def test_provenance_is_stated_and_one_backend_serves_all(gpu):
    meta = read_atlas(ROOT / gpu / "kernels").meta
    assert meta["source"].startswith("aiconfigurator_core 0.12.0")
    assert meta["backend"] == "vllm"
    tables = {"gemm", "decode_attention", "prefill_attention", "all_reduce"}
    assert set(meta["tables"]) == tables
    more = dict(meta["more_tables"])
    exchanges = more.pop("gather_scatter")  # NCCL's, which every backend calls
    assert exchanges.startswith("nccl 2.2")
    assert "126 rows, kernel NCCL, sha256" in exchanges
    told = [*meta["tables"].values(), *more.values()]
    assert all(text.startswith("vllm 0.") and "sha256" in text for text in told)
    files = {path.stem for path in (ROOT / gpu / "kernels").glob("*.csv")}
    assert files == set(meta["tables"]) | set(meta["more_tables"])
    assert meta["routing"].startswith("experts.csv: power_law_1.2,")


@pytest.mark.parametrize("gpu", GPUS)
def test_no_measured_gemm_exceeds_the_chips_peak(gpu):
    grid = read_atlas(ROOT / gpu / "kernels").gemms["bf16"]
    work = 2.0 * grid.outputs[:, None, None] * grid.inputs[:, None] * grid.tokens
    assert np.nanmax(work / grid.seconds) < GPUS[gpu].flops


@pytest.mark.parametrize("gpu", GPUS)
def test_an_atlas_survives_writing_and_reading(gpu, tmp_path):
    write_atlas(read_atlas(ROOT / gpu / "kernels"), tmp_path)
    assert files_of(tmp_path) == files_of(ROOT / gpu / "kernels")


def test_a_profile_survives_writing_and_reading(tmp_path):
    place = ROOT / "h200" / "llama-3.1-70b" / "tp4"
    write_profile(read_profile(place), tmp_path)
    assert files_of(tmp_path) == files_of(place)


@pytest.mark.parametrize("gpu", GPUS)
def test_every_profile_prices_small_and_odd_steps_at_no_less_than_its_best_rates(gpu):
    """Grids begin at 2 requests, or at 16 tokens: what lies below is extrapolated."""
    for place in sorted((ROOT / gpu).glob("*/tp*")):
        model = MODELS[place.parent.name]
        priced = step_model(System(model, GPUS[gpu], int(place.name[2:])), "table")
        for requests in (1, 2, 3, 7, 33):
            for length in (1, 2, 15, 17, 100, 3000):
                pairs = requests * length * (length + 1) // 2
                least = pairs * priced.best_prefill_seconds_per_pair
                seconds = prefill_seconds(priced.tables, requests * length, requests, pairs)
                assert seconds >= least * (1 - 1e-9), (place, requests, length)
                reads = requests * length * priced.best_seconds_per_context_token
                found = memory_seconds(priced.tables, requests, requests * length)
                assert found >= reads * (1 - 1e-9), (place, requests, length)


def test_norms_of_queries_and_keys_are_paid_for():
    plain = System(replace(find_model("qwen3-8b"), qk_norm=False), A100)
    normed = System(find_model("qwen3-8b"), A100)
    moved = 2 * 2 * (32 + 8) * 128  # bf16, read and written
    assert sum(layer_bytes(normed)) - sum(layer_bytes(plain)) == moved
    assert step_model(normed).small_seconds[1] > step_model(plain).small_seconds[1]


def test_kv_is_written_once() -> None:
    """Where attention was timed with the write, the small operators leave it out."""
    for gpu in GPUS:
        system = System(MODELS["llama-3.1-8b"], GPUS[gpu])
        profile = load_profile(system.gpu, system.model)
        figures = profile.meta["small_operators"]
        assert figures["attention_writes_kv"] == (gpu != "a100-80g")
        apart = replace(profile, meta={**profile.meta, "small_operators": {**figures}})
        apart.meta["small_operators"]["attention_writes_kv"] = False
        token = np.array([1])
        spared = (small_seconds(system, apart, token) - small_seconds(system, profile, token))[0]
        write = 2 * 8 * 128 * 2 * 2 / (0.8 * system.gpu.bandwidth)
        expected = 0.0 if gpu == "a100-80g" else 32 * (3e-6 + write)
        assert spared == pytest.approx(expected, abs=1e-12)


def test_a_model_of_known_shape_takes_that_models_tables():
    twin = replace(LLAMA, name="my-finetune", layers=40)
    profile = load_profile(A100, twin)
    assert profile.model == "my-finetune"
    assert np.array_equal(profile.gemm, load_profile(A100, LLAMA).gemm)


def test_a_model_of_unknown_shape_is_cut_from_the_gpus_kernels():
    profile = load_profile(H200, SMALL)
    assert "decode attention 32/8/64: measured" in profile.notes
    model = step_model(System(SMALL, H200), "table")
    weights = 2 * SMALL.layers * SMALL.layer_parameters
    assert model.layer_seconds[1] > weights / H200.bandwidth
    assert 0 < model.best_layer_seconds_per_token * H200.flops < 8 * SMALL.parameters


def test_a_head_size_that_was_not_measured_says_so():
    notes = load_profile(A100, SMALL).notes
    assert "decode attention 32/8/64: measured, head size 128 scaled to 64" in notes


def test_a_model_whose_name_is_taken_by_another_shape_gets_its_own_tables():
    other = replace(SMALL, name="llama-3.1-8b", head_dim=64)
    assert not np.array_equal(load_profile(H200, other).gemm, load_profile(H200, LLAMA).gemm)


def test_an_unprofiled_gpu_names_those_there_are():
    with pytest.raises(
        ProfileError, match=r"no profile for mi300x; there are a100-80g, b200, h100"
    ):
        load_profile(replace(A100, name="mi300x"), LLAMA)


def test_a_missing_profile_names_what_is_there(tmp_path):
    shutil.copytree(ROOT / "h200" / "llama-3.1-8b", tmp_path / "h200" / "llama-3.1-8b")
    with pytest.raises(
        ProfileError, match=r"no profile for small tp1 and no kernels/ .* there are"
    ):
        load_profile(H200, SMALL, directory=tmp_path)


def test_a_missing_profile_names_five_of_many_and_a_count(tmp_path):
    for model in ("llama-3.1-8b", "qwen3-8b"):
        shutil.copytree(ROOT / "h200" / model, tmp_path / "h200" / model)
    with pytest.raises(ProfileError) as caught:
        load_profile(H200, SMALL, directory=tmp_path)
    assert str(caught.value).endswith(
        "; there are llama-3.1-8b/tp1, llama-3.1-8b/tp2, llama-3.1-8b/tp4, llama-3.1-8b/tp8, "
        "qwen3-8b/tp1 and 3 more"
    )


def test_an_unknown_schema_version_is_refused(tmp_path):
    shutil.copytree(ROOT / "h200" / "llama-3.1-8b" / "tp1", tmp_path / "tp1")
    path = tmp_path / "tp1" / "meta.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 9", 1))
    with pytest.raises(ProfileError, match="version 9, this blendsim reads 'profile' version 1"):
        read_profile(tmp_path / "tp1")


def test_a_broken_table_names_its_line(tmp_path):
    shutil.copytree(ROOT / "h200" / "llama-3.1-8b" / "tp1", tmp_path / "tp1")
    path = tmp_path / "tp1" / "gemm.csv"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace(",", ",x", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(ProfileError, match=r"gemm.csv: line 5, column 2: 'x[0-9.]+' is no number"):
        read_profile(tmp_path / "tp1")
    lines[4] = "4,1"
    path.write_text("\n".join(lines))
    with pytest.raises(ProfileError, match=r"line 5: 2 values for 6 columns"):
        read_profile(tmp_path / "tp1")
    path.unlink()
    with pytest.raises(ProfileError, match=r"gemm.csv: missing; run `blendsim profile import`"):
        read_profile(tmp_path / "tp1")


def test_a_profile_without_provenance_is_refused(tmp_path):
    shutil.copytree(ROOT / "h200" / "llama-3.1-8b" / "tp1", tmp_path / "tp1")
    path = tmp_path / "tp1" / "meta.toml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("backend")]
    path.write_text("\n".join(kept))
    with pytest.raises(
        ProfileError, match=r"meta.toml: no 'backend'; add it: this file states gpu"
    ):
        read_profile(tmp_path / "tp1")


def test_a_profile_without_a_number_that_steps_are_priced_by_is_refused(tmp_path):
    shutil.copytree(ROOT / "h200" / "llama-3.1-8b" / "tp1", tmp_path / "tp1")
    path = tmp_path / "tp1" / "meta.toml"
    whole = path.read_text()
    for key, table in (("launch_seconds", "small_operators"), ("share", "waves")):
        path.write_text("\n".join(k for k in whole.splitlines() if not k.startswith(f"{key} ")))
        with pytest.raises(ProfileError, match=rf"meta.toml: \[{table}\] has no number '{key}'"):
            read_profile(tmp_path / "tp1")


@pytest.mark.parametrize("key", STATED)
def test_kernels_that_lack_a_key_are_refused_by_it(tmp_path, key):
    shutil.copytree(ROOT / "h200" / "kernels", tmp_path / "h200" / "kernels")
    path = tmp_path / "h200" / "kernels" / "meta.toml"
    content = tomllib.loads(path.read_text())
    del content[key]
    write_toml(path, content)
    with pytest.raises(ProfileError, match=rf"kernels/meta.toml: no '{key}'; add it"):
        load_profile(H200, LLAMA, directory=tmp_path)


def test_scalars_of_numpy_and_any_text_come_back(tmp_path):
    path = tmp_path / "meta.toml"
    content = {"a": np.float64(1.5), "b": np.int64(3), "c": 'two\nlines, "quoted" \\ and µ'}
    write_toml(path, {"schema": "s", "version": 1, **content})
    assert read_toml(path, "s", 1) == {"schema": "s", "version": 1, **content}


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "gemm.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ProfileError, match="line 1: columns"):
        read_rows(tmp_path / "gemm.csv", ["tokens"])
    (tmp_path / "meta.toml").write_text("not toml")
    with pytest.raises(ProfileError, match="not a readable TOML file"):
        read_profile(tmp_path)
    write_toml(tmp_path / "meta.toml", {"schema": "other", "version": 1})
    with pytest.raises(ProfileError, match="schema 'other' version 1"):
        read_profile(tmp_path)


def test_importing_twice_gives_the_same_bytes(tmp_path):
    pytest.importorskip("pyarrow")
    if importlib.util.find_spec(package.PACKAGE) is None:
        pytest.skip("aiconfigurator_core is not installed")
    said = []
    written = import_profiles(tmp_path, ["a100-80g"], ["llama-3.1-8b", "llama-2-7b"], said.append)
    assert [p.name for p in written] == ["kernels", "tp1", "tp2", "tp4", "tp8"] + [
        f"tp{tp}" for tp in (1, 2, 4, 8)
    ]
    assert len(said) == 2
    for place in written:
        same = ROOT / place.relative_to(tmp_path)
        assert files_of(place) == files_of(same)


@pytest.mark.parametrize("gpu", GPUS)
def test_shipped_kernels_are_what_the_package_gives(gpu, tmp_path):
    pytest.importorskip("pyarrow")
    if importlib.util.find_spec(package.PACKAGE) is None:
        pytest.skip("aiconfigurator_core is not installed")
    import_profiles(tmp_path, [gpu], [])
    assert files_of(tmp_path / gpu / "kernels") == files_of(ROOT / gpu / "kernels")


def test_import_without_the_package_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "PACKAGE", "no_such_package_here")
    with pytest.raises(
        Unavailable, match=r"^the no_such_package_here package is not installed; .*"
    ):
        import_profiles(tmp_path)
    assert not list(tmp_path.iterdir())


def test_import_of_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown GPU 'a100': .*; of these known: a100-80g$"):
        import_profiles(tmp_path, ["a100"])
    with pytest.raises(UnknownName, match="unknown model 'llama-3-8b'"):
        import_profiles(tmp_path, ["h100"], ["llama-3-8b"])


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_import_asks_for_room_before_it_reads_anything(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "h100").write_text("")
    else:
        (tmp_path / "h100" / "llama-3.1-8b" / "tp1").mkdir(parents=True)
        os.mkfifo(tmp_path / "h100" / "llama-3.1-8b" / "tp1" / "gemm.csv")
    before = sorted(tmp_path.rglob("*"))
    said: list[str] = []
    with pytest.raises(InputError, match=r"h100 is no directory|is a pipe"):
        import_profiles(tmp_path, ["h100"], ["llama-3.1-8b"], said.append)
    assert said == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_profile_leaves_nothing_of_another_behind(tmp_path):
    measured, imported = ROOT / "h200/measured/llama-3.1-8b/tp1", ROOT / "h200/llama-3.1-8b/tp1"
    write_profile(replace(read_profile(imported), chunks=read_profile(measured).chunks), tmp_path)
    (tmp_path / OVERLAP_FILE).write_bytes((measured / OVERLAP_FILE).read_bytes())
    assert (tmp_path / "prefill_chunks.csv").exists(), "or this says nothing"
    write_profile(read_profile(imported), tmp_path)
    assert files_of(tmp_path) == files_of(imported)
