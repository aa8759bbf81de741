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
    later = {"third", "fourth", "fifth", "sixth", "seventh", "seventh-qwen"}
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

    def over_vllm(engine: str, policy: str, *, is_limited: bool = False) -> str:
        """How much faster, of the same visit, than vLLM with its own limit or a lower one."""
        gains = [
            float(cells[4])
            for cells in made["engine-ratios"]
            if cells[2].startswith(f"{engine}, {policy}, ")
            and cells[3].startswith(f"{cells[1]}:")
            and ">" not in cells[4]
            and cells[3].endswith("running") == is_limited
        ]
        return " and ".join(f"{gain:.2f}" for gain in sorted(gains))

    said = "\n".join(short_lines(runs))
    low, high = -totals[0], totals[-1]
    assert f" {len(totals)} whole runs " in said
    assert f"priced {low:.1f} % too low to {high:.1f} % too high." in said
    assert f"predicted {errors[0]:.1f} to {errors[-1]:.1f} % too high." in said
    assert f"is {paced[0]:.2f} to {paced[-1]:.2f} times as fast as prefix order" in said
    assert f"It is {over_vllm('blendrt', 'paced')} times as fast as [vLLM 0.20.2]" in said
    best = over_vllm("blendrt", "search", is_limited=True)
    assert f"Searched plans are {best} times as fast as vLLM with the best limit" in said
    assert f"plan is {over_vllm('vllm-planned', 'paced')} times as fast as by itself" in said
    followed = over_vllm("vllm-planned", "dfs")
    best = over_vllm("vllm-planned", "dfs", is_limited=True)
    assert f"it is {followed} times as fast, and {best} times as with the best" in said
    assert "`trace2-filled` (1,700 requests); qwen-2.5-7b, `trace2-filled` (1,000 requests)" in said


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
