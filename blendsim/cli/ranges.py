"""What a terminal is told of how far predicted seconds may be off."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blendsim.search.spread import Spread


def range_told(spread: "Spread", missed: Mapping[str, int] | None = None) -> list[str]:
    """A paragraph on a plan's times in other worlds that the sample allows, and in how many of them
    it misses limits that are named; none where there is one world only.
    """
    if not spread.seconds:
        return []
    count, low, high = len(spread.seconds), spread.seconds[0], spread.seconds[-1]
    doubt = "in two worlds of three the mean is half to double of that"
    if spread.guessed == spread.hidden:
        told = (
            f"Predicted seconds hang on a guess, since no length was seen: in {count} worlds in "
            f"which it is wrong the plan takes {low:,.1f} to {high:,.1f} s ({doubt}, where "
            "max_tokens lets it)."
        )
    else:
        told = (
            f"Predicted seconds hang on lengths that were not sampled: in {count} worlds that the "
            f"sample allows the plan takes {low:,.1f} to {high:,.1f} s, and longer if an answer is "
            "longer than all sampled ones."
        )
        if spread.guessed:
            told += (
                f" {spread.guessed:,} requests are of sources without a sampled length, and are "
                f"guessed: {doubt}."
            )
    if missed:
        late = [f"in {worlds} of them it misses {limit}" for limit, worlds in missed.items()]
        told += f" I{', '.join(late)[1:]}: leave more room."
    return [told]
