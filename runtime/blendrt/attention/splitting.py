"""How long contexts are cut, so that no block of a GPU still reads one when all others are done.

A block reads one decode's KV of one head. As many blocks as the GPU holds run at once and the next
take over as they end, so reading takes the blocks' fair part of all tokens, and up to the longest
piece more. Left to itself FlashInfer cuts contexts only where there are fewer decodes than places
for them.
"""

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.integer]

#: Pieces of one batch, for whose partial results there is memory.
MOST_CHUNKS = 3072
_LEAST_TOKENS = 1024  # a shorter piece costs more to begin and to join than it evens out
_PIECES = 8  # of what a place reads in all: the last one ends an eighth late at worst


def chunk_tokens(lengths: Lengths, slots: int) -> int:
    """Tokens of a piece for decodes at these contexts (tokens), of which `slots` are read at once;
    0 where cutting would not help or its partial results would not fit.
    """
    fair = int(lengths.sum()) // max(1, slots)
    chunk = max(_LEAST_TOKENS, fair // _PIECES)
    if lengths.max(initial=0) <= 2 * chunk:
        return 0
    while int((-(-lengths // chunk)).sum()) > MOST_CHUNKS:
        chunk *= 2
        if lengths.max() <= chunk:
            return 0
    return chunk
