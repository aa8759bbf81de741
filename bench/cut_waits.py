"""How long the two lanes of a cut step wait for each other, by how unlike halves and kernels are.

    PYTHONPATH=.:runtime python bench/cut_waits.py

The schedule of 32 layers is played with made-up durations. A half's GEMMs take 1, its attention the
ratio. Waits are what the step takes beyond its longer lane, in % of that.
"""

import numpy as np
from cut_model import Half, play
from machine import row

from blendrt.executor.schedule import Lane, Task, build_schedule

RATIOS = (0.8, 0.9, 1.0, 1.1, 1.2)  # attention over GEMMs
UNLIKE = (0.0, 0.05, 0.1, 0.2)
SCHEDULE = build_schedule(32)
_START = 0.15  # of a half's GEMMs, qkv's part


def waits(seconds: dict[Task, float]) -> float:
    """What the schedule takes beyond its longer lane, as a share of that."""
    reads = sum(time for task, time in seconds.items() if task.lane is Lane.ATTENTION)
    longer = max(reads, sum(seconds.values()) - reads)
    return play(SCHEDULE, seconds) / longer - 1.0


def of_halves(ratio: float, unlike: float) -> float:
    """Waits where one half is larger than their mean by `unlike`, its attention too."""
    sizes = (1.0 + unlike, 1.0 - unlike)
    halves = [Half(_START * s, ratio * s, (1.0 - _START) * s) for s in sizes]
    return waits({task: halves[task.nano].of(task.piece) for task in SCHEDULE.tasks})


def of_kernels(ratio: float, unlike: float, rng: np.random.Generator, draws: int = 20) -> float:
    """Mean waits where halves are alike and every piece differs by chance, lognormal."""
    half = Half(_START, ratio, 1.0 - _START)
    return float(
        np.mean(
            [
                waits({t: half.of(t.piece) * rng.lognormal(0, unlike) for t in SCHEDULE.tasks})
                for _ in range(draws)
            ]
        )
    )


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print(row("unlike are", "by", *(f"attention/GEMMs {ratio:g}" for ratio in RATIOS)))
    print(row(*["---"] * (2 + len(RATIOS))))
    for unlike in UNLIKE:
        print(
            row("halves", f"{unlike:.0%}", *(f"{of_halves(r, unlike):.1%}" for r in RATIOS)),
        )
    for unlike in UNLIKE[1:]:
        cells = (f"{of_kernels(r, unlike, rng):.1%}" for r in RATIOS)
        print(row("pieces", f"{unlike:.0%}", *cells))


if __name__ == "__main__":
    main()
