"""Tables of the measured pairs: what GEMMs and decode attention gain side by side, and how fast
each runs on its share of the GPU.
"""

from collections.abc import Iterator

import numpy as np
from evidence_runs import Run, bins_of
from machine import row

from blendsim.arrays import Floats
from blendsim.perf.fit import Pairs
from blendsim.perf.records import MICRO, column, read_rows
from blendsim.perf.store import read_profile
from blendsim.specs import find_gpu

PLAIN = 0  # two plain streams
MEDIAN_AIM, P90_AIM = 0.03, 0.08
_EDGES = (0.0, 0.3, 0.6, 0.9, 1.1, 1.4, 1.8, 2.5, 100.0)  # memory over compute
#: A kernel's speed on its share can be told where it is so much the longer one that what runs
#: beside it has ended.
_CLEARLY = 1.5
_HEADER = ("tokens", "batch", "context", "attention_sms", "compute_us", "memory_us", "together_us")


def read_pairs(run: Run) -> Pairs:
    """The pairs a run measured."""
    path = run.profile / "overlap_pairs.csv"
    _, rows = read_rows(path, _HEADER)
    whole = [column(path, rows, i).astype(np.int64) for i in range(4)]
    times = [column(path, rows, i) * MICRO for i in range(4, 7)]
    return Pairs(whole[0], whole[1], whole[2], whole[3], *times)


def gains(pairs: Pairs) -> Floats:
    """(c + m) / together: above 1 where running side by side paid."""
    return np.asarray((pairs.compute + pairs.memory) / pairs.together)


def fit_table(runs: list[Run]) -> Iterator[str]:
    """How well the fitted overlap predicts pairs that were held back."""
    yield row("run", "pairs", "best gain", "at m/c", "held back", "median error", "P90", "as aimed")
    yield row(*["---"] * 8)
    for run in runs:
        told = read_profile(run.profile).meta["overlap"]
        median, p90 = told["median_error"], told["p90_error"]
        is_met = median <= MEDIAN_AIM and p90 <= P90_AIM
        yield row(
            run.name,
            str(told["pairs"]),
            f"{told['best_gain']:.3f}",
            f"{told['best_memory_over_compute']:.2f}",
            str(told["held_back"]),
            f"{median:.1%}",
            f"{p90:.1%}",
            "yes" if is_met else "no",
        )


def ratio_table(run: Run) -> Iterator[str]:
    """Gains by the ratio of the two, under plain streams and under the best split."""
    pairs = read_pairs(run)
    gain, ratio = gains(pairs), pairs.memory / pairs.compute
    splits = [sms for sms in np.unique(pairs.attention_sms) if sms != PLAIN]
    yield row("m/c", "pairs", "plain streams", "best split", "its SMs", "best single pair")
    yield row(*["---"] * 6)
    for name, is_here in bins_of(ratio, _EDGES):
        medians = {
            int(sms): float(np.median(gain[is_here & (pairs.attention_sms == sms)]))
            for sms in (PLAIN, *splits)
            if (is_here & (pairs.attention_sms == sms)).any()
        }
        plain = medians.pop(PLAIN, float("nan"))
        best = max(medians, key=lambda sms: medians[sms], default=PLAIN)
        count = int((is_here & (pairs.attention_sms == PLAIN)).sum())
        told = (f"{plain:.3f}", f"{medians.get(best, np.nan):.3f}", str(best))
        yield row(name, str(count), *told, f"{gain[is_here].max():.3f}")


def speeds(run: Run) -> Iterator[tuple[int, float, float]]:
    """(SMs, attention's speed on them, the GEMMs' speed on the rest), of their speed on the whole
    GPU; NaN where no pair tells.
    """
    pairs = read_pairs(run)
    attention, gemm = pairs.memory / pairs.together, pairs.compute / pairs.together
    for sms in np.unique(pairs.attention_sms):
        if sms == PLAIN:
            continue
        is_here = pairs.attention_sms == sms
        total = find_gpu(read_profile(run.profile).gpu).sm_count
        # Each is taken to lose its share of SMs at least: so long would it take on the rest.
        longer = (pairs.memory * total / sms) / (pairs.compute * total / (total - sms))
        yield (
            int(sms),
            _median(attention[is_here & (longer > _CLEARLY)]),
            _median(gemm[is_here & (longer < 1.0 / _CLEARLY)]),
        )


def speed_table(run: Run) -> Iterator[str]:
    """Speeds by attention's SMs. Their sum is what a split gains where both end at once."""
    total = find_gpu(read_profile(run.profile).gpu).sm_count
    yield row(
        "attention's SMs", "of all", "attention's speed", "GEMMs' share", "GEMMs' speed", "sum"
    )
    yield row(*["---"] * 6)
    for sms, attention, gemm in speeds(run):
        told = (f"{attention:.2f}", f"{(total - sms) / total:.2f}", f"{gemm:.2f}")
        both = attention + gemm
        cells = [text.replace("nan", "") for text in (*told, f"{both:.2f}")]
        yield row(str(sms), f"{sms / total:.2f}", *cells)


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")
