"""Prompts made into tokens in chunks, so that somebody can be told how far it is."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from blendsim.traces.prompt_forms import Content
from blendsim.traces.tokens import Encoder

CHUNK = 512  # texts between two words about how far it is

Ids = NDArray[np.int32]


class Encoded:
    """The tokens of some prompts, as the encoder gives them or as the prompts do themselves."""

    def __init__(self, encode: Encoder) -> None:
        of_none = encode.encode([])
        self.note, self.space, self.is_model = encode.note, of_none.space, of_none.is_model
        self._encode = encode
        self._made: dict[tuple[bool, str], Ids] = {}

    def make(self, prompts: Iterable[Content], heard: Callable[[int, int], None]) -> None:
        """Make and keep the tokens of all prompts that are given as texts, each text's once;
        `heard` is told of how many out of how many they are, before every chunk of them and at the
        end.
        """
        texts = ((p.has_special, p.text) for p in prompts if p.tokens is None)
        asked = [text for text in dict.fromkeys(texts) if text not in self._made]
        done = 0
        for has_special in (False, True):
            some = [text for special, text in asked if special is has_special]
            for start in range(0, len(some), CHUNK):
                heard(done, len(asked))
                chunk = some[start : start + CHUNK]
                lists = self._encode.encode(chunk, has_special).lists
                self._made.update(zip(((has_special, text) for text in chunk), lists, strict=True))
                done += len(chunk)
        if asked:
            heard(done, len(asked))

    def of(self, prompts: Sequence[Content]) -> list[Ids]:
        """Token ids of each prompt. Those that were not made are, and are not kept."""
        lists = [np.asarray(prompt.tokens or (), np.int32) for prompt in prompts]
        for has_special in (False, True):
            rows = [
                row
                for row, prompt in enumerate(prompts)
                if prompt.tokens is None and prompt.has_special is has_special
            ]
            texts = [prompts[row].text for row in rows]
            new = [text for text in texts if (has_special, text) not in self._made]
            made = dict(zip(new, self._encode.encode(new, has_special).lists, strict=True))
            for row, text in zip(rows, texts, strict=True):
                lists[row] = made[text] if text in made else self._made[has_special, text]
        return lists
