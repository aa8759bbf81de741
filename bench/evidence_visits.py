"""A profile that a visit measured though its replays are priced by the shipped one, which their
plans were made by: both beside each other, and what the visit's own says of the replays.
"""

from collections.abc import Iterator

import numpy as np
from evidence_replays import pairs_of, ratio_error, step_errors, total_error
from evidence_runs import MEASURED, Replay, Run, bins_of, prices_of, profile_of
from machine import row

from blendsim.arrays import Floats
from blendsim.perf.profile import Profile
from blendsim.perf.store import read_profile

OWN = "own"  # beside evidence_runs.MODELS
_TOKEN_EDGES = (1, 128, 512, 2048, 1 << 20)
_KV_EDGES = (1, 1 << 18, 1 << 30)


def beside_others(runs: list[Run]) -> list[Run]:
    """The visits with a profile of their own that does not price their replays."""
    return [run for run in runs if run.has_profile and run.replays and not run.prices_itself]


def with_own(run: Run) -> Run:
    """The visit with its replays priced by its own profile, too."""
    return run._replace(replays=tuple(_priced(run, replay) for replay in run.replays))


def _priced(run: Run, replay: Replay) -> Replay:
    own = prices_of(replay.log, run.profile)[MEASURED]
    return replay._replace(prices={**replay.prices, OWN: own})


def own_table(runs: list[Run]) -> Iterator[str]:
    """Errors of totals, of steps and of speed-ups by the profile that the other tables go by, and
    by the visit's own.
    """
    by = (MEASURED, OWN)
    head = ("total by {}", "median of steps by {}", "speed-up by {}")
    yield row("run", "replay", *(text.format(name) for text in head for name in by))
    yield row(*["---"] * (2 + len(head) * len(by)))
    for run in map(with_own, beside_others(runs)):
        gains = {other.name: (base, other) for base, other in pairs_of(run)}
        for replay in run.replays:
            if replay.is_sampled:
                continue
            totals = [total_error(replay, name) for name in by]
            medians = [float(np.median(step_errors(replay, name))) for name in by]
            pair = gains.get(replay.name)
            errors = [] if pair is None else [ratio_error(*pair, name) for name in by]
            cells = [f"{x:+.1%}" for x in (*totals, *medians, *errors)]
            yield row(run.name, replay.name, *cells, *[""] * (len(by) - len(errors)))


def visit_table(runs: list[Run]) -> Iterator[str]:
    """A visit's own kernels over those of the profile that its replays are priced by, size by
    size.
    """
    yield row("run", "kernel", "sizes", "how many", "median ratio", "P10", "P90")
    yield row(*["---"] * 7)
    for run in beside_others(runs):
        mine = read_profile(run.profile)
        theirs = read_profile(profile_of(run.place, run.replays[0].log))
        for kernel, sizes, ratios in _ratios(mine, theirs):
            low, high = np.quantile(ratios, (0.1, 0.9))
            cells = (f"{x:.3f}" for x in (np.median(ratios), low, high))
            yield row(run.name, kernel, sizes, str(len(ratios)), *cells)


def _ratios(mine: Profile, theirs: Profile) -> Iterator[tuple[str, str, Floats]]:
    """(kernel, sizes, ratios) at the sizes that both measured."""
    tokens, a, b = np.intersect1d(mine.tokens, theirs.tokens, return_indices=True)
    own, other = mine.gemm[a], theirs.gemm[b]
    layer, head = own[:, :4].sum(axis=1) / other[:, :4].sum(axis=1), own[:, 4] / other[:, 4]
    for name, ratios in (("a layer's GEMMs", layer), ("LM head", head)):
        for sizes, is_here in bins_of(tokens, _TOKEN_EDGES):
            yield name, f"{sizes} tokens", ratios[is_here]
    batches, *rows = np.intersect1d(mine.decode.batches, theirs.decode.batches, False, True)
    lengths, *columns = np.intersect1d(mine.decode.lengths, theirs.decode.lengths, False, True)
    read = np.outer(batches, lengths)
    ratios = (
        mine.decode.seconds[np.ix_(rows[0], columns[0])]
        / theirs.decode.seconds[np.ix_(rows[1], columns[1])]
    )
    for sizes, is_here in bins_of(read, _KV_EDGES):
        yield "decode attention", f"{sizes} KV tokens", ratios[is_here & np.isfinite(ratios)]
