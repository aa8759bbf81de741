"""What another share of sampled requests would have given: a bootstrap.

Which share is best cannot be raced like other parameters: each share has its own drawn lengths, and
the luckiest draw would win. So the drawn lengths of the search are taken for the truth, new samples
of each share are uncovered in them, plans are made of what those samples say, and all are run on
the same lengths.
"""

from dataclasses import replace

import numpy as np

from blendsim.cores import on_all_cores
from blendsim.planner.sample import LEAST_SAMPLE
from blendsim.search.problem import Problem, expect, plan_policy
from blendsim.search.space import Schedule
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in

REPEATS = 3  # samples of each share, of which the mean is told
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def shares_around(problem: Problem, share: float) -> list[float]:
    """Shares from a quarter of the asked one to four times as much, below 1, of which no two sample
    as many: of each source some are sampled whatever the share is.
    """
    wanted = ~problem.workload.is_known
    sizes = np.bincount(problem.tree.group_of_rows[: len(wanted)][wanted])

    def sampled(share: float) -> int:
        return int(np.maximum(np.ceil(share * sizes), np.minimum(LEAST_SAMPLE, sizes)).sum())

    by_number = {sampled(share): share}
    for each in (share * factor for factor in _FACTORS if share * factor < 1.0):
        by_number.setdefault(sampled(each), each)
    return sorted(by_number.values())


def resampled_seconds(problem: Problem, schedule: Schedule, share: float) -> float:
    """Mean seconds of the schedule when `share` of the requests is sampled anew."""
    workload = problem.workload
    drawn = np.where(workload.has_output, problem.drawn, 0)
    world = replace(workload, output_len=drawn)

    def run(repeat: int) -> float:
        seed = int(np.random.default_rng((problem.settings.seed, repeat)).integers(1 << 31))
        settings = replace(schedule.settings, sample=share, seed=seed)
        scene = expect(world, problem.prompts, problem.tree, settings, problem.model)
        plan = plan_policy(scene, schedule.policy, schedule.blend)
        flavour = find_engine(scene, settings.engine)
        return seconds_in(scene, plan, flavour, problem.drawn)

    return float(np.mean(on_all_cores(run, range(REPEATS))))
