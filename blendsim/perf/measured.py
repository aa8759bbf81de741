"""Step costs from a profile that `blendsim profile measure` wrote, wherever it lies, with the
overlap that was measured beside it; and which profile is meant.

Measured profiles that are shipped lie beside the imported ones, where no search for those finds
them: profiles/<gpu>/measured/<model>/tp<N>.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from blendsim.errors import ProfileError
from blendsim.formats import BF16, NONE
from blendsim.perf.calibration import read_calibrations
from blendsim.perf.fit import Shares, read_shares
from blendsim.perf.model import StepModel, step_model, with_calibrations
from blendsim.perf.model_shapes import shape_of
from blendsim.perf.overlap import FIT, SUM, default_overlap, fitted, read_points
from blendsim.perf.profile import Profile
from blendsim.perf.scaled import scaled
from blendsim.perf.store import (
    MOST_LISTED,
    OVERLAP_FILE,
    place_under,
    profiles_directory,
    read_profile,
)
from blendsim.printable import listed
from blendsim.specs import ModelSpec
from blendsim.system import System

#: What a user asks for, else a directory; `auto` is what was measured where that is shipped.
AUTO, IMPORTED, MEASURED = "auto", "imported", "measured"
MACHINE = "machine"  # key of a profile's meta.toml: what it was measured on; no imported one has it


def profile_place(root: Path, system: System) -> Path:
    """Where under `root` the profile of a system lies."""
    return place_under(root, system.gpu, system.model, system.tp)


def shipped_place(system: System) -> Path:
    """Where the measured profile of a system is, or that of a model of the same shape, if one is
    shipped.
    """
    kept = profiles_directory() / system.gpu.measured_as / MEASURED
    own = kept / system.model.label / f"tp{system.tp}"
    return own if own.is_dir() else _of_shape(kept, system.tp, shape_of(system.model)) or own


def _of_shape(kept: Path, tp: int, shape: Mapping[str, Any]) -> Path | None:
    return next((place for held, place in _shapes(kept, tp) if held == shape), None)


@cache
def _shapes(kept: Path, tp: int) -> list[tuple[dict[str, Any], Path]]:
    places = sorted(kept.glob(f"*/tp{tp}"))
    return [(dict(read_profile(place).shape), place) for place in places]


def meant(system: System, profile: str) -> str:
    """Which profile is meant: what `auto` stands for, else the same. By itself a GPU that a file
    describes goes by imported kernels, of which there are some of every GPU that it may be held
    against; those measured beside an engine's steps are scaled when asked for.
    """
    if profile != AUTO:
        return profile
    is_own = not system.gpu.like and shipped_place(system).is_dir()
    return MEASURED if is_own else IMPORTED


def chosen_place(system: System, profile: str) -> Path | None:
    """The directory of the profile that is meant: None for the imported one, else the measured one
    that is shipped, or that under a directory named; ProfileError if there is none.
    """
    profile = meant(system, profile)
    if profile == IMPORTED:
        return None
    if profile == MEASURED:
        root, place = profiles_directory(), shipped_place(system)
    else:
        root = Path(profile)
        place = profile_place(root, system)
    if not place.is_dir():
        kept = f"*/{MEASURED}/*/tp*" if profile == MEASURED else "*/*/tp*"
        paths = sorted(str(path.relative_to(root)) for path in root.glob(kept))
        have = listed(paths, MOST_LISTED)
        raise ProfileError(
            f"profile {profile!r}: no {place}; there are {have}; {_remedy(system.model)} "
            f"--profile {IMPORTED}"
        )
    return place


def _remedy(model: ModelSpec) -> str:
    """What to do for a measured profile of a model."""
    options = [] if model.weights == BF16 else [f"--quantization {NONE}"]
    options += [] if model.kv == BF16 else [f"--kv-cache-dtype {BF16}"]
    if model.experts or model.windowed_layers or model.latent:
        if model.delta_heads:
            return "none with linear attention is measured: use"
        return "none with experts, windows or latent attention is measured: use"
    if options:
        return f"only {BF16} is measured: add {' '.join(options)}, or add"
    return "measure it with `blendsim profile measure`, or add"


def chosen_model(system: System, overlap: str, profile: str = AUTO) -> StepModel:
    """The step costs by the profile that is meant; see `chosen_place`, `model_at`."""
    return model_at(chosen_place(system, profile), system, overlap)


def overlap_meant(system: System, overlap: str, profile: str = AUTO) -> str:
    """The overlap that steps are priced by: what is measured beside the profile that is meant, or
    the system's default, for `auto`; any other as it is.
    """
    if overlap != AUTO:
        return overlap
    place = chosen_place(system, profile)
    has_own = place is not None and not system.gpu.like and _has_overlap(place)
    return FIT if has_own else default_overlap(system)


def _has_overlap(place: Path) -> bool:
    """Whether an overlap lies beside a profile: not where it is a copy of an imported one, made for
    a calibration.
    """
    return (place / OVERLAP_FILE).exists()


def model_at(place: Path | None, system: System, overlap: str) -> StepModel:
    """The step costs by the profile in a directory (a `tp<N>`), None for the imported one. A
    measured one brings its own overlap for `auto` and `fit`, and its calibrations; scaled to a GPU
    that a file describes, it has neither, for what ran beside what there would run otherwise here.
    """
    if place is None:
        return step_model(system, overlap)
    profile = _read(place, system)
    if system.gpu.like:
        return step_model(system, overlap, scaled(profile, system.model, system.gpu))
    if overlap in (AUTO, FIT) and (MACHINE in profile.meta or _has_overlap(place)):
        return measured_model(place, system, profile)
    return with_calibrations(step_model(system, overlap, profile), read_calibrations(place))


def measured_model(directory: Path, system: System, profile: Profile | None = None) -> StepModel:
    """The step costs of one GPU by the profile in `directory` (a `tp<N>`), which is `profile` where
    that was read before; ProfileError if it is of another model, or has no overlap.
    """
    profile = profile or _read(directory, system)
    path = directory / OVERLAP_FILE
    if not path.exists():
        raise ProfileError(f"{directory}: has no {OVERLAP_FILE}; measure it with more --minutes")
    points = read_points(path)
    plain = step_model(system, SUM, profile)
    gpus = system.joined_gpus
    lines, seen = fitted(points, gpus), points if gpus == 1 else ()
    model = replace(plain, overlap=FIT, lines=lines, measured=seen)
    return with_calibrations(model, read_calibrations(directory))


def _read(directory: Path, system: System) -> Profile:
    profile = read_profile(directory)
    if dict(profile.shape) != shape_of(system.model) or profile.tp != system.tp:
        raise ProfileError(
            f"{directory}: is of {profile.model} on {profile.tp} GPU(s), not of "
            f"{system.model.label} on {system.tp}; name the directory of that"
        )
    return profile


def measured_shares(directory: Path) -> Shares | None:
    """Which SM shares were best there; None where no overlap was measured."""
    path = directory / OVERLAP_FILE
    return read_shares(path) if path.exists() else None
