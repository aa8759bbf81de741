"""What docs/validation.md says in short is what its tables say."""

import re

import pytest
from evidence_runs import MEASURED, Run, read_runs
from evidence_short import short_lines
from validation import RESULTS, priced_by_own, tables


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS)


def rows_of(table: str) -> list[list[str]]:
    """Its cells, without the head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_in_short_it_says_what_the_tables_say(runs: list[Run]) -> None:
    """Of visits that are not priced by themselves, and of runs that came to their end."""
    made = {name: rows_of(text) for name, text in tables(runs).items()}
    later = {"third", "fourth", "fifth", "sixth"}
    ended = {
        (cells[0], cells[1])
        for cells in made["replays"]
        if cells[0] in later and "cut short" not in cells[1]
    }
    totals = sorted(
        float(cells[3].rstrip("%"))
        for cells in made["errors"]
        if (cells[0], cells[1]) in ended and cells[2] == MEASURED
    )
    gains = [cells for cells in made["speedups"] if cells[0] in later]
    errors = sorted(float(cells[5].rstrip("%").split(", ")[1]) for cells in gains)
    paced = sorted(float(cells[3]) for cells in gains if ", paced," in cells[1])
    beside = [
        (cells[2].split(",")[0], float(cells[4]))
        for cells in made["engine-ratios"]
        if ", paced," in cells[2] and cells[3].startswith(f"{cells[1]}:") and ">" not in cells[4]
    ]
    ours, followed = (
        " and ".join(f"{x:.2f}" for x in sorted(x for who, x in beside if who == name))
        for name in ("blendrt", "vllm-planned")
    )
    said = "\n".join(short_lines(runs))
    low, high = -totals[0], totals[-1]
    assert f" {len(totals)} whole runs " in said
    assert f"priced {low:.1f} % too low to {high:.1f} % too high." in said
    assert f"predicted {errors[0]:.1f} to {errors[-1]:.1f} % too high." in said
    assert f"is {paced[0]:.2f} to {paced[-1]:.2f} times as fast as prefix order" in said
    assert f"It is {ours} times as fast as [vLLM 0.20.2]" in said
    assert f"a plan is {followed} times as fast as by itself" in said


def test_in_short_it_follows_the_runs(runs: list[Run]) -> None:
    """All prices doubled: every run is priced too high."""
    doubled = [
        run._replace(
            replays=tuple(
                r._replace(prices={name: 2.0 * price for name, price in r.prices.items()})
                for r in run.replays
            )
        )
        for run in runs
    ]
    assert re.search(r"priced 8\d\.\d to 10\d\.\d % too high\.", "".join(short_lines(doubled)))


def test_of_visits_that_price_themselves_nothing_is_said_in_short(runs: list[Run]) -> None:
    assert list(short_lines(priced_by_own(runs))) == []
