"""An encoder that says how far it is and keeps what it made, so that texts may be looked at before
they are made into a workload.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from blendsim.traces.tokens import Encoder, Tokens

_CHUNK = 1_024  # texts between two words about how far it is


class Encoded:
    """The tokens of some texts, as the encoder it is made of gives them; an encoder of those texts
    itself.
    """

    def __init__(self, encode: Encoder) -> None:
        self.note = encode.note
        self._encode = encode
        self._made: dict[tuple[bool, str], NDArray[np.int32]] = {}

    def make(self, texts: Iterable[tuple[bool, str]], say: Callable[[str], None]) -> None:
        """Tokens of all texts, each with whether it has its special tokens; `say` is told of every
        tenth of them.
        """
        asked = list(dict.fromkeys(texts))
        n, done = len(asked), 0
        for has_special in (False, True):
            some = [text for special, text in asked if special is has_special]
            for start in range(0, len(some), _CHUNK):
                chunk = some[start : start + _CHUNK]
                for text, ids in zip(
                    chunk, self._encode.encode(chunk, has_special).lists, strict=True
                ):
                    self._made[has_special, text] = ids
                done += len(chunk)
                say(f"{done * 10 // n * 10} % of {n:,} prompts made into tokens")

    def count(self, text: str, has_special: bool) -> int:
        """Tokens of a text that was made."""
        return len(self._made[has_special, text])

    def encode(self, texts: Sequence[str], has_special: bool = False) -> Tokens:
        """Token ids of texts that were made."""
        of_none = self._encode.encode([], has_special)
        return of_none._replace(lists=[self._made[has_special, text] for text in texts])
