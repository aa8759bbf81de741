"""Step costs from a measured profile wherever it lies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf import measured
from blendsim.perf.fit import OverlapFit, write_overlap
from blendsim.perf.grids import ChunkTimes, walk_along
from blendsim.perf.kernels import prefill_seconds
from blendsim.perf.measured import (
    AUTO,
    IMPORTED,
    MEASURED,
    chosen_model,
    chosen_place,
    meant,
    measured_model,
    measured_shares,
    profile_place,
    shipped_place,
)
from blendsim.perf.model import step_model
from blendsim.perf.overlap import FIT, SUM
from blendsim.perf.profile import Profile
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.request import from_lengths
from blendsim.search.problem import prepare
from blendsim.settings import Settings
from blendsim.specs import find_gpu, find_model
from blendsim.system import System
from paper_repro.lab import Lab

SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("h200"))
BUSY = Batch(1024, 2, 300_000, 256, 256 * 1500, 258)
#: A step of this ratio takes 1.5 of its compute: 1.33 times faster than one after another.
FIT_OF_ONE = OverlapFit(np.array([1.0]), np.array([1.5]), np.array([48]), 1, 0, np.nan, np.nan)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A profile twice as slow as the shipped one, with an overlap."""
    shipped = load_profile(SYSTEM.gpu, SYSTEM.model)
    directory = profile_place(tmp_path, SYSTEM)
    write_profile(replace(shipped, gemm=2 * shipped.gemm), directory)
    write_overlap(FIT_OF_ONE, directory / "overlap.csv")
    return directory


def test_costs_are_those_of_the_directory(place: Path) -> None:
    assert place.parts[-3:] == ("h200", "llama-3.1-8b", "tp1")
    mine, shipped = measured_model(place, SYSTEM), step_model(SYSTEM)
    assert mine.overlap == FIT
    assert mine.seconds(BUSY)[0] > 1.7 * shipped.seconds(BUSY)[0]
    assert mine.seconds(BUSY)[1] == pytest.approx(shipped.seconds(BUSY)[1])


def test_overlap_is_the_one_measured_there(place: Path) -> None:
    lines = measured_model(place, SYSTEM).lines
    assert float((lines @ np.array([1.0, 1.0, 0.0])).max()) == pytest.approx(1.5)
    shares = measured_shares(place)
    assert shares is not None
    assert shares.at(1.0, 1.0) == 48


def test_a_profile_of_another_model_is_refused(place: Path) -> None:
    other = System(find_model("qwen-2.5-7b"), find_gpu("h200"))
    with pytest.raises(ProfileError, match=r"is of llama-3.1-8b on 1 GPU\(s\), not of qwen-2.5-7b"):
        measured_model(place, other)


def test_a_profile_without_an_overlap_says_what_to_do(place: Path) -> None:
    (place / "overlap.csv").unlink()
    with pytest.raises(ProfileError, match="measure it with more --minutes"):
        measured_model(place, SYSTEM)
    assert measured_shares(place) is None


def test_results_of_the_paper_stand_on_imported_kernels_whatever_is_measured_beside_them() -> None:
    assert Lab(gpu="h200").settings().profile == IMPORTED
    assert chosen_place(SYSTEM, IMPORTED) is None
    imported = chosen_model(SYSTEM, "auto", IMPORTED)
    assert imported.overlap == "table"
    assert (imported.layer_seconds == step_model(SYSTEM).layer_seconds).all()


def test_a_named_directory_brings_its_tables_and_its_overlap(place: Path) -> None:
    chosen = chosen_model(SYSTEM, "auto", str(place.parents[2]))
    assert chosen.overlap == FIT
    assert chosen.seconds(BUSY) == measured_model(place, SYSTEM).seconds(BUSY)


def test_a_measured_profile_is_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def noting(directory: Path) -> Profile:
        read.append(directory)
        return read_profile(directory)

    monkeypatch.setattr(measured, "read_profile", noting)
    for overlap in ("auto", SUM):
        chosen_model(SYSTEM, overlap, str(place.parents[2]))
        assert read == [place]
        read.clear()


def test_another_overlap_may_be_asked_of_measured_tables(place: Path) -> None:
    compute, memory, _ = measured_model(place, SYSTEM).seconds(BUSY)
    summed = chosen_model(SYSTEM, SUM, str(place.parents[2])).seconds(BUSY)
    assert summed == pytest.approx((compute, memory, compute + memory))


def test_a_profile_that_is_not_there_names_those_that_are(place: Path) -> None:
    other = System(find_model("qwen3-8b"), find_gpu("h200"))
    with pytest.raises(ProfileError, match=r"there are h200/llama-3\.1-8b/tp1; measure it"):
        chosen_place(other, str(place.parents[2]))
    with pytest.raises(
        ProfileError, match=r"h200/measured/llama-3\.1-8b/tp1.*, or add --profile imported$"
    ):
        chosen_place(other, "measured")


