"""What a terminal is told of how far predicted seconds may be off."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from blendsim.formats import BF16
from blendsim.wording import listing

if TYPE_CHECKING:
    from blendsim.report.metrics import Row
    from blendsim.request import Workload
    from blendsim.search.spread import Spread
    from blendsim.settings import Settings
    from blendsim.specs import ModelSpec

#: Share of the seconds by which a time lies far outside of a range: less is as good as within.
FAR = 0.01
#: Share of the mean seconds of worlds that the predicted one is off where the mean is told, too.
UNUSUAL = 0.05
CHECKED, CHECKED_ON = "llama-3.1-8b", "h200"  # in bf16 on one GPU (docs/validation.md)
CHECKED_ONCE, PRICED_LOW = "qwen-2.5-7b", "5.5 %"  # there, by one run in prefix order on blendrt


def range_told(
    spread: "Spread",
    predicted: float,
    *,
    is_sampled: bool = True,
    missed: Mapping[str, int] | None = None,
    true: float | None = None,
) -> list[str]:
    """A paragraph on a plan's times in other worlds that what planning sees allows, and in how many
    of them it misses limits that are named; none where there is one world only. The range has the
    `predicted` seconds in it, too, and where these are far from the others' mean that is told.
    Without `is_sampled` all lengths that are seen were given.
    `true` seconds, on lengths that the trace has and planning did not see, are told if they lie far
    outside.
    """
    from blendsim.report.tables import seconds, span

    if not spread.seconds:
        return []
    low, high = min(spread.seconds[0], predicted), max(spread.seconds[-1], predicted)
    is_outside = [low, high] != [spread.seconds[0], spread.seconds[-1]]
    and_itself = " and in the predicted one" if is_outside else ""
    worlds = f"in {len(spread.seconds)} worlds"
    doubt = "in two worlds of three the mean is half to double of that"
    if spread.guessed == spread.hidden:
        told = (
            f"Predicted seconds hang on a guess, since no length was seen: {worlds} in which it is "
            f"wrong{and_itself} the plan takes {span(low, high)} s ({doubt}, where "
            "max_tokens lets it)."
        )
    else:
        hidden, seen, ones = (
            ("were not sampled", "the sample allows", "sampled")
            if is_sampled
            else ("are not known", "the known ones allow", "known")
        )
        told = (
            f"Predicted seconds hang on lengths that {hidden}: {worlds} that {seen}{and_itself} "
            f"the plan takes {span(low, high)} s."
        )
        mean = sum(spread.seconds) / len(spread.seconds)
        if abs(predicted - mean) > UNUSUAL * mean:
            told += (
                f" The predicted {seconds(predicted)} s are of one such world: reckon with "
                f"{seconds(mean)} s, the mean of the {len(spread.seconds)}."
            )
        if spread.guessed:
            told += (
                f" {spread.guessed:,} requests are of sources without a {ones} length, and "
                f"are guessed: {doubt}."
            )
    if true is not None and not (1 - FAR) * low <= true <= (1 + FAR) * high:
        told += (
            f" On the true lengths it takes {seconds(true)} s, outside this range: what planning "
            "saw told too little."
        )
    if missed:
        late = [f"in {worlds} of them it misses {limit}" for limit, worlds in missed.items()]
        told += f" I{', '.join(late)[1:]}: leave more room."
    return [told]


def true_seconds(row: "Row", pool: "Workload") -> float | None:
    """The row's seconds on the pool's own lengths; None where it lacks some."""
    return row.seconds if pool.has_output.all() else None


def unchecked(several: "Iterable[Settings]") -> list[str]:
    """That no run, or one alone, was held against the model on these systems, where it is so: a
    range of lengths says nothing of how well steps are priced.
    """
    several = list(several)
    specs = [settings.spec for settings in several]
    gpus = dict.fromkeys(each.gpu for each in several if each.gpu != CHECKED_ON)
    once = dict.fromkeys(spec.name for spec in specs if _is_like(spec, CHECKED_ONCE))
    models = dict.fromkeys(
        spec.name for spec in specs if spec.name not in once and not _is_like(spec, CHECKED)
    )
    others = {
        "with tensor parallel": any(each.tp > 1 for each in several),
        "in a pipeline": any(each.pp > 1 for each in several),
        "with quantised weights": any(spec.weights != BF16 for spec in specs),
        "with quantised KV": any(spec.kv != BF16 for spec in specs),
    }
    kinds = [f"on {listing(list(gpus), 'or')}"] if gpus else []
    kinds += [f"of {listing(list(models), 'or')}"] if models else []
    kinds += [what for what, is_so in others.items() if is_so]
    if not kinds and not once:
        return []
    if not kinds:
        return [
            f"One whole run alone of {listing(list(once), 'or')} was held against the model, in "
            f"prefix order on our runtime: it was priced {PRICED_LOW} too low (docs/validation.md)."
        ]
    return [
        f"How far the model is off is not known: no whole run {listing(kinds, 'or')} was held "
        "against it (docs/validation.md)."
    ]


def _is_like(spec: "ModelSpec", name: str) -> bool:
    """Whether it is that model, under any name and in any format."""
    from blendsim.specs import MODELS

    own = MODELS[name]
    alike = replace(spec, name=own.name, context=own.context, weights=own.weights, kv=own.kv)
    return alike == own
