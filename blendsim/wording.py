"""Words for figures, as messages of any floor need them, and who hears them."""

from collections.abc import Callable, Sequence

#: Hears what is being done.
Say = Callable[[str], None]

#: What is better than a guess of output lengths that a trace lacks.
BETTER = (
    "--lengths RESULTS.jsonl of an earlier run of these requests does better; for new requests "
    "--output-guess TOKENS takes the mean of a batch like them"
)


class Lacking(str):
    """A note on requests that a trace gives no output length of."""

    __slots__ = ()


def listing(names: Sequence[str], last: str = "and") -> str:
    """“a”, “a and b”, “a, b and c”."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def counted(n: int, noun: str) -> str:
    """“1 request”, “2,000 requests”."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
