"""Options that take several values at once, and limits of time and money, as a user writes them."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import typer

from blendsim.errors import InputError
from blendsim.gpu_file import is_gpu_file
from blendsim.specs import gpu_name

#: The options of a system that may take several values, in the order of `Systems`.
LISTED = ("gpu", "tp", "pp", "dp", "quantization")
_MOST = 1_024  # values of one option
_PIECE = re.compile(r"(\d+)(?:\.\.(\d+))?")
_TIME = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class Systems(NamedTuple):
    """The values of the options of `LISTED`; none where one is not given."""

    gpus: list[str]
    tps: list[int]
    pps: list[int]
    dps: list[int]
    quantizations: list[str]

    @property
    def are_several(self) -> bool:
        """More than one system is named."""
        return any(len(values) > 1 for values in self)

    @property
    def first(self) -> dict[str, Any]:
        """The first value of each option that is given."""
        named: Iterable[tuple[str, list[Any]]] = zip(LISTED, self, strict=True)
        return {name: values[0] for name, values in named if values}


def read_systems(
    gpu: str | None, tp: str | None, pp: str | None, dp: str | None, quantization: str | None
) -> Systems:
    """`a100-80g,h100`, `1,2,4`, `1..8`, `none,fp8` in values, each once; InputError for what is no
    list.
    """
    formats = [] if quantization is None else _names(quantization, "--quantization")
    return Systems(
        [] if gpu is None else list(dict.fromkeys(map(gpu_name, _names(gpu, "--gpu")))),
        [] if tp is None else _counts(tp, "--tp"),
        [] if pp is None else _counts(pp, "--pp"),
        [] if dp is None else _counts(dp, "--dp"),
        list(dict.fromkeys(formats)),
    )


def gpu_files(gpu: str | None) -> list[str]:
    """The files among what --gpu names."""
    names = [] if gpu is None else map(str.strip, gpu.split(","))
    return [each for each in names if is_gpu_file(each)]


def one_name(text: str) -> str:
    """The value of an option that takes one, where `plan` takes several; BadParameter for several,
    which would else be an unknown name. A path may go up by `..`.
    """
    if "," in text or (".." in text and not is_gpu_file(text)):
        raise typer.BadParameter(f"{text} is a list, which `blendsim plan` alone takes; give one")
    return text


def one_count(text: str) -> int:
    """The same of a number."""
    number = one_name(text)
    try:
        return int(number)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is no whole number") from error


def read_seconds(text: str, option: str) -> float:
    """`2h`, `90m`, `1h30m`, `1.5d` or, in seconds, `90` in seconds, above 0; InputError that names
    the option for anything else.
    """
    plain = re.sub(r"(?<=\d) (?=[dhms]$)", "", text.strip())
    if _NUMBER.fullmatch(plain):  # as `timeout 90` has it
        plain += "s"
    pieces = re.findall(r"([\d.]+)([dhms])", plain) if _TIME.fullmatch(plain) else []
    seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in pieces)
    if not 0 < seconds < math.inf:
        raise InputError(
            f"{option} {text} is no time above 0; write it like 90s, 20m, 2h or 1h30m (d, h, m, s; "
            "a number alone is seconds)"
        )
    return float(seconds)


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"{option} {text} lacks a name between commas; write it like a,b")
    return names


def _counts(text: str, option: str) -> list[int]:
    counts: list[int] = []
    for piece in text.split(","):
        found = _PIECE.fullmatch(piece.strip())
        if found is None:
            raise InputError(f"{option} {text} is no list of numbers; write it like 1,2,4 or 1..8")
        low, high = int(found[1]), int(found[2] or found[1])
        if low < 1:
            raise InputError(f"{option} {text} must be at least 1")
        if high < low:
            raise InputError(f"{option} {text} counts down; write the smaller number first")
        if high - low + len(counts) >= _MOST:
            raise InputError(f"{option} {text} has more than {_MOST:,} values; give fewer")
        counts += range(low, high + 1)
    return list(dict.fromkeys(counts))
