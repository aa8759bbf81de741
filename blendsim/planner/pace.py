"""What a paced plan is told of machine and pool: how long steps of some sizes take, and how far
lengths spread that are not known.
"""

from dataclasses import replace

import numpy as np

from blendsim.arrays import Ints
from blendsim.pacing import Gains, Pacing
from blendsim.perf.model import StepModel
from blendsim.perf.step import StepCosts, charged
from blendsim.plan import Plan
from blendsim.planner.outlook import Outlook
from blendsim.request import Workload

#: Tokens a step that pacing chooses among: where GEMMs are tuned, and below that what decodes alone
#: may need.
SIZES = (16, 32, 64, *range(128, 2_049, 128), *range(2_560, 8_193, 512))
#: Those of a model with experts, of which a few tokens read few: a step of one takes two fifths of
#: what one of 16 does for Qwen3-30B on an H200. Other models' steps read all weights, and take
#: about as long down to a single token.
FEW = (1, 2, 4, 8)


def pace(
    plan: Plan,
    workload: Workload,
    outlook: Outlook,
    model: StepModel,
    costs: StepCosts,
    gains: Gains,
) -> Plan:
    """`plan`, made for both ends, with its steps paced on an engine of these `costs`.

    A pool's totals are those of the drawn lengths: means would have no long answers, and reads grow
    with the square.
    """
    p = workload.prompt_len.astype(np.float64)
    d = outlook.drawn.astype(np.float64)
    # Beside the GEMMs a computed token costs its share of the LM head and of attention, and of what
    # a calibrated runtime takes for each decode.
    decode = model.calibration.decode if model.calibration else 0.0
    beside = d.sum() * (model.best_head_seconds_per_token + decode)
    beside += (0.5 * p * (p + 1.0)).sum() * model.best_prefill_seconds_per_pair
    beside += p.sum() * model.best_seconds_per_prompt_token
    per_token = beside / (p + d).sum()
    layers = model.charged_tables.layers_with_network
    step = model.calibration.step if model.calibration else 0.0
    costs = charged(costs)
    sizes = (*FEW, *SIZES) if model.system.model.experts else SIZES
    return replace(
        plan,
        pacing=Pacing(
            gains=gains,
            sizes=sizes,
            seconds=tuple(float(layers[n] + per_token * n) + step for n in sizes),
            lines=tuple((float(a), float(b)) for a, b, _ in costs.lines),
            read_seconds=model.seconds_per_context_token,
            spread=_spread(outlook, workload.source.astype(np.int64)),
            measured=tuple(zip(*(part.tolist() for part in costs.measured), strict=True)),
        ),
    )


def _spread(outlook: Outlook, source: Ints) -> tuple[float, ...]:
    """E[d²] / E[d]² of the lengths that are not visible, by source; 1 where all are."""
    hidden = ~outlook.lengths.is_visible
    kinds = int(source.max(initial=0)) + 1
    drawn, guessed = (
        np.bincount(source[hidden], lengths[hidden].astype(np.float64) ** 2, minlength=kinds)
        for lengths in (outlook.drawn, outlook.lengths.expected)
    )
    return tuple(np.maximum(1.0, drawn / np.maximum(guessed, 1.0)).tolist())
