"""What runs instead of a model that its GPUs cannot hold or compute: ways that were tried, so that
none of them leads into the next error.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from blendsim.formats import AUTO, BF16, FP8

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.settings import Settings

SIZES = (1, 2, 4, 8)  # GPUs of a replica, as they were measured
_SHARED = (2, 4, 8, 16, 32)  # GPUs that share experts
_TOLD = 3


def instead(settings: "Settings") -> str:
    """Half a sentence on what runs the model: the same GPUs in other replicas, or more of them,
    else other weights on these, or other GPUs; else both.
    """
    ways = [way for way in (_first(_sized(settings)), _first(_other_weights(settings))) if way]
    ways += _on_other_gpus(settings)
    told = list(dict.fromkeys(_flags(settings, way) for way in ways))[:_TOLD]
    if not told:
        own = replace(settings, quantization=AUTO)
        ways = [way for way in (_first(_sized(own)), *_on_other_gpus(own)) if way]
        told = [_flags(settings, way) for way in ways][:_TOLD]
    if not told:
        return "nothing that was measured runs it; choose another --model"
    return f"use {', or '.join(told)}"


def _sized(settings: "Settings") -> "list[Settings]":
    """The same on other numbers of GPUs a replica, and of those that share experts: as many GPUs in
    all as were asked for where they divide so, experts shared by all of them before anything else.
    Larger ones come first, least first.
    """
    asked, shared = settings.dp * settings.tp, settings.ep
    apart = settings.cluster.is_disaggregated  # pools name their replicas, and share no experts
    found = []
    if shared is None:
        if settings.dp > 1 and settings.spec.experts and not settings.expert_parallel:
            found.append(replace(settings, ep=asked))
        sizes = sorted(SIZES, key=lambda tp: (tp <= settings.tp, abs(tp - settings.tp)))
        dps = [settings.dp if apart else max(1, asked // tp) for tp in sizes]
        return found + [replace(settings, tp=tp, dp=dp) for tp, dp in zip(sizes, dps, strict=True)]
    shapes = [(ep, tp) for ep in _SHARED for tp in SIZES if ep % tp == 0]
    shapes.sort(key=lambda shape: shape[0] < shared)
    for ep, tp in shapes:
        ranks = ep // tp
        if ranks == 1 or not apart:
            dp = settings.dp if apart else ranks * -(-asked // ep)
            found.append(replace(settings, tp=tp, ep=ep, dp=dp))
    return found


def _other_weights(settings: "Settings") -> "Iterator[Settings]":
    """On the same GPUs in the format of the model's files, or in fp8; least GPUs first."""
    names = [AUTO] if settings.quantization != AUTO else []
    if settings.spec.weights == BF16:
        names.append(FP8)
    several = (replace(settings, quantization=name) for name in names)
    return (each for own in several for each in (own, *_sized(own)))


def _on_other_gpus(settings: "Settings") -> "list[Settings]":
    """One on each other kind of GPU that runs it: on as many, else on the least number that do."""
    from blendsim.specs import GPUS

    others = (replace(settings, gpu=name) for name in GPUS if name != settings.gpu)
    found = (_first([own, *_sized(own)]) for own in others)
    return [each for each in found if each]


def _first(several: "Iterable[Settings]") -> "Settings | None":
    return next((each for each in several if _runs(each)), None)


def _runs(settings: "Settings") -> bool:
    from blendsim.errors import BlendsimError
    from blendsim.perf.measured import chosen_model

    try:
        chosen_model(settings.system, settings.overlap, settings.profile)
    except BlendsimError:
        return False
    return True


def _flags(asked: "Settings", way: "Settings") -> str:
    """What to ask for otherwise."""
    told = [
        f"--{name} {getattr(way, name)}"
        for name in ("gpu", "tp", "pp", "dp", "ep", "quantization")
        if getattr(way, name) != getattr(asked, name)
    ]
    return " ".join(told)
