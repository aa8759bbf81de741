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

amounts = st.floats(0.0, 3.0)
calibrations = st.builds(
    Calibration,
    st.just("vllm"),
    reads=st.floats(LEAST_READS + 0.01, 3.0),
    step=st.floats(0.0, 0.05),
    mixed_reads=amounts,
    mixed_step=st.floats(0.0, 0.05),
)


def a_profile(root: Path, *found: Calibration, system: System = SYSTEM) -> str:
    """A copy of the shipped profile below a new directory, with these calibrations."""
    place = profile_place(root, system)
    write_profile(load_profile(system.gpu, system.model, system.tp), place)
    for one in found:
        write_calibration(one, place, {})
    return str(root)
