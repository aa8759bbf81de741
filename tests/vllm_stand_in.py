"""The attributes of vLLM that are used of it, without vLLM: its scheduler is the little one of
vllm_small.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from vllm_small import Request, SmallScheduler

from blendrt.vllm.following import SCHEDULER, FollowsPlan


class StandInScheduler(SmallScheduler):
    """vLLM's scheduler, in little."""


class PlannedStandIn(FollowsPlan, StandInScheduler):
    """And what `SCHEDULER` makes of vLLM's."""


class StandInLoop:
    """The parts of vLLM's engine that are used to step it: it answers with `StandInLLM.answer_of`.
    Its own decoding goes on from a prompt, so that all answers begin with a space.
    """

    def __init__(self, engine: "StandInLLM") -> None:
        self._engine = engine
        self._asked: dict[str, tuple[list[int], dict[str, Any]]] = {}
        self.engine_core = SimpleNamespace(
            engine_core=SimpleNamespace(scheduler=engine.scheduler),
        )

    def add_request(self, name: str, prompt: Any, params: dict[str, Any]) -> None:
        ids = prompt["prompt_token_ids"]
        assert len(ids) + params["max_tokens"] <= self._engine.arguments["max_model_len"]
        assert not params["stop"] or not self._engine.arguments["skip_tokenizer_init"]
        self._engine.given.append((ids, params))
        self._asked[name] = ids, params
        request = request_of(name, ids, params)
        request.max_tokens = min(request.max_tokens, len(StandInLLM.answer_of(ids)))
        self._engine.scheduler.add_request(request)

    def has_unfinished_requests(self) -> bool:
        return bool(self._engine.scheduler.requests)

    def step(self) -> list[Any]:
        """A step of all requests, which answers those that it ends."""
        scheduler = self._engine.scheduler
        before = dict(scheduler.requests)
        output = scheduler.schedule()
        sampled = {}
        for name in output.num_scheduled_tokens:
            request = scheduler.requests[name]
            if not request.is_prefill_chunk:
                sampled[name] = StandInLLM.answer_of(self._asked[name][0])[len(request.output)]
        scheduler.update_from_output(output, sampled)
        told = [self._output(request) for request in before.values()]
        return [each for each in told if each is not None]

    def _output(self, request: Request) -> Any:
        """What is said of the request if its answer is over; a stop text is found only here, and
        the scheduler told afterwards.
        """
        scheduler, name, tokens = self._engine.scheduler, request.request_id, request.output
        params = self._asked[name][1]
        text = " " + "".join(f"<{token}>" for token in tokens) if params["detokenize"] else ""
        found = [stop for stop in params["stop"] if tokens and stop in text]
        if name in scheduler.requests:
            if not found:
                return None
            scheduler.finish_requests(name)
        is_end = tokens[-1] in params["stop_token_ids"]
        answer = SimpleNamespace(
            token_ids=tokens,
            text=text[: text.index(found[0])] if found else text,
            finish_reason="stop" if found or is_end else "length",
            stop_reason=found[0] if found else None,
        )
        return SimpleNamespace(request_id=name, finished=True, outputs=[answer])


def request_of(name: str, ids: list[int], params: dict[str, Any]) -> Request:
    """As vLLM makes one."""
    ends = params.get("stop_token_ids", ())
    return Request(name, ids, params["max_tokens"], ends, params["extra_args"])


class StandInLLM:
    """The parts of vLLM's offline engine that are used."""

    made: ClassVar[list["StandInLLM"]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.config = json.loads((Path(arguments["model"]) / "config.json").read_text())
        self.given: list[tuple[list[int], dict[str, Any]]] = []
        self.resets = 0
        made = PlannedStandIn if arguments.get("scheduler_cls") == SCHEDULER else StandInScheduler
        self.scheduler: Any = made(
            arguments["num_gpu_blocks_override"] - 1,
            arguments["max_num_batched_tokens"],
            arguments["max_num_seqs"],
        )
        self.llm_engine = StandInLoop(self)
        StandInLLM.made.append(self)

    @staticmethod
    def answer_of(prompt: list[int]) -> list[int]:
        """What is answered to a prompt if nothing cuts it short: tokens from 6 on, then a 5."""
        rng = np.random.default_rng(prompt)
        return [*rng.integers(6, 10, 1 + int(rng.exponential(18))).tolist(), 5]

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.given += list(zip(ids, params, strict=True))
        lengths = [param["max_tokens"] for param in params]
        scheduler = self.scheduler
        for number, (prompt, param) in enumerate(zip(ids, params, strict=True)):
            scheduler.add_request(request_of(f"{number}-{len(self.given)}", prompt, param))
        while scheduler.requests:
            output = scheduler.schedule()
            names = output.num_scheduled_tokens
            sampled = {k: 7 for k in names if not scheduler.requests[k].is_prefill_chunk}
            scheduler.update_from_output(output, sampled)
        answers = [SimpleNamespace(token_ids=[7] * length) for length in lengths]
        return [SimpleNamespace(outputs=[answer]) for answer in answers]

    def reset_prefix_cache(self) -> None:
        self.resets += 1


def install(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    """Put it in vLLM's place."""
    module = ModuleType("vllm")
    module.LLM = StandInLLM  # type: ignore[attr-defined]
    module.SamplingParams = dict  # type: ignore[attr-defined]
    module.TokensPrompt = dict  # type: ignore[attr-defined]
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final only"))
    module.sampling_params = kinds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setattr(StandInLLM, "made", [])
    return StandInLLM
