"""Step costs from a measured profile wherever it lies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf.fit import OverlapFit, write_overlap
from blendsim.perf.measured import (
    IMPORTED,
    chosen_model,
    chosen_place,
    measured_model,
    measured_shares,
    profile_place,
)
from blendsim.perf.model import step_model
from blendsim.perf.overlap import FIT, SUM
from blendsim.perf.store import load_profile, write_profile
from blendsim.request import from_lengths
from blendsim.search.problem import prepare
from blendsim.settings import Settings
from blendsim.specs import System, find_gpu, find_model

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


def test_the_imported_profile_is_meant_unless_another_is_named() -> None:
    """Results of the paper stand on it, whatever is measured beside it."""
    assert Settings(gpu="h200").profile == IMPORTED
    assert chosen_place(SYSTEM, IMPORTED) is None
    assert chosen_model(SYSTEM, "auto").overlap == "table"
    assert (chosen_model(SYSTEM, "auto").layer_seconds == step_model(SYSTEM).layer_seconds).all()


def test_a_named_directory_brings_its_tables_and_its_overlap(place: Path) -> None:
    chosen = chosen_model(SYSTEM, "auto", str(place.parents[2]))
    assert chosen.overlap == FIT
    assert chosen.seconds(BUSY) == measured_model(place, SYSTEM).seconds(BUSY)


def test_another_overlap_may_be_asked_of_measured_tables(place: Path) -> None:
    compute, memory, _ = measured_model(place, SYSTEM).seconds(BUSY)
    summed = chosen_model(SYSTEM, SUM, str(place.parents[2])).seconds(BUSY)
    assert summed == pytest.approx((compute, memory, compute + memory))


def test_a_profile_that_is_not_there_names_those_that_are(place: Path) -> None:
    other = System(find_model("qwen-2.5-7b"), find_gpu("h200"))
    with pytest.raises(ProfileError, match=r"there are h200/llama-3\.1-8b/tp1; measure it"):
        chosen_place(other, str(place.parents[2]))
    with pytest.raises(ProfileError, match=r"h200/measured/llama-3\.1-8b/tp1"):
        chosen_place(other, "measured")


def test_settings_choose_the_profile_that_plans_are_priced_by(place: Path) -> None:
    pool = from_lengths(np.full(40, 200), np.full(40, 50))
    slow, shipped = (
        prepare(pool, Settings(gpu="h200", profile=profile)).model
        for profile in (str(place.parents[2]), IMPORTED)
    )
    assert slow.seconds(BUSY)[0] > 1.7 * shipped.seconds(BUSY)[0]
