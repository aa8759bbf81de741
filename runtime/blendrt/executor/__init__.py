"""Executors: how one engine step's pieces are put on a device."""

from typing import Protocol

from torch import Tensor

from blendrt.batch import StepInputs


class Executor(Protocol):
    """Runs steps over its own decoder, attention and KV pool."""

    def run(self, inputs: StepInputs) -> Tensor:
        """Compute the step and return the greedy token of every sample row, (samples,) int64.

        Nobody waits for the device here; the result is ready in the order of the caller's stream.
        """
        ...

    @property
    def is_halved(self) -> bool:
        """Whether the last step that was run was cut in two halves."""
        ...

    def warm_up(self, inputs: StepInputs) -> None:
        """Run the step in every way that this executor might, for nobody to time."""
        ...
