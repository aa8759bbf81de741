"""Step costs from a profile that `blendsim profile measure` wrote, wherever it lies, with the
overlap that was measured beside it.
"""

from dataclasses import replace
from pathlib import Path

from blendsim.errors import ProfileError
from blendsim.perf.derive import shape_of
from blendsim.perf.fit import Shares, read_shares
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.overlap import FILE, FIT, SUM, hull, read_points
from blendsim.perf.store import read_profile
from blendsim.specs import System


def profile_place(root: Path, system: System) -> Path:
    """Where under `root` the profile of a system lies."""
    return root / system.gpu.name / system.model.name / f"tp{system.tp}"


def measured_model(directory: Path, system: System) -> StepModel:
    """The step costs of one GPU by the profile in `directory` (a `tp1`); ProfileError if it is of
    another model, or has no overlap.
    """
    profile = read_profile(directory)
    if dict(profile.shape) != shape_of(system.model) or profile.tp != system.tp:
        raise ProfileError(
            f"{directory}: is of {profile.model} on {profile.tp} GPU(s), not of "
            f"{system.model.name} on {system.tp}; name the directory of that"
        )
    path = directory / FILE
    if not path.exists():
        raise ProfileError(f"{directory}: has no {FILE}; measure it with more --minutes")
    points = read_points(path)
    plain = step_model(system, SUM, profile)
    return replace(plain, overlap=FIT, lines=hull(*points), measured=points)


def measured_shares(directory: Path) -> Shares | None:
    """Which SM shares were best there; None where no overlap was measured."""
    path = directory / FILE
    return read_shares(path) if path.exists() else None
