"""Names that people give to the columns of a log of lengths, and which of a file's columns they
are. CSV headers and keys of JSON lines go by the same names.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from blendsim.errors import InputError

#: Lower case; upper case counts the same.
PROMPT = (
    "prompt_tokens",
    "input_tokens",
    "prompt_len",
    "input_len",
    "input_length",
    "num_prompt_tokens",
    "isl",
)
OUTPUT = (
    "response_tokens",
    "output_tokens",
    "completion_tokens",
    "output_len",
    "output_length",
    "num_output_tokens",
    "osl",
)
ARRIVAL = ("arrived_at", "arrival", "arrival_time", "timestamp")  # of several the first counts


class Extras(NamedTuple):
    """The columns that every format of lengths may have besides its own, as a file spells them."""

    id: str = "id"
    is_known: str = "is_known"
    max_tokens: str = "max_tokens"
    prefix_id: str = "prefix_id"
    prefix_tokens: str = "prefix_tokens"


EXTRAS = Extras()


class LengthNames(NamedTuple):
    """A file's own names of what is read."""

    prompt: str
    output: str
    arrival: str | None
    extras: Extras


def are_lengths(given: Collection[str]) -> bool:
    """Whether some column is called like a prompt's length and some like an output's."""
    lower = {name.lower() for name in given}
    return not lower.isdisjoint(PROMPT) and not lower.isdisjoint(OUTPUT)


def has_length(given: Collection[str]) -> bool:
    """Whether some column is called like a prompt's length or like an output's."""
    return not {name.lower() for name in given}.isdisjoint((*PROMPT, *OUTPUT))


def find_names(given: Sequence[str], where: str) -> LengthNames:
    """Which of the columns `given` are meant, or InputError beginning with `where` if that is not
    clear.
    """
    arrivals = [name for word in ARRIVAL for name in given if name.lower() == word]
    extras = {}
    for word in Extras._fields:
        found = _called(given, (word,))
        _require_one(found, word, where)
        extras[word] = found[0] if found else word
    return LengthNames(
        _length(given, PROMPT, "prompt", where),
        _length(given, OUTPUT, "output", where),
        arrivals[0] if arrivals else None,
        Extras(**extras),
    )


def _length(given: Sequence[str], words: Sequence[str], what: str, where: str) -> str:
    found = _called(given, words)
    _require_one(found, f"length of the {what}", where)
    if not found:
        unknown = ""
        if words is OUTPUT:
            unknown = (
                "; where nobody knows them yet, give the requests themselves (openai-batch, "
                "prompts-jsonl)"
            )
        raise InputError(
            f"{where}: no column is called like the length of the {what}; name one of them "
            f"{', '.join(words)}{unknown}"
        )
    return found[0]


def _called(given: Sequence[str], words: Sequence[str]) -> list[str]:
    return [name for name in given if name.lower() in words]


def _require_one(found: Sequence[str], what: str, where: str) -> None:
    if len(found) > 1:
        names = " and ".join(repr(name) for name in found[:2])
        raise InputError(
            f"{where}: columns {names} could both be the {what}; rename or remove all but one"
        )
