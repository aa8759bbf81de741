"""A batch on its way: which of its requests are answered, how long the answers are, and what the
results file says of them.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blendsim.cli.machine import Say
from blendsim.traces.answers import Reply, answer_line, error_line

if TYPE_CHECKING:
    from blendrt.generate.wanted import Answer
    from blendsim.request import Ints
    from blendsim.traces.asked import BatchFile
    from blendsim.traces.results_file import ResultsFile


class Course:
    """A batch on its way: what is answered, and how long the answers are."""

    def __init__(self, file: "BatchFile", results: "ResultsFile", say: Say) -> None:
        self.file = file
        self.results = results
        self._say = say
        n = len(file.workload)
        self.lengths: Ints = np.zeros(n, np.int64)  # output tokens of those answered
        self.refused = np.zeros(n, np.bool_)
        rows = {str(name): row for row, name in enumerate(file.workload.ids)}
        for name, tokens in results.done.items():
            self.lengths[rows[name]] = max(1, tokens)
        self.before = self.answered.copy()
        self._done = int(self.before.sum())

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) which requests have an answer in the file."""
        return self.lengths > 0

    @property
    def left(self) -> NDArray[np.bool_]:
        """(n,) which still want one."""
        return ~self.answered & ~self.refused

    def refuse(self, longest: int) -> None:
        """Write an error for every request whose prompt leaves no room for an answer."""
        prompt_len = self.file.workload.prompt_len
        for row in np.flatnonzero(self.left & (prompt_len >= longest)).tolist():
            self.refused[row] = True
            message = f"the prompt has {prompt_len[row]} tokens, with its answer {longest} fit"
            self.results.write(error_line(self.file.asked[row].custom_id, message))

    def take(self, row: int, answer: "Answer") -> None:
        """Keep the answer to request `row`."""
        prompt, tokens = int(self.file.workload.prompt_len[row]), len(answer.tokens)
        reply = Reply(answer.text, answer.finish == "length", prompt, tokens)
        self.results.write(answer_line(self.file.asked[row], reply, int(time.time())))
        self.lengths[row] = tokens
        self._done += 1
        n = len(self.lengths)
        self._say(f"{self._done * 10 // n * 10} % of {n:,} requests answered")
