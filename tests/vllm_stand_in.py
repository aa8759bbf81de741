"""The attributes of vLLM that are used of it, without vLLM: scheduling is our own core's under
vLLM's rules, whose steps are held to vLLM's in test_vllm_parity.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from replay_worlds import BLOCKS
from vllm_worlds import core_of

from blendsim.serving.state import DECODING, PREFILLING


class StandInScheduler:
    """The parts of vLLM's scheduler that are listened to."""

    def __init__(self, budget: int, running: int) -> None:
        self.requests: dict[str, Any] = {}
        self.running: list[int] = []
        self.max_num_scheduled_tokens = budget
        self.max_num_running_reqs = running
        free = lambda: BLOCKS - self.core.counts()["held_blocks"]  # noqa: E731
        block_pool = SimpleNamespace(num_gpu_blocks=BLOCKS + 1, get_num_free_blocks=free)
        self.kv_cache_manager = SimpleNamespace(block_pool=block_pool)

    def add(self, prompts: list[list[int]], outputs: list[int]) -> None:
        """The requests of one run."""
        world = {
            "prompts": prompts,
            "outputs": outputs,
            "capacity": BLOCKS,
            "budget": self.max_num_scheduled_tokens,
            "max_running": self.max_num_running_reqs,
            "sharing": True,
        }
        self.core = core_of(world)
        self.requests = {
            str(i): SimpleNamespace(
                num_prompt_tokens=len(prompt), num_tokens=len(prompt), num_computed_tokens=0
            )
            for i, prompt in enumerate(prompts)
        }

    def _now_running(self) -> list[int]:
        status = self.core.state.requests.status
        return np.flatnonzero(np.isin(status, (PREFILLING, DECODING))).tolist()

    def schedule(self) -> Any:
        before = self._now_running()
        self.core.step()
        self.running = self._now_running()
        out = {str(k) for k in before if k not in self.running}
        for name in out:
            self.requests[name].num_computed_tokens = 0
        tokens = {}
        for row, computed, number in zip(*self.core.scheduled(), strict=True):
            tokens[str(row)] = int(number)
            self.requests[str(row)].num_computed_tokens = int(computed + number)
        return SimpleNamespace(num_scheduled_tokens=tokens, preempted_req_ids=out)

    def update_from_output(self, output: Any, tokens: Any) -> None:
        assert tokens == "tokens"
        for name in output.num_scheduled_tokens:
            request = self.requests[name]
            if request.num_computed_tokens == request.num_tokens:
                request.num_tokens += 1
        self.core.commit()
        done = self.core.state.requests.status
        for name in output.num_scheduled_tokens:
            if done[int(name)] not in (PREFILLING, DECODING):
                del self.requests[name]


class StandInLoop:
    """The parts of vLLM's engine that are used to step it: it answers with `StandInLLM.answer_of`.
    Its own decoding goes on from a prompt, so that all answers begin with a space.
    """

    def __init__(self, engine: "StandInLLM") -> None:
        self._engine = engine
        self._added: list[tuple[str, list[int], dict[str, Any]]] = []
        self._begun: list[tuple[str, list[int], dict[str, Any]]] = []
        self.engine_core = SimpleNamespace(
            engine_core=SimpleNamespace(scheduler=engine.scheduler),
        )

    def add_request(self, name: str, prompt: Any, params: dict[str, Any]) -> None:
        ids = prompt["prompt_token_ids"]
        assert len(ids) + params["max_tokens"] <= self._engine.arguments["max_model_len"]
        assert not params["stop"] or not self._engine.arguments["skip_tokenizer_init"]
        self._engine.given.append((ids, params))
        self._added.append((name, ids, params))

    def has_unfinished_requests(self) -> bool:
        return bool(self._added or self._engine.scheduler.requests)

    def step(self) -> list[Any]:
        """A step of all requests, which answers those that it ends."""
        scheduler = self._engine.scheduler
        if self._added:
            self._begun, self._added = self._added, []
            wholes = [self._whole(ids, params) for _, ids, params in self._begun]
            scheduler.add([ids for _, ids, _ in self._begun], list(map(len, wholes)))
        before = dict(scheduler.requests)
        output = scheduler.schedule()
        scheduler.update_from_output(output, "tokens")
        told = [self._output(int(k), request, k) for k, request in before.items()]
        return [each for each in told if each is not None]

    def _whole(self, ids: list[int], params: dict[str, Any]) -> list[int]:
        """The answer but for stop texts."""
        drawn = StandInLLM.answer_of(ids)[: params["max_tokens"]]
        ends = [k for k, token in enumerate(drawn) if token in params["stop_token_ids"]]
        return drawn[: ends[0] + 1] if ends else drawn

    def _output(self, place: int, request: Any, key: str) -> Any:
        """What is said of the request if its answer is over; a stop text is found only here, so
        that the scheduler does not know of it.
        """
        name, ids, params = self._begun[place]
        scheduler = self._engine.scheduler
        tokens = self._whole(ids, params)[: request.num_tokens - request.num_prompt_tokens]
        text = " " + "".join(f"<{token}>" for token in tokens) if params["detokenize"] else ""
        found = [stop for stop in params["stop"] if stop in text]
        if key in scheduler.requests:
            if not found:
                return None
            del scheduler.requests[key]
            scheduler.core.end(np.array([place]))
        is_end = tokens[-1] in params["stop_token_ids"]
        answer = SimpleNamespace(
            token_ids=tokens,
            text=text[: text.index(found[0])] if found else text,
            finish_reason="stop" if found or is_end else "length",
            stop_reason=found[0] if found else None,
        )
        return SimpleNamespace(request_id=name, finished=True, outputs=[answer])


class StandInLLM:
    """The parts of vLLM's offline engine that are used."""

    made: ClassVar[list["StandInLLM"]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.config = json.loads((Path(arguments["model"]) / "config.json").read_text())
        self.given: list[tuple[list[int], dict[str, Any]]] = []
        self.resets = 0
        self.scheduler = StandInScheduler(
            arguments["max_num_batched_tokens"], arguments["max_num_seqs"]
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
        self.scheduler.add(ids, lengths)
        while self.scheduler.requests:
            self.scheduler.update_from_output(self.scheduler.schedule(), "tokens")
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
