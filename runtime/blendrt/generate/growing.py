"""Answers while they grow: their newest tokens on the device, all others on the host, and when one
is over.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from blendrt.batch import Outputs
from blendrt.generate.wanted import Answer, Finish, Wanted
from blendsim.arrays import Bools, Ints

Text = Callable[[Sequence[int]], str]  # what token ids say, without special tokens

NO_NUMBERS = "the model's logits are no numbers there; its weights may be broken, or overflow"
LOST = -1  # in place of a token that no logits say
_TOKENS_A_CHARACTER = 4  # at most, where a tokenizer falls back to bytes


class GrowingTokens(Outputs):
    """Output tokens of requests that end when they end. The device keeps the newest one of each,
    which is all that decoding needs; what recomputing needs comes from the host.
    """

    def __init__(self, requests: int, device: torch.device) -> None:
        super().__init__(requests, device, torch.int64)  # as they are chosen: nothing is cast
        self._known: list[list[int]] = [[] for _ in range(requests)]

    def places(self, requests: Ints, positions: Ints) -> Ints:
        """A place a request, written over by every token."""
        return requests

    def sources(self, request: int, start: int, stop: int) -> Ints:
        """See `Outputs`. The host knows all but the newest at least: whoever was thrown out enters
        in a later step.
        """
        known = self._known[request][start:stop]
        assert start + len(known) >= stop - 1, "only the newest token may be on its way"
        on_device = np.full(stop - start - len(known), -1 - request)
        return np.concatenate([np.array(known, np.int64), on_device])

    def note(self, requests: list[int], tokens: list[int]) -> None:
        """The next token of each of the requests has come to the host."""
        known = self._known
        for request, token in zip(requests, tokens, strict=True):
            known[request].append(token)

    def known(self, request: int) -> list[int]:
        """All of the request's tokens that have come."""
        return self._known[request]

    def drop(self, request: int) -> None:
        """The request is over: nobody will ask again."""
        self._known[request] = []


class Ending:
    """Says when an answer is over, and what it is then."""

    def __init__(self, wanted: Wanted, text: Text) -> None:
        self._wanted = wanted
        self._text = text
        self._has_stops = np.array([bool(stops) for stops in wanted.stop], np.bool_)

    def may_end(self, rows: Ints, tokens: Ints, lengths: Ints) -> Bools:
        """Of which requests `answer` is to be asked, by their last token and how many they have:
        no other answer is over.
        """
        may: Bools = self._has_stops[rows] | (lengths == self._wanted.most[rows])
        may |= tokens == LOST
        for end in self._wanted.ends:
            may |= tokens == end
        return may

    def answer(self, row: int, tokens: list[int]) -> Answer | None:
        """The answer to request `row` if its last token ended it."""
        wanted = self._wanted
        if tokens[-1] == LOST:
            return Answer(row, tokens[:-1], "", Finish.FAILED, NO_NUMBERS)
        if tokens[-1] in wanted.ends:
            return Answer(row, tokens, self._text(tokens[:-1]), Finish.STOP)
        if (cut := self._before_stop(row, tokens)) is not None:
            return Answer(row, tokens, cut, Finish.STOP)
        if len(tokens) == wanted.most[row]:
            return Answer(row, tokens, self._text(tokens), Finish.LENGTH)
        return None

    def _before_stop(self, row: int, tokens: list[int]) -> str | None:
        """The text before the first stop text, if there is one by now."""
        stops = self._wanted.stop[row]
        if not stops or self._text(tokens[-2:]) == self._text(tokens[-2:-1]):
            return None  # the last token says nothing, as special ones do
        # A stop text that was not there before ends in the last token. The whole text is looked at
        # only if the end has one, for an answer's cost would grow with its square.
        end = self._end(tokens, max(len(stop) for stop in stops))
        if not any(stop in end for stop in stops):
            return None
        text = self._text(tokens)
        found = [at for at in map(text.find, stops) if at >= 0]
        return text[: min(found)] if found else None

    def _end(self, tokens: list[int], characters: int) -> str:
        """The end of the text, so many characters and the last token, or all of it. Tokens may be
        parts of characters, or special ones, which say nothing.
        """
        number = characters * _TOKENS_A_CHARACTER
        wanted = characters + len(self._text(tokens[-1:]))
        while True:
            end = self._text(tokens[-number:])
            if len(end) > wanted or number >= len(tokens):
                return end
            number *= 2