@pytest.mark.parametrize(
    ("weights", "kv", "options"),
    [
        ("fp8", "bf16", "--quantization none"),
        ("auto", "fp8", "--kv-cache-dtype bf16"),
        ("fp8", "fp8", "--quantization none --kv-cache-dtype bf16"),
    ],
)
def test_nobody_is_sent_to_measure_what_is_not_measured(
    place: Path, weights: str, kv: str, options: str
) -> None:
    system = System(SYSTEM.model.in_format(weights, kv), SYSTEM.gpu)
    for profile in ("measured", str(place.parents[2])):
        with pytest.raises(
            ProfileError,
            match=rf"tp1; only bf16 is measured: add {options}, or add --profile imported$",
        ):
            chosen_place(system, profile)


def test_settings_choose_the_profile_that_plans_are_priced_by(place: Path) -> None:
    pool = from_lengths(np.full(40, 200), np.full(40, 50))
    slow, shipped = (
        prepare(pool, Settings(gpu="h200", profile=profile)).model
        for profile in (str(place.parents[2]), IMPORTED)
    )
    assert slow.seconds(BUSY)[0] > 1.7 * shipped.seconds(BUSY)[0]


# Chunks behind a prefix


def test_a_small_chunk_behind_a_long_prefix_costs_the_walk_along_it() -> None:
    """Two blocks a head walk along the prefix while the GPU is empty beside them."""
    profile = read_profile(shipped_place(SYSTEM))
    assert profile.chunks is not None
    layers, tables = SYSTEM.model.layers, step_model(SYSTEM, SUM, profile).tables
    without = step_model(SYSTEM, SUM, replace(profile, chunks=None)).tables
    for tokens, computed, seconds in zip(*profile.chunks, strict=True):
        pairs = int(tokens * computed + tokens * (tokens + 1) // 2)
        priced = prefill_seconds(tables, int(tokens), 1, pairs) / layers
        ruled = prefill_seconds(without, int(tokens), 1, pairs) / layers
        if tokens == profile.chunks.tokens.min():
            assert priced == pytest.approx(seconds, rel=0.02)
            assert ruled < 0.5 * seconds
        elif tokens == profile.chunks.tokens.max():
            assert priced == ruled


def test_whole_prompts_cost_what_they_cost_without_chunks() -> None:
    profile = read_profile(shipped_place(SYSTEM))
    tables = step_model(SYSTEM, SUM, profile).tables
    without = step_model(SYSTEM, SUM, replace(profile, chunks=None)).tables
    for length in (512, 2_048, 16_384):
        sizes = (length, 1, length * (length + 1) // 2)
        assert prefill_seconds(tables, *sizes) == prefill_seconds(without, *sizes)
    # Of fewer tokens the line is a microsecond off, of ten.
    small = (128, 1, 128 * 129 // 2)
    priced, ruled = prefill_seconds(tables, *small), prefill_seconds(without, *small)
    assert priced == pytest.approx(ruled, rel=0.1)


def test_chunks_are_written_and_read(tmp_path: Path) -> None:
    profile = read_profile(shipped_place(SYSTEM))
    write_profile(profile, tmp_path)
    again = read_profile(tmp_path).chunks
    assert again is not None
    assert profile.chunks is not None
    assert all(np.array_equal(a, b) for a, b in zip(again, profile.chunks, strict=True))
    (tmp_path / "prefill_chunks.csv").unlink()
    assert read_profile(tmp_path).chunks is None


def test_one_size_of_chunks_makes_no_line() -> None:
    one = np.array([128.0])
    assert walk_along(ChunkTimes(one, one, one)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["gpt-oss-20b", "qwen3-30b-a3b"])
def test_nobody_is_sent_to_measure_experts(name: str) -> None:
    system = System(find_model(name), SYSTEM.gpu)
    told = "; none with experts, windows or latent attention is measured: use --profile imported$"
    with pytest.raises(ProfileError, match=told):
        chosen_place(system, "measured")


def test_by_itself_a_system_has_what_was_measured_for_its_shape_else_the_imported() -> None:
    named = System(find_model("llama-3.1-8b"), find_gpu("h200"))
    assert meant(named, AUTO) == MEASURED
    unnamed = replace(named, model=replace(named.model, name="my-finetune"))
    assert chosen_place(unnamed, AUTO) == chosen_place(named, MEASURED)
    for other in (
        replace(named, gpu=find_gpu("h100")),
        replace(named, tp=2),
        System(find_model("qwen3-8b"), find_gpu("h200")),
    ):
        assert meant(other, AUTO) == IMPORTED
        assert chosen_place(other, AUTO) is None
