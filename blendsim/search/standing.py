"""What a search says while it goes on: how many schedules were tried, and what the best gains."""

from collections.abc import Collection, Sequence

from blendsim.report.tables import seconds
from blendsim.search.race import Finish, best_of
from blendsim.search.space import Point
from blendsim.wording import Say, counted

_MORE = 1.5  # times as many evaluations as were told last are told again


class Standing:
    """Tells `progress` where a search stands: when its gain is another whole percent, ever more
    seldom else, and at its end. What is below a percent may be chance and is not told here.
    """

    def __init__(self, fixed: Collection[Point], progress: Say) -> None:
        self._fixed = frozenset(fixed)
        self._progress = progress
        self._told = (0, -1)  # evaluations and whole percents

    def tell(self, runs: Sequence[Finish], *, is_end: bool = False) -> None:
        """`runs` are all so far, those of the fixed policies among them."""
        best = best_of(runs).seconds
        usual = best_of([run for run in runs if run.heat.point in self._fixed]).seconds
        n, percents = len(runs), int(100 * (usual - best) / usual)
        before, at = self._told
        if n == before or (percents == at and n < _MORE * before and not is_end):
            return
        self._told = n, percents
        gain = f"{percents} % less than" if percents else "within 1 % of"
        self._progress(
            f"{counted(n, 'evaluation')}, best {seconds(best)} s: {gain} the best policy"
        )
