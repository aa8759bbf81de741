"""Answers by vLLM: requests in the order their plan admits them, each answer as long as the model
makes it and told as soon as it is over.

vLLM chooses the tokens and knows when an answer is over, stop texts included. Its loop is run from
here, a step at a time, since `LLM.generate` tells nothing before the last request is done.
"""

from collections.abc import Callable
from typing import Any

from blendrt.generate.growing import Ending, Text
from blendrt.generate.wanted import Answer, Finish, Wanted
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.tokens import PromptTokens
from blendrt.vllm.feed import library, running
from blendrt.vllm.following import ROW, Course
from blendrt.vllm.lead import follows

_SEEDS = 2**63 - 1


class VllmAnswers:
    """An engine that `open_engine` made, with a tokenizer if there are stop texts, answering one
    job after another.
    """

    def __init__(self, engine: Any, vocab: int, text: Text, is_plain: bool = False) -> None:
        self._engine = engine
        self._vocab = vocab
        self._text = text
        self._is_plain = is_plain  # vLLM is to follow no plan, and only to be fed in its order

    def answer(
        self,
        job: Job,
        wanted: Wanted,
        answered: Callable[[Answer], None],
        recorder: Recorder,
    ) -> list[Course]:
        """Answer all requests of the job, rank after rank, each answer told when it is over; steps
        are added to `recorder`, where a request that a stop text ended is not counted as finished.
        Returns how far vLLM followed each rank of a plan that is taken from both ends.

        The job's `output_len`, what planning expects, decides in which order requests are given to
        vLLM, and nothing else. If it fails, what was told stays told.
        """
        vllm, loop = library(), self._engine.llm_engine
        tokens, ending = PromptTokens(job.workload, self._vocab), Ending(wanted, self._text)
        courses: list[Course] = []
        is_led = follows(job) and not self._is_plain
        for rank in job.ranks:
            with running(self._engine, job, rank, is_led, courses, recorder, wanted.most) as rows:
                for row in rows:
                    prompt = vllm.TokensPrompt(prompt_token_ids=tokens.prompt(row).tolist())
                    loop.add_request(str(row), prompt, sampling(vllm, wanted, row))
                while loop.has_unfinished_requests():
                    for output in loop.step():
                        row = int(output.request_id)
                        answered(self._answer(row, output.outputs[0], ending))
        return courses

    def _answer(self, row: int, output: Any, ending: Ending) -> Answer:
        """What our own engine makes of the tokens, if it would have ended the answer, too."""
        tokens = list(output.token_ids)
        if not tokens or output.finish_reason not in (Finish.STOP, Finish.LENGTH):
            why = f"vLLM ended it after {len(tokens)} tokens ({output.finish_reason})"
            return Answer(row, tokens, "", Finish.FAILED, why)
        if (ours := ending.answer(row, tokens)) is not None:
            return ours
        # vLLM alone ends it: where its context is full, at the tokenizer's end of text if that is
        # none of the ends, or at a stop text in its own decoding, which goes on from the prompt.
        is_cut = isinstance(output.stop_reason, str)
        text = output.text if is_cut else self._text(tokens)
        return Answer(row, tokens, text, Finish(output.finish_reason))


def sampling(vllm: Any, wanted: Wanted, row: int) -> Any:
    """What vLLM is told of one request's answer."""
    return vllm.SamplingParams(
        temperature=float(wanted.temperature[row]),
        top_p=float(wanted.top_p[row]),
        # NOTE: vLLM takes a seed of -1 for none. One a request makes it draw request by request.
        seed=int(wanted.seed[row]) & _SEEDS if wanted.is_seeded[row] else None,
        max_tokens=int(wanted.most[row]),
        stop=list(wanted.stop[row]),
        stop_token_ids=sorted(wanted.ends),
        # It looks for a stop text in the text as that grows; other texts nobody reads.
        detokenize=bool(wanted.stop[row]),
        # Else every step would bring the whole answer so far of every running request.
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        extra_args={ROW: row},
    )
