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
        core = SimpleNamespace(scheduler=self.scheduler)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(engine_core=core))
        StandInLLM.made.append(self)

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
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setattr(StandInLLM, "made", [])
    return StandInLLM
