"""Calibrations, and profiles that have them."""

from pathlib import Path

from hypothesis import strategies as st

from blendsim.perf.calibrating import LEAST_READS
from blendsim.perf.calibration import (
    Calibration,
    write_calibration,
)
from blendsim.perf.measured import profile_place
from blendsim.perf.store import load_profile, write_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("h200"))
FOUR = System(find_model("llama-3.1-70b"), find_gpu("h200"), 4)
OF_VLLM = Calibration("vllm", 1.2, 1e-3, 0.3, 4e-3)
OF_OURS = Calibration("blendrt", 0.5, 2e-4, 0.05, 5e-4)
OF_TILES = Calibration(
    "blendrt", 0.9, 1e-4, 0.1, 3e-4, 4e-6, ((64, 1.1), (256, 0.8), (320, 1.0), (1_024, 1.3))
)

amounts = st.floats(0.0, 3.0)


def _built(**further: st.SearchStrategy[object]) -> st.SearchStrategy[Calibration]:
    return st.builds(
        Calibration,
        st.just("vllm"),
        reads=st.floats(LEAST_READS + 0.01, 3.0),
        step=st.floats(0.0, 0.05),
        mixed_reads=amounts,
        mixed_step=st.floats(0.0, 0.05),
        **further,
    )


flat_calibrations = _built()
calibrations = _built(
    decode=st.floats(0.0, 1e-4),
    layers=st.dictionaries(st.integers(1, 2_000), st.floats(0.2, 3.0), max_size=6).map(
        lambda tiles: tuple(sorted(tiles.items()))
    ),
)


def a_profile(root: Path, *found: Calibration, system: System = SYSTEM) -> str:
    """A copy of the shipped profile below a new directory, with these calibrations."""
    place = profile_place(root, system)
    write_profile(load_profile(system.gpu, system.model, system.tp), place)
    for one in found:
        write_calibration(one, place, {})
    return str(root)
