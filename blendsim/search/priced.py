"""What is to be known of the kernels that steps are priced by."""

from collections.abc import Iterable

from blendsim.gpu_file import other_figures
from blendsim.perf.derive import STAND_INS
from blendsim.perf.measured import AUTO, IMPORTED, MEASURED, meant, overlap_meant, shipped_place
from blendsim.perf.overlap import MEASURED_ON, TABLE
from blendsim.perf.store import load_profile
from blendsim.settings import Settings

#: Kernels that stand in beside those that they stand for.
_COMPARED = {
    "GEMMs": "where both were, they take about as long",
    "experts": "where both were, these take as long or longer",
    "projections of latent attention": "how long those would take is not known",
}


def pricing_notes(several: Iterable[Settings], *, overlaps: bool | None = None) -> list[str]:
    """Notes on what steps of these systems are priced by: where something that was measured is not
    used, an overlap is another GPU's, or all-reduces are of a kernel that engines do not take.
    `overlaps` tells whether a row shown does, the settings' engine by itself.
    """
    several = list(several)
    measured = [settings for settings in several if _is_measured_too(settings)]
    told = list(dict.fromkeys(settings.gpu for settings in measured))
    borrowed = dict.fromkeys(
        settings.gpu
        for settings in several
        if settings.gpu not in told
        and _overlaps(settings, overlaps)
        and _overlap_is_borrowed(settings)
    )
    notes = []
    alone = [each for each in several if each.expert_parallel and each.tp == 1]
    if alone and len(alone) == len(several):
        notes.append(
            "--expert-parallel is for several GPUs a replica (--tp); on one it does nothing"
        )
    if told:
        beside = any(_overlaps(settings, overlaps) for settings in measured)
        also = " and overlap by published figures of another GPU" if beside else ""
        notes.append(
            f"kernels of {', '.join(told)} are priced by the imported profile{also}; --profile "
            f"measured prices {'both' if beside else 'them'} as they were measured there, mostly "
            "slower (docs/validation.md)"
        )
    seen = [each for each in several if _is_measured_by_itself(each)]
    if seen:
        beside = any(_overlaps(each, overlaps) for each in seen)
        notes.append(
            f"kernels of {', '.join(dict.fromkeys(each.gpu for each in seen))}"
            f"{' and how they overlap' if beside else ''} are as measured there "
            "(docs/validation.md); to compare with other GPUs add --profile imported"
        )
    if borrowed:
        notes.append(
            f"compute beside memory reads on {', '.join(borrowed)} is priced as NanoFlow published "
            "it for an A100, not as measured there (measured on an H200, steps gained nothing by "
            "it); --overlap sum shows what is left without"
        )
    with_experts = [
        settings.model
        for settings in several
        if settings.spec.experts and _overlaps(settings, overlaps) and _is_by_table(settings)
    ]
    if with_experts:
        notes.append(
            f"{with_experts[0]}'s experts beside memory reads are priced as NanoFlow published it "
            "for a dense model; --overlap sum shows what is left without"
        )
    return [*_scaled(several), *notes, *_stand_ins(several), *_unused_all_reduces(several)]


def _scaled(several: Iterable[Settings]) -> list[str]:
    """A note on each GPU that a file describes: whose kernels are scaled to it, and by what."""
    notes = []
    for settings in several:
        if settings.gpu_spec is not None:
            gpu, profile = settings.gpu_spec, meant(settings.system, settings.profile)
            notes.append(
                f"nothing was measured of {gpu.name}: its kernels are those of {gpu.like} (profile "
                f"{profile}) at the same share of the roofline, of a GPU with "
                f"{other_figures(gpu) or 'the same figures'} (docs/profiles.md); hold it against "
                f"--gpu {gpu.like} --profile {profile}"
            )
    return list(dict.fromkeys(notes))


def _stand_ins(several: Iterable[Settings]) -> list[str]:
    """A note where kernels of a format are priced by those of another, which were measured."""
    borrowed: dict[tuple[str, str, str], list[str]] = {}
    for settings in several:
        system = settings.system
        if meant(system, settings.profile) != IMPORTED or not system.model.in_formats:
            continue
        profile = load_profile(system.gpu, system.model, system.tp)
        for what, other in profile.meta.get(STAND_INS, {}).items():
            gpus = borrowed.setdefault((what, system.model.weights, other), [])
            gpus += [] if settings.gpu in gpus else [settings.gpu]
    return [
        f"{what} in {weights} on {', '.join(gpus)} are priced by those in {other}, theirs not "
        f"having been measured as engines run them; {_COMPARED[what]} (docs/profiles.md)"
        for (what, weights, other), gpus in borrowed.items()
    ]


def _overlaps(settings: Settings, told: bool | None) -> bool:
    return settings.flavour().overlaps if told is None else told


def _is_measured_too(settings: Settings) -> bool:
    return (
        settings.profile == IMPORTED
        and settings.gpu_spec is None
        and settings.overlap in ("auto", "table")
        and shipped_place(settings.system).is_dir()
    )


def _is_measured_by_itself(settings: Settings) -> bool:
    """Whether what was measured prices steps though nobody asked for that."""
    return settings.profile == AUTO and meant(settings.system, AUTO) == MEASURED


def _overlap_is_borrowed(settings: Settings) -> bool:
    """Whether steps are priced by the table of an A100 on another GPU."""
    return settings.gpu != MEASURED_ON and _is_by_table(settings)


def _is_by_table(settings: Settings) -> bool:
    """Whether compute runs beside reads by NanoFlow's published table."""
    return overlap_meant(settings.system, settings.overlap, settings.profile) == TABLE


def _unused_all_reduces(several: Iterable[Settings]) -> list[str]:
    """A note where all-reduces are of a kernel that vLLM has for GPUs with NVLink, else for two."""
    named: dict[str, None] = {}
    for system, profile in dict.fromkeys((each.system, each.profile) for each in several):
        if meant(system, profile) == IMPORTED and system.tp > 2 and system.gpu.link.is_pcie:
            tables = load_profile(system.gpu, system.model, system.tp).meta.get("tables", {})
            if "vLLM_custom" in str(tables.get("all_reduce", "")):
                named[system.gpu.name] = None
    if not named:
        return []
    return [
        f"all-reduces of more than two {', '.join(named)} are priced by vLLM's custom kernel, "
        "where vLLM takes NCCL's on more than two GPUs without NVLink; those times are not known "
        "here, and these are probably too long (docs/profiles.md)"
    ]
