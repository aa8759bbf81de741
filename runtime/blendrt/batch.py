"""StepInputs: what one engine step computes, as tensors, made on the host without waiting for the
device.

A step is made before the tokens of the one before are known: where a token is one that the model
generated, its id is fetched on the device from where an earlier step put it. A token at position i
of a request is prompt token i, or output token i − prompt; computing position i yields output token
i + 1 − prompt.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from blendrt.attention.layout import (
    AttentionLayout,
    HostLayout,
    Rows,
    lay_out_on_host,
    upload_together,
)
from blendrt.pages import PagedStep
from blendrt.tokens import PromptTokens
from blendsim.arrays import Ints
from blendsim.batch import Batch
from blendsim.serving.core import ServingCore


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One engine step. Tokens stand as in the layout: chunks first, then decodes."""

    ids: Tensor  # (tokens,) int64, device
    layout: AttentionLayout
    sample_rows: Tensor  # (samples,) int64, device: tokens whose logits give an output token
    sample_places: Tensor  # (samples,) int64, device: where Outputs keeps it
    sample_requests: Ints  # (samples,) whose it is, by the core's numbers
    counts: Batch


class Outputs(ABC):
    """Output tokens of a core's requests on the device, each in its place among `tokens`."""

    def __init__(self, places: int, device: torch.device, dtype: torch.dtype = torch.int32) -> None:
        self.tokens = torch.zeros(places, dtype=dtype, device=device)

    @abstractmethod
    def places(self, requests: Ints, positions: Ints) -> Ints:
        """Where output token `positions[i]` of `requests[i]` is kept, the newest one of each."""

    @abstractmethod
    def sources(self, request: int, start: int, stop: int) -> Ints:
        """What `fetch` reads for output tokens `start` … `stop` − 1 of one request, its newest
        being the last.
        """

    def store(self, places: Tensor, tokens: Tensor) -> None:
        """Keep a step's sampled tokens."""
        self.tokens.index_copy_(0, places, tokens.to(self.tokens.dtype))

    def at(self, places: Tensor) -> Tensor:
        """Ids of the output tokens that are kept there."""
        return self.tokens.index_select(0, places).long()

    def fetch(self, source: Tensor) -> Tensor:
        """Ids from a mixed list: a value ≥ 0 is an id, −1 − place stands for an output token."""
        return torch.where(source >= 0, source, self.at((-1 - source).clamp_(min=0)))


class OutputTokens(Outputs):
    """All output tokens of a core whose output lengths are forced: nobody has to read them before
    the end.
    """

    def __init__(self, output_len: Ints, device: torch.device) -> None:
        self._first: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(output_len)])
        super().__init__(int(self._first[-1]), device)

    def places(self, requests: Ints, positions: Ints) -> Ints:
        """Every token has one of its own."""
        return self._first[requests] + positions

    def sources(self, request: int, start: int, stop: int) -> Ints:
        """See `Outputs`."""
        return -1 - self._first[request] - np.arange(start, stop)

    def lists(self) -> list[list[int]]:
        """Every request's output; waits for the device."""
        flat = self.tokens.tolist()
        return [flat[a:b] for a, b in zip(self._first, self._first[1:], strict=False)]


Kept = TypeVar("Kept", bound=Outputs)


class BatchBuilder(Generic[Kept]):
    """Makes a core's steps into inputs."""

    def __init__(
        self, core: ServingCore, prompts: PromptTokens, outputs: Kept, device: torch.device
    ) -> None:
        requests: Any = core.state.requests
        self.outputs = outputs
        self._prompt_len: Ints = requests.prompt.copy()
        self._rows = core.rows
        self._block = int(core.state.scalars[0].block_tokens)
        self._prompts = prompts
        self._device = device

    def build(self, step: PagedStep, counts: Batch) -> StepInputs:
        """The inputs of a step whose pages are numbered."""
        ends = np.cumsum(step.tokens)
        who = np.flatnonzero(step.samples)
        sampled = step.requests[who]
        done = (step.computed + step.tokens)[who]
        places = self.outputs.places(sampled, done - self._prompt_len[sampled])
        prefill, latest = self._chunk_sources(step), self._latest(step)
        layout = self._layout(step)
        sources = np.concatenate([prefill, latest])
        to_send = (sources, ends[who] - 1, places, *layout.to_send)
        ids, rows, kept, *laid_out = upload_together(to_send, self._device)
        return StepInputs(
            ids=self._ids(ids, prefill),
            layout=layout.on_device(*laid_out),
            sample_rows=rows,
            sample_places=kept,
            sample_requests=sampled,
            counts=counts,
        )

    def _ids(self, sent: Tensor, prefill: Ints) -> Tensor:
        """Ids of the step's tokens from what was sent: sources of prefill tokens, which may be
        mixed, and places of the output tokens that decodes take in.
        """
        cut = len(prefill)
        if not cut:
            return self.outputs.at(sent)
        if (prefill < 0).any():
            sent[:cut] = self.outputs.fetch(sent[:cut])
        sent[cut:] = self.outputs.at(sent[cut:])
        return sent

    def _chunk_sources(self, step: PagedStep) -> Ints:
        """What `Outputs.fetch` reads, of every prefill token."""
        n = step.chunks
        parts: list[Ints] = [np.zeros(0, np.int64)]
        columns = (step.requests[:n], step.computed[:n], step.tokens[:n])
        for request, start, tokens in zip(*(c.tolist() for c in columns), strict=True):
            stop, prompt = start + tokens, int(self._prompt_len[request])
            parts.append(
                self._prompts.ids(int(self._rows[request]), min(start, prompt), min(stop, prompt))
            )
            # Recomputed after a preemption: the prompt, then what had been generated.
            ends = max(start, prompt) - prompt, max(stop, prompt) - prompt
            parts.append(self.outputs.sources(request, *ends))
        return np.concatenate(parts)

    def _latest(self, step: PagedStep) -> Ints:
        """Where the newest token of every decode is kept."""
        requests = step.requests[step.chunks :]
        generated = step.computed[step.chunks :] - self._prompt_len[requests]
        return self.outputs.places(requests, generated)

    def _layout(self, step: PagedStep) -> HostLayout:
        n = step.chunks
        cut = int(step.indptr[n])
        return lay_out_on_host(
            chunks=step.tokens[:n],
            computed=step.computed[:n],
            chunk_pages=Rows(step.indptr[: n + 1], step.indices[:cut]),
            contexts=step.computed[n:] + 1,
            decode_pages=Rows(step.indptr[n:] - cut, step.indices[cut:]),
            block_tokens=self._block,
        )
