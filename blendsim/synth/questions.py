"""MMLU as a supply: questions that share their subject's prefix.

Beyond the distinct prompts at hand, a request gets the prefix and the question length of a random
one and a question of its own, so that no prompt comes twice.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, from_lengths
from blendsim.synth.supply import Drawn, listing, shuffled, stream, system_prompt
from blendsim.traces.demo_prefixes import Questions

ANSWER_TOKENS = 2  # the letter and the end
_PARTS = ("prefix_tokens", "prefix_len", "suffix_tokens", "suffix_len", "subject_of_prompt")


class QuestionSupply:
    """Questions of a multiple-choice test, then ever new ones of the same subjects."""

    def __init__(
        self, name: str, origin: str, questions: Questions, *, seed: int, system_tokens: int
    ) -> None:
        self.name, self.origin = name, origin
        self._seed = seed
        system = system_prompt(name, seed, system_tokens)
        self._heads = [np.concatenate((system, prefix)) for prefix in questions.prefixes]
        order = stream(name, seed, 0).permutation(len(questions.subject))
        self._suffixes = [questions.suffixes[row] for row in order.tolist()]
        self._subject = questions.subject[order]
        self._head_len = np.array([len(head) for head in self._heads], np.int64)
        self._suffix_len = np.array([len(suffix) for suffix in self._suffixes], np.int64)
        self._whole: int | None = None  # tokens that all questions at hand share

    def draw(self, n: int, trial: int) -> Drawn:
        """Lengths of n prompts. What they share is counted in the prefix tree of the questions at
        hand; a new question shares its whole prefix, which is in that tree.
        """
        subject, suffix_len, at_hand = self._rows(n, trial)
        prompt = self._head_len[subject] + suffix_len
        new = int(self._head_len[subject[at_hand:]].sum())
        return Drawn(prompt, np.full(n, ANSWER_TOKENS), self._shared(at_hand) + new)

    def requests(self, n: int, trial: int) -> Workload:
        """The n prompts, listed as far as they may be shared."""
        subject, suffix_len, at_hand = self._rows(n, trial)
        listed = self._head_len[subject]
        listed[:at_hand] += suffix_len[:at_hand]
        heads = [self._heads[code] for code in subject.tolist()]
        pairs = zip(heads[:at_hand], self._suffixes[:at_hand], strict=True)
        pieces = [piece for pair in pairs for piece in pair] + heads[at_hand:]
        return from_lengths(
            self._head_len[subject] + suffix_len,
            np.full(n, ANSWER_TOKENS),
            source=self.name,
            prompts=listing(self.name, listed, np.concatenate(pieces)),
        )

    def _rows(self, n: int, trial: int) -> tuple[Ints, Ints, int]:
        """Subject and question length of n prompts, and how many of them are questions at hand."""
        at_hand = min(n, len(self._subject))
        rows = shuffled(len(self._subject), n - at_hand, stream("new questions", self._seed, trial))
        rows = np.concatenate((np.arange(at_hand), rows))
        return self._subject[rows], self._suffix_len[rows], at_hand

    def _shared(self, at_hand: int) -> int:
        if at_hand == len(self._subject):
            if self._whole is None:
                self._whole = self._in_tree(at_hand)
            return self._whole
        return self._in_tree(at_hand)

    def _in_tree(self, at_hand: int) -> int:
        workload = self.requests(at_hand, 0)
        return shareable_tokens(workload, sort_prompts(workload))


def read_questions(path: Path) -> Questions:
    """The distinct prompts of a file of prefix-compressed token ids (docs/synth.md)."""
    try:
        with np.load(path) as file:
            parts = [file[name] for name in _PARTS]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: is not a file of MMLU prompts ({error}); it needs the arrays "
            f"{', '.join(_PARTS)}, or leave it out for the generator"
        ) from error
    prefix_tokens, prefix_len, suffix_tokens, suffix_len, subject = parts
    questions = Questions(
        _pieces(prefix_tokens, prefix_len, "prefix", path),
        _pieces(suffix_tokens, suffix_len, "suffix", path),
        np.asarray(subject, np.int64),
    )
    if (
        len(questions.subject) != len(questions.suffixes)
        or not ((questions.subject >= 0) & (questions.subject < len(questions.prefixes))).all()
    ):
        raise InputError(f"{path}: 'subject_of_prompt' names no prefix a prompt; mend the file")
    return _distinct(questions)


def _pieces(
    tokens: NDArray[np.int32], lengths: NDArray[np.int32], what: str, path: Path
) -> list[NDArray[np.int32]]:
    if not len(lengths) or int(lengths.min()) < 1 or int(lengths.sum()) != len(tokens):
        raise InputError(
            f"{path}: '{what}_len' and '{what}_tokens' do not belong together "
            f"({int(lengths.sum()):,} against {len(tokens):,} tokens); mend the file"
        )
    ends = np.cumsum(lengths.astype(np.int64))[:-1]
    return np.split(tokens.astype(np.int32), ends)


def _distinct(questions: Questions) -> Questions:
    """Without prompts that repeat an earlier one."""
    pairs = zip(questions.subject.tolist(), questions.suffixes, strict=True)
    first: dict[tuple[int, bytes], int] = {}
    for row, (subject, suffix) in enumerate(pairs):
        first.setdefault((subject, suffix.tobytes()), row)
    rows = list(first.values())
    return Questions(
        questions.prefixes, [questions.suffixes[row] for row in rows], questions.subject[rows]
    )
