"""What to rent: many systems planned at once as each would be alone, priced, and chosen by what is
asked.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.errors import InputError, UnknownName
from blendsim.perf.measured import IMPORTED, MEASURED, meant
from blendsim.plan import write_plan
from blendsim.report.rental import Goal, RentalRow, rental_table, spend
from blendsim.report.rental_advice import nothing_meets, rental_advice
from blendsim.request import Workload, from_lengths, pool
from blendsim.search.prices import Offer, Prices
from blendsim.search.problem import moved
from blendsim.search.rental import Rental, find_candidates, rent
from blendsim.search.trial import find_bounds
from blendsim.sim.pools import Pools

PRICES = Prices("EUR", (Offer("a100-80g", 1.0), Offer("h200", 4.0)), Path("prices.toml"))


AS_COMPARED = search.Settings(profile=IMPORTED)  # measured kernels only where all have them


def small_pool(seed: int = 0) -> Workload:
    return mixed_pool(np.random.default_rng(seed), 40)


@cache
def rented(goal: Goal = Goal(), prices: Prices | None = None, **settings: object) -> Rental:
    asked = replace(search.Settings(), **settings)  # type: ignore[arg-type]
    candidates = find_candidates(asked, ["a100-80g", "h200"], [1], [1, 2])
    return rent(small_pool(), candidates, goal, prices)


def named(rental: Rental, gpu: str, dp: int) -> RentalRow:
    return next(row for row in rental.rows if (row.gpu, row.dp) == (gpu, dp))


def test_each_row_is_what_planning_for_that_system_alone_gives() -> None:
    rental = rented(Goal(currency="EUR"), PRICES)
    assert len(rental.rows) == 4
    for row in rental.rows:
        settings = replace(AS_COMPARED, gpu=row.gpu, dp=row.dp)
        alone = search.choose(small_pool(), settings).chosen
        # The bounds are solved once and divided: as exact as the solver is.
        near = replace(
            alone,
            regret=None,
            reachable_seconds=pytest.approx(alone.reachable_seconds, rel=1e-5),
            share_of_reachable=pytest.approx(alone.share_of_reachable, rel=1e-5),
            optimum_seconds=pytest.approx(alone.optimum_seconds, rel=1e-12),
            share_of_optimum=pytest.approx(alone.share_of_optimum, rel=1e-12),
        )
        assert row.row == near


def test_systems_may_differ_in_the_format_of_weights() -> None:
    asked = search.Settings(planner="dfs", token_budget=512, sample=1.0)
    candidates = find_candidates(asked, ["a100-80g", "h200"], [1], [1, 2], ["none", "fp8"])
    assert [text.split(": ")[0] for text in candidates.left_out] == [
        "a100-80g in fp8 tp 1 is left out"
    ]
    assert "use another" not in candidates.left_out[0]  # other rows stand beside it
    rows = {row.system: row for row in rent(small_pool(), candidates, Goal()).rows}
    assert set(rows) == {
        f"{kind} tp 1 dp {dp}"
        for kind in ("a100-80g in bf16", "h200 in bf16", "h200 in fp8")
        for dp in (1, 2)
    }
    for system, quantization in (("h200 in bf16", "none"), ("h200 in fp8", "fp8")):
        alone = replace(asked, gpu="h200", quantization=quantization, profile=IMPORTED)
        seconds = search.choose(small_pool(), alone).chosen.seconds
        assert rows[f"{system} tp 1 dp 1"].row.seconds == seconds
    assert rows["h200 in fp8 tp 1 dp 1"].row.seconds < rows["h200 in bf16 tp 1 dp 1"].row.seconds
    with pytest.raises(UnknownName, match="--quantization 'int8'"):
        find_candidates(asked, ["h200"], [1], [1], ["int8"])


def test_one_format_asked_for_twice_is_one() -> None:
    asked = search.Settings(planner="dfs", sample=1.0)
    candidates = find_candidates(asked, ["h200"], [1], [1], ["auto", "bf16", "none", "fp8"])
    assert [one.spec.weights for one in candidates.settings] == ["bf16", "fp8"]
    assert candidates.settings[0].quantization == "auto"
    # Where one of several can run alone, it is named all the same.
    few = find_candidates(asked, ["a100-80g"], [1], [1], ["none", "fp8"])
    (row,) = rent(small_pool(), few, Goal()).rows
    assert row.weights == "bf16"


def test_systems_of_one_format_do_not_name_it() -> None:
    assert {row.weights for row in rented().rows} == {None}
    asked = search.Settings(planner="dfs", quantization="fp8", sample=1.0)
    (row,) = rent(small_pool(), find_candidates(asked, ["h200"], [1], [1]), Goal()).rows
    assert row.system == "h200 tp 1 dp 1"


def test_the_chosen_plan_is_byte_for_byte_the_one_made_for_that_system_alone(
    tmp_path: Path,
) -> None:
    rental = rented(Goal(max_cost=1e9, currency="EUR"), PRICES)
    assert rental.chosen is not None
    assert rental.plan is not None
    assert rental.chosen.dp == 2, "the fastest, so that the plan is cut"
    settings = replace(AS_COMPARED, gpu=rental.chosen.gpu, dp=2)
    write_plan(rental.plan, tmp_path / "a")
    write_plan(search.choose(small_pool(), settings).plan, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_pool_moved_to_another_system_is_the_pool_prepared_there() -> None:
    """Lengths are cut to what the smaller system holds, as sampling there would."""
    outputs = np.array([9_000] * 40 + [0])  # of a long prompt it is not known
    books = from_lengths([100] * 40 + [22_500], np.maximum(1, outputs), source="books")
    books = replace(books, has_output=outputs > 0, output_len=outputs)
    blind = from_lengths([22_000] * 20, [1] * 20, source="blind")  # of which nothing is known
    blind = replace(blind, has_output=np.zeros(20, np.bool_), output_len=np.zeros(20, np.int64))
    workload = pool([small_pool(), books, blind])
    roomy, tight = search.Settings(gpu="h200"), search.Settings(kv_bytes=3_000_000_000)
    roomy, tight = (replace(settings, output_guess=2_000) for settings in (roomy, tight))
    there = search.prepare(workload, tight)
    came = moved(search.prepare(workload, roomy), tight)
    assert np.array_equal(came.lengths.expected, there.lengths.expected)
    assert came.lengths.workload_hash == there.lengths.workload_hash
    assert np.array_equal(came.drawn, there.drawn)
    assert np.array_equal(came.costs.compute, there.costs.compute)
    assert np.array_equal(came.costs.memory, there.costs.memory)
    assert came.model.system == there.model.system
    assert came.settings == tight
    room = tight.system.longest_request - 22_500
    assert came.drawn[-21] == came.lengths.expected[-21] == room < 9_000, "or nothing was cut"
    most = tight.system.longest_request - 22_000
    assert came.lengths.expected[-1] == most < 2_000, "or the guess was not cut"
    assert 1 < np.count_nonzero(came.drawn[-20:] == most) < 20


@pytest.mark.parametrize("topology", [{"dp": 7}, {"topology": "2P3D"}, {"tp": 2, "dp": 3}])
def test_bounds_of_one_replica_divided_are_those_of_many(topology: dict[str, int]) -> None:
    settings = replace(search.Settings(), **topology)  # type: ignore[arg-type]
    many = search.prepare(small_pool(), settings)
    alone = {"dp": 1, "topology": "colocated"}
    one = many._replace(settings=replace(settings, **alone))  # type: ignore[arg-type]
    found = find_bounds(one, 2_048, 16).over(settings.replicas)
    expected = find_bounds(many, 2_048, 16)
    assert (found.work, found.replicas) == (expected.work, expected.replicas)
    seconds, right = ([x for x in of if isinstance(x, float)] for of in (found, expected))
    assert len(seconds) == 6
    assert seconds == pytest.approx(right, rel=1e-5)


def test_lengths_that_planning_may_not_see_change_no_decision() -> None:
    workload = small_pool()
    candidates = find_candidates(search.Settings(), ["a100-80g", "h200"], [1], [1, 2])
    goal = Goal(currency="EUR")
    first = rent(workload, candidates, goal, PRICES)
    assert first.plan is not None
    seen = np.zeros(len(workload), np.bool_)
    seen[first.plan.order] = first.plan.is_visible
    assert 0 < seen.sum() < len(workload)
    other = np.where(seen, workload.output_len, 1 + workload.output_len[::-1] % 97)
    second = rent(replace(workload, output_len=other), candidates, goal, PRICES)

    def decided(rental: Rental) -> list[tuple[object, ...]]:
        return [
            (r.gpu, r.dp, r.row.policy, r.cost, r.gpu_hours, r.cost_per_million_tokens)
            for r in rental.rows
        ]

    assert decided(first) == decided(second)
    assert first.rows[0].row.seconds != second.rows[0].row.seconds


def test_cost_is_price_times_gpus_times_predicted_hours() -> None:
    row = named(rented(Goal(currency="EUR"), PRICES), "h200", 2)
    assert row.gpu_hours == pytest.approx(2 * row.row.predicted_seconds / 3_600)
    assert row.cost == pytest.approx(4.0 * row.gpu_hours)
    assert row.billed_gpu_hours == pytest.approx(row.gpu_hours)


def test_cost_per_million_tokens_counts_tokens_that_planning_may_see() -> None:
    rental = rented(Goal(currency="EUR"), PRICES, sample=1.0)
    workload = small_pool()
    tokens = int(workload.prompt_len.sum() + workload.output_len.sum())
    for row in rental.rows:
        assert row.cost is not None
        assert row.cost_per_million_tokens == pytest.approx(row.cost / tokens * 1e6)


def test_without_prices_rows_rank_by_gpu_hours() -> None:
    rental = rented()
    hours = [row.gpu_hours for row in rental.rows]
    assert hours == sorted(hours)
    assert {row.cost for row in rental.rows} == {None}
    assert rental.chosen is rental.rows[0]


def test_with_a_deadline_the_cheapest_in_time_is_chosen_and_the_late_come_last() -> None:
    free = rented(Goal(currency="EUR"), PRICES)
    assert free.chosen is not None
    deadline = free.chosen.row.predicted_seconds * 0.999
    rental = rented(Goal(deadline, currency="EUR"), PRICES)
    assert rental.chosen is not None
    assert rental.chosen.row.predicted_seconds <= deadline
    late = [bool(row.misses) for row in rental.rows]
    assert late == sorted(late)
    assert True in late
    in_time = [row.cost for row in rental.rows if not row.misses]
    assert rental.chosen.cost == min(in_time)  # type: ignore[type-var]


def test_with_money_alone_the_fastest_that_it_buys_is_chosen() -> None:
    free = rented(Goal(currency="EUR"), PRICES)
    costs = sorted(row.cost for row in free.rows if row.cost is not None)
    rental = rented(Goal(max_cost=costs[2], currency="EUR"), PRICES)
    assert [row.misses for row in rental.rows] == [(), (), (), ("cost",)]
    assert rental.chosen is not None
    paid = [row.row.predicted_seconds for row in rental.rows[:3]]
    assert rental.chosen.row.predicted_seconds == min(paid)


def test_where_no_row_meets_the_limits_none_is_chosen() -> None:
    goal = Goal(1e-3, 1e-6, "EUR")
    rental = rented(goal, PRICES)
    assert rental.chosen is None
    assert rental.plan is None
    assert {row.misses for row in rental.rows} == {("deadline", "cost")}
    fastest = min(rental.rows, key=lambda row: row.row.predicted_seconds)
    said = nothing_meets(rental.rows, goal)
    assert f"the fastest, {fastest.system}, takes" in said
    assert "the cheapest, a100-80g tp 1 dp 1, costs" in said


def test_systems_that_cannot_run_are_left_out_with_a_reason() -> None:
    settings = search.Settings(model="qwen-2.5-7b")
    candidates = find_candidates(settings, ["a100-80g"], [1, 3, 4, 7], [1])
    assert {settings.tp for settings in candidates.settings} == {1, 4}
    assert [line.split(":")[0] for line in candidates.left_out] == [
        "a100-80g tp 3 is left out",
        "a100-80g tp 7 is left out",
    ]


def test_a_system_without_a_profile_is_left_out() -> None:
    settings = search.Settings(model="llama-2-7b")
    candidates = find_candidates(settings, ["a100-80g"], [8, 16], [1])
    assert {settings.tp for settings in candidates.settings} == {8}
    assert "a100-80g tp 16 is left out: " in candidates.left_out[0]
    assert "no all-reduce measured for --tp 16" in candidates.left_out[0]


def test_a_system_too_small_for_a_request_is_left_out() -> None:
    workload = pool([small_pool(), from_lengths([38_000], [500])])
    settings = search.Settings(model="qwen3-32b", planner="dfs")
    candidates = find_candidates(settings, ["a100-80g", "h200"], [1], [1])
    rental = rent(workload, candidates, Goal())
    assert [row.gpu for row in rental.rows] == ["h200"]
    assert "a100-80g tp 1 is left out: 1 of 81 requests are longer than the" in rental.left_out[0]


def test_more_replicas_than_requests_are_left_out() -> None:
    candidates = find_candidates(search.Settings(planner="dfs"), ["h200"], [1], [2, 3])
    rental = rent(from_lengths([10, 20], [5, 5]), candidates, Goal())
    assert [row.dp for row in rental.rows] == [2]
    assert rental.left_out[0].startswith("h200 tp 1 dp 3 is left out: 3 ranks are more than")


def test_no_system_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no system can run this; a100-80g tp 3 is left out"):
        find_candidates(search.Settings(), ["a100-80g"], [3, 5], [1])
    candidates = find_candidates(search.Settings(), ["a100-80g"], [1], [3])
    with pytest.raises(InputError, match=r"no system can run this pool; .*3 ranks"):
        rent(from_lengths([10, 20], [5, 5]), candidates, Goal())


def test_a_model_that_cannot_be_priced_is_wrong_on_no_system_in_particular(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_moe"}')
    with pytest.raises(InputError, match=r"^[^;]*config\.json: model_type 'qwen2_moe' is not"):
        find_candidates(search.Settings(model=str(tmp_path)), ["a100-80g", "h200"], [1], [1])


def test_an_unknown_name_is_an_error_beside_known_ones() -> None:
    with pytest.raises(UnknownName, match="unknown GPU 'h201'"):
        find_candidates(search.Settings(), ["h200", "h201"], [1], [1])


def test_pools_of_prefill_and_decode_replicas_can_be_rented() -> None:
    settings = search.Settings(topology="1P2D", planner="dfs")
    rental = rent(small_pool(), find_candidates(settings, ["a100-80g"], [1], [1]), Goal())
    row = rental.rows[0]
    assert (row.pools, row.row.gpus, row.system) == ("1P2D", 3, "a100-80g tp 1 1P2D")
    assert row.gpu_hours == pytest.approx(3 * row.row.predicted_seconds / 3_600)


@pytest.mark.parametrize(("sample", "further"), [(1.0, 0), (0.1, 1)])
def test_pools_run_once_a_policy_and_once_more_on_lengths_that_were_not_known(
    monkeypatch: pytest.MonkeyPatch, sample: float, further: int
) -> None:
    settings = search.Settings(topology="1P2D", sample=sample)
    runs: list[Pools] = []
    run_pools = Pools.run

    def counted(pools: Pools) -> None:
        runs.append(pools)
        run_pools(pools)

    monkeypatch.setattr(Pools, "run", counted)
    rental = rent(small_pool(), find_candidates(settings, ["a100-80g"], [1], [1]), Goal())
    assert len(runs) == len(settings.policies) + further
    alone = search.choose(small_pool(), settings).chosen
    row = rental.rows[0].row
    assert (row.policy, row.seconds, row.steps) == (alone.policy, alone.seconds, alone.steps)
    assert row.predicted_seconds == alone.predicted_seconds


def test_extrapolation_on_systems_that_are_not_chosen_is_not_noted() -> None:
    """A context beyond the kernel profile's: every system's row has its note, the answer one."""
    workload = pool([small_pool(), from_lengths([100_000], [300])])
    candidates = find_candidates(search.Settings(planner="dfs"), ["h200", "b200"], [1], [1])
    rental = rent(workload, candidates, Goal())
    assert rental.chosen is not None
    assert all(row.notes for row in rental.rows)
    assert rental.notes == list(rental.chosen.notes)


@cache
def any_row() -> RentalRow:
    """A row of a system, to be given other figures."""
    return rented(planner="dfs").rows[0]


def a_row(gpu: str, seconds: float, cost: float | None, misses: tuple[str, ...] = ()) -> RentalRow:
    """A row of the table with these figures."""
    return replace(
        any_row(),
        gpu=gpu,
        cost=cost,
        dp=1,
        gpu_hours=seconds / 3_600,
        misses=misses,
        row=replace(any_row().row, predicted_seconds=seconds),
    )


def test_advice_says_what_more_money_buys() -> None:
    rows = [a_row("a", 100.0, 1.0), a_row("b", 50.0, 2.0), a_row("c", 60.0, 3.0)]
    rows.append(a_row("d", 10.0, 9.0, ("cost",)))
    told = rental_advice(rows, rows[0], Goal(1e6, 5.0, "EUR"))
    assert told[0].startswith("a tp 1 dp 1 with")
    assert "costs least of the 3 that meet what is asked by prediction." in told[0]
    assert "Next by prediction is b tp 1 dp 1, for 100.0% more money." in told[0]
    assert (
        told[1] == "Sooner: 50.0 s for 2.00 EUR (b tp 1 dp 1), 10.0 s for 9.00 EUR (d tp 1 dp 1)."
    )
    assert told[2] == "Of 4 systems 1 misses the cost limit of 5 EUR."


def test_advice_says_that_prices_are_missing() -> None:
    rows = [a_row("a", 100.0, None), a_row("b", 100.0, None)]
    told = rental_advice(rows, rows[0], Goal())
    assert "takes fewest GPU-hours of 2." in told[0]
    assert "Next is b tp 1 dp 1, for as many GPU-hours." in told[0]
    assert told[-1].startswith("No prices are given: systems rank by GPU-hours")


def test_advice_compares_times_where_time_is_to_be_least() -> None:
    rows = [a_row("a", 100.0, 1.0), a_row("b", 150.0, 0.5), a_row("c", 90.0, 7.0, ("cost",))]
    told = rental_advice(rows, rows[0], Goal(max_cost=5.0, currency="EUR"))
    assert "it is fastest of the 2 that meet what is asked" in told[0]
    assert "Next by prediction is b tp 1 dp 1, for 50.0% more time." in told[0]
    assert told[1] == "Sooner: 90.0 s for 7.00 EUR (c tp 1 dp 1)."


def test_only_so_many_faster_systems_are_told() -> None:
    rows = [a_row(f"g{k}", 100.0 - 10 * k, 1.0 + k) for k in range(9)]
    sooner = rental_advice(rows, rows[0], Goal(currency="EUR"))[1]
    assert sooner.count("EUR") == 4
    assert sooner.endswith("down to 20.0 s for 9.00 EUR (g8 tp 1 dp 1).")


def test_the_table_shows_limits_and_offers_only_where_there_are_any() -> None:
    row = a_row("a", 100.0, 1.0)
    plain = rental_table([row], row, Goal(currency="EUR"), 120)
    assert "misses" not in plain[0]
    assert "offer" not in plain[0]
    assert plain[2].startswith("* a ")
    spot = replace(row, offer="spot", misses=("deadline",))
    full = rental_table([spot], None, Goal(1.0, currency="EUR"), 120)
    assert full[0].split()[-1] == "misses"
    assert full[2].split()[-1] == "deadline"
    assert " spot " in full[2]


def test_little_money_is_shown_with_more_digits() -> None:
    assert [spend(amount) for amount in (None, 0.0, 0.25, 12.25)] == [
        "–",
        "0.00",
        "0.2500",
        "12.25",
    ]


# ---- the rules alone, on figures made up


def test_a_limit_that_is_met_to_the_second_and_the_cent_is_met() -> None:
    goal = Goal(100.0, 5.0, "EUR")
    assert goal.missed(100.0, 5.0) == ()
    assert goal.missed(100.1, 5.0) == ("deadline",)
    assert goal.missed(100.0, 5.01) == ("cost",)
    assert goal.missed(100.1, 5.01) == ("deadline", "cost")
    assert Goal().missed(1e9, None) == Goal().missed(1e9, 1e9) == ()
    assert Goal(max_cost=5.0).missed(1.0, None) == ("cost",), "what it costs is not known"


@pytest.mark.parametrize(
    ("goal", "least"),
    [
        (Goal(), "gpu_hours"),
        (Goal(10.0), "gpu_hours"),
        (Goal(currency="EUR"), "cost"),
        (Goal(10.0, currency="EUR"), "cost"),
        (Goal(max_cost=5.0, currency="EUR"), "seconds"),
        (Goal(10.0, 5.0, "EUR"), "cost"),
    ],
)
def test_what_is_to_be_least_follows_from_what_is_asked(goal: Goal, least: str) -> None:
    assert goal.objective == least


def test_equals_are_ordered_by_the_other_figure_and_then_by_fewer_gpus() -> None:
    def of(seconds: float, cost: float, gpus: int, misses: tuple[str, ...] = ()) -> RentalRow:
        row = a_row("a", seconds, cost, misses)
        return replace(row, row=replace(row.row, gpus=gpus))

    cheap, soon, few, many = of(500, 0.9, 1), of(90, 1.0, 4), of(100, 1.0, 1), of(100, 1.0, 2)
    late = of(1, 0.1, 1, ("deadline",))
    rows = [late, many, few, soon, cheap]
    by_cost = sorted(rows, key=lambda row: row.rank("cost"))
    assert by_cost == [cheap, soon, few, many, late]
    dear = of(90, 2.0, 1)
    by_time = sorted([*rows, dear], key=lambda row: row.rank("seconds"))
    assert by_time == [soon, dear, few, many, cheap, late]


def test_a_free_gpu_is_cheapest_and_costs_nothing_a_token() -> None:
    free = Prices("EUR", (Offer("a100-80g", 0.0), Offer("h200", 0.0)), Path("prices.toml"))
    rental = rented(Goal(max_cost=0.0, currency="EUR"), free, planner="dfs")
    assert {(row.cost, row.cost_per_million_tokens, row.misses) for row in rental.rows} == {
        (0.0, 0.0, ())
    }
    seconds = [row.row.predicted_seconds for row in rental.rows]
    assert seconds == sorted(seconds)
    assert rental_advice(rental.rows, rental.chosen, Goal(currency="EUR"))


def test_a_sampled_pool_costs_by_the_million_of_tokens_that_its_prediction_has() -> None:
    settings = search.Settings(planner="dfs", sample=0.1)
    (row,) = rent(
        small_pool(), find_candidates(settings, ["h200"], [1], [1]), Goal(currency="EUR"), PRICES
    ).rows
    drawn = search.prepare(small_pool(), replace(settings, gpu="h200")).drawn
    assert drawn.sum() != small_pool().output_len.sum()
    tokens = int(small_pool().prompt_len.sum() + drawn.sum())
    assert row.cost is not None
    assert row.cost_per_million_tokens == pytest.approx(row.cost / tokens * 1e6)


def test_what_was_measured_on_one_gpu_alone_prices_none_of_several() -> None:
    """Measured steps take longer than imported kernels say."""
    both = find_candidates(search.Settings(), ["a100-80g", "h200"], [1], [1])
    assert {one.profile for one in both.settings} == {IMPORTED}
    alone = find_candidates(search.Settings(), ["h200"], [1], [1, 2])
    assert {meant(one.system, one.profile) for one in alone.settings} == {MEASURED}
