"""Hypothesis strategies: small pools with every case the prefix tree and the planner must meet.

Mixed spaces with different unit sizes, partly filled last units, duplicates, prompts that are
prefixes of others, prompts that list nothing, several sources, known and missing output lengths.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from blendsim.perf.density import RequestCosts
from blendsim.request import Prompts, Workload

UNIT_TOKENS = (1, 4, 16)


@st.composite
def workloads(draw: st.DrawFn, least: int = 1, most: int = 14) -> Workload:
    """A pool of `least` … `most` requests."""
    n = draw(st.integers(least, most))
    spaces = draw(st.lists(st.sampled_from(UNIT_TOKENS), min_size=1, max_size=3))
    sources = draw(st.integers(1, 3))
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        rows.append(draw(_request(len(spaces), sources, rows)))
    listed = [row["units"] for row in rows]
    tokens = [_prompt_len(len(row["units"]), spaces[row["space"]], row["slack"]) for row in rows]
    has_output = np.array([row["output"] is not None for row in rows])
    workload = Workload(
        ids=np.arange(n).astype(np.str_),
        prompt_len=np.array(tokens, np.int64),
        output_len=np.array([row["output"] or 0 for row in rows], np.int64),
        has_output=has_output,
        output_limit=np.array([row["limit"] for row in rows], np.int64),
        is_known=has_output & np.array([row["known"] for row in rows]),
        arrival=np.zeros(n),
        source=np.array([row["source"] for row in rows], np.int32),
        source_names=tuple(f"source {i}" for i in range(sources)),
        prompts=Prompts(
            offsets=np.cumsum([0, *map(len, listed)]).astype(np.int64),
            units=np.array([unit for units in listed for unit in units], np.int64),
            space=np.array([row["space"] for row in rows], np.int32),
            unit_tokens=np.array(spaces, np.int32),
            space_names=tuple(f"space {i}" for i in range(len(spaces))),
        ),
    )
    workload.check()
    return workload


def _prompt_len(units: int, size: int, slack: int) -> int:
    """Tokens of a prompt of `units` units: `slack` more of its own, or a last one partly filled."""
    if units == 0:
        return max(1, abs(slack))
    return units * size + (slack if slack >= 0 else -(-slack % size))


@st.composite
def _request(draw: st.DrawFn, spaces: int, sources: int, before: list[dict[str, Any]]) -> Any:
    """A request; its prompt is new, or a beginning or continuation of an earlier one."""
    space = draw(st.integers(0, spaces - 1))
    units = draw(st.lists(st.integers(-2, 2), max_size=6))
    slack = draw(st.integers(-15, 20))  # tokens more than the units hold, or fewer
    if before and draw(st.booleans()):
        other = draw(st.sampled_from(before))
        space = other["space"]
        units = other["units"][: draw(st.integers(0, 6))] + units[: draw(st.integers(0, 2))]
        slack = draw(st.sampled_from((slack, other["slack"])))
    return {
        "space": space,
        "units": units,
        "slack": slack,
        "source": draw(st.integers(0, sources - 1)),
        "output": draw(st.none() | st.integers(1, 400)),
        "limit": draw(st.sampled_from((0, 0, 64, 300))),
        "known": draw(st.booleans()),
    }


@st.composite
def costs_of(draw: st.DrawFn, workload: Workload) -> RequestCosts:
    """Costs without accidental ties: a prompt token takes 1 s, an output anything."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = len(workload)
    spread = draw(st.sampled_from((1.0, 10.0, 1000.0)))
    compute = workload.prompt_len + rng.uniform(0.5, 3.0, n)
    memory = rng.uniform(0.1, 1.0, n) * spread ** rng.uniform(0.0, 1.0, n)
    return RequestCosts(compute, memory, 1.0)
