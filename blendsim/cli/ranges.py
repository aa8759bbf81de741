"""What a terminal is told of how far predicted seconds may be off."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blendsim.search.spread import Spread


def range_told(spread: "Spread", deadline: float | None = None) -> list[str]:
    """A paragraph on a plan's times in other worlds that the sample allows, and in how many of them
    it misses a deadline (seconds); none where there is one world only.
    """
    if not spread.seconds:
        return []
    told = (
        f"Predicted seconds hang on lengths that were not sampled: in {len(spread.seconds)} worlds "
        f"that the sample allows the plan takes {spread.seconds[0]:,.1f} to "
        f"{spread.seconds[-1]:,.1f} s, and longer if an answer is longer than all sampled ones."
    )
    if spread.guessed:
        told += (
            f" {spread.guessed:,} requests are of sources without a sampled length: of the mean "
            "that is guessed for them, two worlds of three take half to double."
        )
    late = 0 if deadline is None else sum(seconds > deadline for seconds in spread.seconds)
    if late:
        told += f" In {late} of them it misses the deadline of {deadline:,.10g} s: leave more room."
    return [told]
