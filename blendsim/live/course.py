"""A batch on its way: which of its requests are answered, how long the answers are, and what the
results file says of them.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from blendsim.arrays import Bools
from blendsim.errors import InputError
from blendsim.traces.answers import Reply, answer_line, error_line
from blendsim.traces.counts import shown
from blendsim.wording import Say

if TYPE_CHECKING:
    from blendrt.generate.wanted import Answer
    from blendsim.arrays import Ints
    from blendsim.traces.asked import BatchFile
    from blendsim.traces.results_file import ResultsFile


class Course:
    """A batch and its results. Masks (n,) say something of every request that could be read; those
    that cannot be answered by what they ask for are only counted.
    """

    def __init__(self, file: "BatchFile", results: "ResultsFile", say: Say) -> None:
        self.file = file
        self._results = results
        self._say = say
        #: Why requests are refused, in the order in which that was found.
        self.reasons: list[str] = []
        # Of another run's results, whatever answered it there.
        self._answered_apart = sum(each.custom_id in results.done for each in file.refused)
        n = len(file.asked)
        self.lengths: Ints = np.zeros(n, np.int64)  # output tokens of those answered
        self.refused = np.zeros(n, np.bool_)
        for row, asked in enumerate(file.asked):
            if asked.custom_id in results.done:
                self.lengths[row] = max(1, results.done[asked.custom_id])
        self.answered_before = self.answered.copy()
        self._done = int(self.answered.sum())
        self._can_be_done = len(self.lengths)

    @property
    def answers(self) -> int:
        """Answers in the file."""
        return int(self.answered.sum()) + self._answered_apart

    @property
    def answers_before(self) -> int:
        """Answers that were there when the run began."""
        return int(self.answered_before.sum()) + self._answered_apart

    @property
    def answered(self) -> Bools:
        """Whether it has an answer in the file."""
        return self.lengths > 0

    @property
    def left(self) -> Bools:
        """Whether it still wants one."""
        return ~self.answered & ~self.refused

    def refuse_unread(self) -> None:
        """Write an error for every request that asks for what we cannot do."""
        for each in self.file.refused:
            if each.custom_id not in self._results.done:
                self._results.write(error_line(each.custom_id, each.why))
                self.reasons.append(each.why)

    def refuse(self, context: int, memory: int, is_strict: bool = False) -> None:
        """Write an error for every request that, with the answer it asks for, has more tokens than
        the model's `context` or the KV memory takes; InputError for the first if `is_strict`.
        """
        workload = self.file.workload
        least = np.maximum(1, np.minimum(workload.output_limit, context - workload.prompt_len))
        for row in np.flatnonzero(self.left & (workload.prompt_len + least > min(context, memory))):
            prompt, answer = int(workload.prompt_len[row]), int(least[row])
            what = f"the prompt has {prompt} tokens and the model's context is {context}"
            if prompt + 1 <= context:
                what = (
                    f"the prompt has {prompt} tokens, its answer may have {answer}, and KV memory "
                    f"has room for {memory}; ask for less, or go on with --resume and more memory"
                )
            name = self.file.asked[row].custom_id
            if is_strict:
                raise InputError(f"{self.file.path}: request {shown(name)}: {what}")
            self._give_up(int(row))
            self._results.write(error_line(name, what))
            self.reasons.append(f"request {shown(name)}: {what}")

    def take(self, row: int, answer: "Answer") -> None:
        """Keep the answer to request `row`; an error line where the engine found none."""
        if answer.finish == "failed":
            name = self.file.asked[row].custom_id
            self._give_up(row)
            self._results.write(error_line(name, answer.why, is_ours=True))
            self.reasons.append(f"request {shown(name)}: {answer.why}")
            return
        prompt, tokens = int(self.file.workload.prompt_len[row]), len(answer.tokens)
        reply = Reply(answer.text, answer.finish == "length", prompt, tokens)
        self._results.write(answer_line(self.file.asked[row], reply, int(time.time())))
        self.lengths[row] = tokens
        self._done += 1
        n = self._can_be_done
        self._say(f"{self._done * 100 // n} % of {n:,} requests answered")

    def _give_up(self, row: int) -> None:
        self.refused[row] = True
        self._can_be_done -= 1
