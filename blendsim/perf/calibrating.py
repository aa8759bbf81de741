"""Finding a calibration: from step logs of a runtime, and what its kernels take for those steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats
from blendsim.errors import ProfileError
from blendsim.perf.calibration import Calibration
from blendsim.perf.model import StepModel
from blendsim.perf.pricing import price_steps, price_work
from blendsim.perf.step import step_costs
from blendsim.steplog import StepLog

LEAST_STEPS = 100  # of a kind; a fit to fewer would follow their noise
LEAST_READS = 0.5  # of what the kernels say; a fit below has found something else than reads


class MeasuredSteps(NamedTuple):
    """The measured steps of a run that decode: the others, of prompts alone, are few, and a
    runtime's first ones warm it up.
    """

    seconds: Floats  # (steps,), as measured
    compute: Floats  # of the kernels, alone
    memory: Floats  # of decode attention, alone
    is_mixed: Bools  # computes prompts beside decodes

    def priced(self, by: Calibration) -> Floats:
        """(steps,): seconds by a calibration."""
        return by.seconds(self.compute, self.memory, self.is_mixed)

    def error(self, by: Calibration) -> tuple[float, float]:
        """How far the sum of the steps is off, and half of the steps at most."""
        priced = self.priced(by)
        steps = np.abs(priced / self.seconds - 1.0)
        return float(priced.sum() / self.seconds.sum() - 1.0), float(np.median(steps))


def priced_run(log: StepLog, model: StepModel) -> MeasuredSteps:
    """A measured run, its kernels priced one after another; ProfileError if none of its steps
    decodes.
    """
    here = log.is_timed & (log.count("decode_requests") > 0) & (log.time("seconds") > 0)
    here &= ~log.is_halved  # halves do not run one operator after another
    if not here.any():
        raise ProfileError("holds no measured step that decodes; give the log of a longer run")
    counts, costs = log.counts[here], step_costs(model, overlaps=False, overlaps_network=False)
    memory = price_work(costs, counts).memory
    compute = price_steps(costs, counts) - memory  # all-reduces are in it
    return MeasuredSteps(
        log.time("seconds")[here], compute, memory, log.count("prefill_tokens")[here] > 0
    )


def fit_steps(runtime: str, runs: Sequence[MeasuredSteps]) -> Calibration:
    """The calibration that is nearest to these runs: least squares, a step's variance taken to grow
    with what its kernels take, so that long steps do not count for all.

    A kind of step (mixed or not) of which there are fewer than LEAST_STEPS is left out and priced
    like the other; ProfileError where that holds of both.
    """
    from scipy.optimize import nnls

    took, compute, memory, mixed = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    kinds = [kind for kind in (mixed, ~mixed) if kind.sum() >= LEAST_STEPS]
    if not kinds:
        raise ProfileError(
            f"{mixed.sum():,} steps with prompts beside decodes and {(~mixed).sum():,} of decodes "
            f"alone are too few; give logs with at least {LEAST_STEPS:,} of a kind"
        )
    used = np.any(kinds, axis=0)
    columns = np.column_stack([memory, np.ones_like(memory)])
    if len(kinds) == 2:
        columns = np.concatenate([columns, mixed[:, None] * columns], axis=1)
    weights = 1.0 / np.sqrt(np.maximum(compute + memory, 1e-9))[used]
    left = columns[used] * weights[:, None]
    found, _ = nnls(left, (took - compute)[used] * weights)
    if found[0] < LEAST_READS:
        raise ProfileError(
            f"these steps would read KV in {found[0]:.2f} of the time that the kernels take: their "
            "reads are too alike to tell; give logs of runs with longer contexts, or more of them"
        )
    return Calibration(runtime, *(float(value) for value in found))
