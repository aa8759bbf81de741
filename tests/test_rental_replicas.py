"""How many replicas a deadline takes that none of the systems named meets."""

import re
from dataclasses import replace

import numpy as np
from test_rental import PRICES, a_row, rented
from test_search import mixed_pool

from blendsim import search
from blendsim.report.rental import Goal, RentalRow, rental_table, spend
from blendsim.report.rental_advice import nothing_meets, rental_advice
from blendsim.report.tables import paragraphs
from blendsim.search.rental import find_candidates, rent

LATE = ("deadline",)


def late(gpu: str, dp: int, seconds: float, requests: int = 10_000) -> RentalRow:
    row = a_row(gpu, seconds, 1.0 if gpu == "a" else 2.0, LATE)
    return replace(row, dp=dp, row=replace(row.row, requests=requests), longest_seconds=0.0)


def told(rows: list[RentalRow], deadline: float) -> str:
    return " ".join(rental_advice(rows, None, Goal(deadline, currency="EUR"))[1:])


def test_so_many_replicas_as_are_advised_are_in_time() -> None:
    # Not so few requests that the longest of a replica decides.
    settings, pool = search.Settings(planner="dfs"), mixed_pool(np.random.default_rng(0), 2_000)

    def rows(deadline: float, *dps: int) -> list[RentalRow]:
        goal = Goal(deadline, currency="EUR")
        return rent(pool, find_candidates(settings, ["a100-80g"], [1], dps), goal, PRICES).rows

    one, two, six = (row.row.predicted_seconds for row in sorted(rows(1e9, 1, 2, 6), key=_dp))
    deadline = (two + six) / 2
    assert one > two > deadline > six
    text = " ".join(rental_advice(rows(deadline, 1, 2), None, Goal(deadline, currency="EUR")))
    [advised] = map(int, re.findall(r"about (\d+) replicas of a100-80g tp 1", text))
    assert 2 < advised <= 6
    [row] = rows(deadline, advised)
    assert not row.misses


def test_the_cheapest_kinds_come_first_each_with_its_number() -> None:
    # 2 + 98 / N of a, 198 / N of b: 3 takes 98 and 66 replicas.
    rows = [late("b", 1, 198.0), late("b", 2, 99.0), late("a", 2, 51.0), late("a", 1, 100.0)]
    text = told(rows, 3.0)
    assert "about 98 replicas of a tp 1 or about 66 replicas of b tp 1 to be in time" in text


def test_one_row_gives_the_least_number() -> None:
    assert "at least 34 replicas of a tp 1 to be in time" in told([late("a", 1, 100.0)], 3.0)


def test_where_times_hardly_fall_more_replicas_are_not_advised() -> None:
    rows = [late("a", 4, 5.2), late("a", 8, 5.1)]  # 5 s of it do not divide
    assert told(rows, 4.0).startswith("More replicas alone would not be in time")


def test_no_number_of_replicas_is_in_time_for_a_longer_answer() -> None:
    rows = [replace(late("a", dp, 12.0 / dp), longest_seconds=2.0) for dp in (1, 2)]
    for found in (rows, rows[:1]):
        assert told(found, 1.9).startswith("More replicas alone would not be in time")
        assert "replicas of a tp 1 to be in time" in told(found, 2.1)


def test_no_more_replicas_than_requests_are_advised() -> None:
    assert "at least 34 replicas" in told([late("a", 1, 100.0, requests=34)], 3.0)
    assert told([late("a", 1, 100.0, requests=33)], 3.0).startswith("More replicas alone would not")


def test_no_kind_of_replica_is_advised_beyond_what_dp_takes() -> None:
    rows = [late("a", 1, 4_096.0, requests=10**6)]
    assert "at least 4,096 replicas of a" in told(rows, 1.0)
    assert told(rows, 0.999).startswith("More replicas alone would not")


def test_times_fall_as_from_the_two_rows_with_most_replicas() -> None:
    # From one to two replicas nothing was gained; from two to four 50 s, so 50 / 4 + 25 at 4.
    rows = [late("a", 1, 100.0), late("a", 4, 50.0), late("a", 2, 100.0)]
    assert "about 7 replicas of a tp 1" in told(rows, 30.0)  # 200 / 7 + 0 s


def test_times_that_fall_faster_than_replicas_grow_leave_nothing_that_stays() -> None:
    rows = [late("a", 1, 100.0), late("a", 2, 40.0)]  # 120 / N − 20 by the line through them
    assert "about 4 replicas of a tp 1" in told(rows, 20.0)  # 80 / 4


def test_more_replicas_are_advised_than_were_tried() -> None:
    # 10 + 90 / N is 55 at 2, which is late by less than is told.
    rows = [late("a", 1, 100.0), late("a", 2, 55.0)]
    assert "about 3 replicas of a tp 1" in told(rows, 55.0)


def test_a_deadline_that_no_number_of_replicas_would_meet_is_said() -> None:
    assert told([late("a", 1, 100.0), late("a", 2, 55.0)], 10.0).startswith("More replicas alone")
    assert "about 90 replicas" in told([late("a", 1, 100.0), late("a", 2, 55.0)], 11.0)


def test_kinds_are_ordered_by_the_cheapest_of_their_rows() -> None:
    dear = [replace(late("a", dp, 100.0 / dp), cost=cost) for dp, cost in ((1, 1.0), (2, 9.0))]
    text = told([*dear, late("b", 1, 100.0)], 3.0)
    assert "34 replicas of a tp 1 or at least 34 replicas of b tp 1" in text


def test_nothing_is_advised_where_the_deadline_is_not_what_all_miss() -> None:
    rows = [late("a", 1, 100.0), a_row("b", 2.0, 9.0, ("cost",))]
    assert "replicas" not in " ".join(rental_advice(rows, None, Goal(3.0, 1.0, "EUR")))
    assert "replicas" not in told([replace(late("a", 1, 100.0), pools="1P2D")], 3.0)


def test_a_single_system_is_told_of_by_itself() -> None:
    row = late("a", 1, 100.0)
    said = nothing_meets([row], Goal(3.0))
    assert said == "a tp 1 dp 1 does not meet the deadline of 3 s: it takes 100.0 s"
    said = nothing_meets([row], Goal(3.0, 0.5, "EUR"))
    assert said.endswith("the cost limit of 0.5 EUR: it takes 100.0 s and costs 1.00 EUR")


def test_one_that_misses_is_told_in_the_singular() -> None:
    rows = [a_row("a", 100.0, 1.0), a_row("b", 900.0, 2.0, LATE)]
    assert rental_advice(rows, rows[0], Goal(500.0))[1] == (
        "Of 2 systems 1 misses the deadline of 500 s."
    )


def test_short_runs_are_not_shown_as_nothing() -> None:
    row = rented(planner="dfs").rows[0]
    row = replace(row, gpu_hours=2.04e-6, row=replace(row.row, predicted_seconds=0.00733))
    line = rental_table([row], row, Goal(), 120)[2]
    assert "0.00733" in line
    assert "0.00000204" in line
    assert spend(0.0123) == "0.0123"
    assert "0.00733 s, 0.00000204 GPU-hours" in rental_advice([row], row, Goal())[0]


def test_words_with_a_hyphen_stay_whole() -> None:
    assert paragraphs(["few GPU-hours of --dp"], 11) == ["few", "  GPU-hours", "  of --dp"]


def _dp(row: RentalRow) -> int:
    return row.dp
