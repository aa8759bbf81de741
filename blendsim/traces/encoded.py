"""Texts made into tokens, once each and in chunks, so that somebody can be told how far it is."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from blendsim.traces.prompt_forms import Content
from blendsim.traces.tokens import Encoder

_CHUNK = 512  # texts between two words about how far it is


class Encoded:
    """The tokens of some prompts, as the encoder gives them or as the prompts do themselves."""

    def __init__(self, encode: Encoder) -> None:
        of_none = encode.encode([])
        self.note, self.space, self.is_model = encode.note, of_none.space, of_none.is_model
        self._encode = encode
        self._made: dict[tuple[bool, str], NDArray[np.int32]] = {}

    def make(self, prompts: Iterable[Content], heard: Callable[[int, int], None]) -> None:
        """Tokens of all prompts that are given as texts; `heard` is told of how many out of how
        many they are, before every chunk of them and at the end.
        """
        texts = ((p.has_special, p.text) for p in prompts if p.tokens is None)
        asked = [text for text in dict.fromkeys(texts) if text not in self._made]
        done = 0
        for has_special in (False, True):
            some = [text for special, text in asked if special is has_special]
            for start in range(0, len(some), _CHUNK):
                heard(done, len(asked))
                chunk = some[start : start + _CHUNK]
                lists = self._encode.encode(chunk, has_special).lists
                self._made.update(zip(((has_special, text) for text in chunk), lists, strict=True))
                done += len(chunk)
        if asked:
            heard(done, len(asked))

    def of(self, prompt: Content) -> NDArray[np.int32]:
        """Token ids of a prompt that was made."""
        if prompt.tokens is not None:
            return np.asarray(prompt.tokens, np.int32)
        return self._made[prompt.has_special, prompt.text]
