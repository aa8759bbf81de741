"""What a search says of where it stands."""

from blendsim.search.race import Finish, Heat
from blendsim.search.standing import Standing

POLICY, OTHER = (0,), (1,)


def told(*seconds: float) -> list[str]:
    """What is said after each run, the first that of the only policy."""
    said: list[str] = []
    standing = Standing([POLICY], said.append)
    runs = [Finish(Heat(POLICY if k == 0 else OTHER, 0), each) for k, each in enumerate(seconds)]
    for n in range(1, len(runs) + 1):
        standing.tell(runs[:n])
    return said


def test_a_gain_is_told_in_whole_percents_and_at_once() -> None:
    assert told(100.0, 100.0, 100.0, 96.5) == [
        "1 evaluation, best 100.0 s: within 1 % of the best policy",
        "2 evaluations, best 100.0 s: within 1 % of the best policy",
        "3 evaluations, best 100.0 s: within 1 % of the best policy",
        "4 evaluations, best 96.5 s: 3 % less than the best policy",
    ]


def test_a_gain_is_of_what_the_best_policy_takes() -> None:
    assert told(100.0, 40.0)[-1] == "2 evaluations, best 40.0 s: 60 % less than the best policy"


def test_tenths_of_a_percent_are_no_news() -> None:
    said = told(100.0, *(100.0 - 0.005 * k for k in range(1, 150)))
    assert [int(line.split()[0]) for line in said] == [1, 2, 3, 5, 8, 12, 18, 27, 41, 62, 93, 140]
    assert all(line.endswith("within 1 % of the best policy") for line in said)


def test_the_end_is_told_once() -> None:
    said: list[str] = []
    standing = Standing([POLICY], said.append)
    runs = [Finish(Heat(POLICY, 0), 100.0), *(Finish(Heat(OTHER, 0), 99.9) for _ in range(3))]
    standing.tell(runs[:3])
    for _ in range(2):
        standing.tell(runs, is_end=True)
    assert [int(line.split()[0]) for line in said] == [3, 4]
