"""What docs/validation.md says in short, every figure from the runs that are kept."""

from collections.abc import Iterator

from evidence_calibrated import gains, held_runs
from evidence_cut import WHOLE, least, read_cuts
from evidence_engines import DFS, OURS, VLLM, EngineRun, bases_of, engine_runs
from evidence_replays import pairs_of, ratio_error, total_error
from evidence_runs import MEASURED, Replay, Run
from gpu_options import SEARCHED

from blendsim.serving.flavour import VLLM_PLANNED

PACED = "paced"


def short_lines(runs: list[Run]) -> Iterator[str]:
    """A quotation, a sentence a line. What no run says is left out."""
    later = [run for run in runs if run.replays and not run.prices_itself]
    whole = [r for run in later for r in run.replays if r.is_whole and not r.is_sampled]
    if not whole:
        return
    pairs = [(b, o) for run in later for b, o in pairs_of(run) if o.policy != b.policy]
    yield f"> **In short.** {_where(later, whole)}"
    yield f"> {_totals(whole)}"
    if pairs:
        yield f"> {_gains(pairs)}"
    if calibrated := _calibrated(runs):
        yield f"> {calibrated}"
    if (cut := _cut(runs)) is not None:
        yield f"> {cut}"
    yield from (f"> {line}" for line in _orders(runs, pairs))


def _where(later: list[Run], whole: list[Replay]) -> str:
    facts = {f["value"] for run in later for f in run.findings("build") if f["what"] == "device"}
    sizes: dict[str, dict[str, int]] = {}  # requests of each pool, by the model
    for r in whole:
        of_model = sizes.setdefault(r.log.meta["settings"]["model"], {})
        of_model[r.pool] = int(r.log.count("finished").sum())
    models = [
        f"{model}, {_and([f'`{pool}` ({pools[pool]:,} requests)' for pool in sorted(pools)])}"
        for model, pools in sorted(sizes.items())
    ]
    return (
        f"{_and(sorted(facts))}; models with random weights and their [pools](#pools): "
        f"{'; '.join(models)}."
    )


def _totals(whole: list[Replay]) -> str:
    errors = [100 * total_error(r, MEASURED) for r in whole]
    return (
        f"By a profile measured in an earlier visit the {len(errors)} whole runs of later ones are "
        f"priced {_span(errors)}."
    )


def _gains(pairs: list[tuple[Replay, Replay]]) -> str:
    errors = [100 * ratio_error(base, other, MEASURED) for base, other in pairs]
    return f"What another order gains on prefix order is predicted {_span(errors)}."


def _calibrated(runs: list[Run]) -> str:
    """Whole runs, vLLM's too, that no calibration was fitted to; empty where there are none."""
    others = [held for held in held_runs(runs) if not held.is_fitted]
    if not others:
        return ""
    errors = [100 * held.run.error(held.by)[0] for held in others]
    ratios = [
        100 * (said / measured - 1.0)
        for held, base in gains(runs)
        if not (held.is_fitted and base.is_fitted)
        for measured, _, said in [held.over(base)]
    ]
    near = sum(round(abs(error), 1) <= 1.0 for error in ratios)  # as tables show them
    return (
        f"[Calibrated](#calibrated-by-whole-steps) by steps of other runs, our runtime's and "
        f"vLLM's {len(others)} runs on pools that fill the cache are priced {_span(errors)}, and "
        f"{len(ratios)} speed-ups of orders and engines are predicted {_span(ratios)}, {near} of "
        "them within 1 %."
    )


def _cut(runs: list[Run]) -> str | None:
    """What overlapping buys; None if no run cut steps."""
    if (cuts := read_cuts(runs)) is None:
        return None
    times = [
        least(cuts.way(step, cuts.best(step))).ms / least(cuts.way(step, WHOLE)).ms
        for step in cuts.steps
    ]
    return (
        f"[Overlapping](#steps-cut-in-two) buys nothing there: {len(times)} steps cut in two take "
        f"{min(times):.2f} to {max(times):.2f} times as long as whole."
    )


def _orders(runs: list[Run], pairs: list[tuple[Replay, Replay]]) -> Iterator[str]:
    """What orders are worth, each beside prefix order of the same visit."""
    own = [b.seconds / other.seconds for b, other in pairs if other.policy == PACED]
    if own:
        yield (
            f"On our runtime `{PACED}` is {min(own):.2f} to {max(own):.2f} times as fast as prefix "
            "order."
        )
    found = [one for one in engine_runs(runs) if one.is_whole]
    vllm = {f"vLLM {one.log.meta['versions']['vllm']}" for one in found if one.engine == VLLM}
    who = f"[{_and(sorted(vllm))}](#vllm-beside-us) in prefix order"
    if ours := _beside_vllm(found, OURS, PACED):
        yield f"It is {ours} times as fast as {who} with the running limit that vLLM has by itself."
    if ours := _beside_vllm(found, OURS, SEARCHED, is_best=True):
        yield f"Searched plans are {ours} times as fast as vLLM with the best limit that was tried."
    if followed := _beside_vllm(found, VLLM_PLANNED, PACED):
        yield f"vLLM following a `{PACED}` plan is {followed} times as fast as by itself."
    if followed := _beside_vllm(found, VLLM_PLANNED, DFS):
        best = _beside_vllm(found, VLLM_PLANNED, DFS, is_best=True)
        yield (
            f"Following one in prefix order it is {followed} times as fast"
            + (f", and {best} times as with the best limit." if best else ".")
        )


def _beside_vllm(found: list[EngineRun], engine: str, policy: str, *, is_best: bool = False) -> str:
    """How much faster that engine's runs of a policy are than vLLM's prefix order under its own
    running limit at its better budget, or under the best limit where others were tried, where the
    same visit ran both to their end; empty where none did.
    """
    gains = []
    for one in found:
        if (one.engine, one.policy) == (engine, policy):
            bases = [b for b in bases_of(one, found) if b.visit.name == one.visit.name]
            was_tried = any(base.running is not None for base in bases)
            kept = [base for base in bases if (was_tried if is_best else base.running is None)]
            gains += [min(base.seconds for base in kept) / one.seconds] if kept else []
    return _and([f"{gain:.2f}" for gain in sorted(gains)]) if gains else ""


def _span(errors: list[float]) -> str:
    """Least and most, per cent: how far too low or too high."""
    low, high = min(errors), max(errors)
    if low < 0 < high:
        return f"{-low:.1f} % too low to {high:.1f} % too high"
    near, far = sorted((abs(low), abs(high)))
    return f"{near:.1f} to {far:.1f} % too {'high' if low >= 0 else 'low'}"


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
