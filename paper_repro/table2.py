"""Table 2, the four main workloads: density and prefix sharing as blended, and their size.

Counted on the finished pools, density by the definition of Table 4, sharing in their prefix trees.
"""

from collections.abc import Iterable

import numpy as np

from blendsim.perf.density import closed_form, table_density
from blendsim.prefix import shareable_tokens
from blendsim.request import Workload
from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.synth.recipes import RECIPES
from paper_repro.claims import Verdict, near, read_claims, sign
from paper_repro.lab import Lab
from paper_repro.reading import in_per_cent
from paper_repro.table import Table

LEAST_REQUESTS = 400_000
WITHIN = 0.01  # of each target


def measure(lab: Lab) -> dict[str, Table]:
    """`pools`: a row a workload; `sources`: what each is made of."""
    pools = {name: lab.pool(name) for name in RECIPES}
    origin = lab.sources()
    return {
        "pools": Table.of([_pool(lab, name, workload) for name, workload in pools.items()]),
        "sources": Table.of([row for name in pools for row in _sources(name, pools[name], origin)]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Each workload has its density, sharing and size; about five hours of an A100 each."""
    found = []
    for row in tables["pools"].records():
        is_there = all(
            abs(row[name] / row[f"wanted_{name}"] - 1) <= WITHIN for name in ("density", "sharing")
        )
        shown = (
            f"{row['density']:.3f}, {in_per_cent(row['sharing'], 2)}, {row['requests']:,} requests"
        )
        verdict = sign(f"table2-{row['trace']}", is_there, shown)
        if row["requests"] < LEAST_REQUESTS:
            verdict = verdict._replace(holds=None, words="a quick run has fewer requests")
        found.append(verdict)
    return [*found, _hours(tables["pools"])]


def _hours(pools: Table) -> Verdict:
    """Hours of the four, and those that the paper's own tokens/s (Table 3) would take for them."""
    hours, theirs = pools.column("dfs_hours"), []
    for row in pools.records():
        rate = read_claims()[f"table3-{row['trace']}"].value
        assert rate is not None, "Table 3 has a rate for each workload"
        theirs.append((row["prompt_tokens"] + row["output_tokens"]) / rate / 3600)
    verdict = near("table2-hours", float(np.mean(hours)), f"{_spread(hours)} h by DFS")
    words = f"at the paper's tokens/s of Table 3 these pools take {_spread(theirs)} h"
    if min(pools.column("requests")) < LEAST_REQUESTS:
        return verdict._replace(holds=None, words="a quick run has fewer requests")
    return verdict._replace(words=words)


def _spread(hours: list[float]) -> str:
    return f"{min(hours):.1f} … {max(hours):.1f}, mean {np.mean(hours):.1f}"


def _pool(lab: Lab, name: str, workload: Workload) -> dict[str, float | int | str]:
    settings = lab.settings()
    costs = closed_form(settings.system, workload.prompt_len, workload.output_len)
    problem = lab.problem(workload, sample=1.0)
    sharing = shareable_tokens(workload, problem.prompts) / int(workload.prompt_len.sum())
    plan, engine = plan_policy(problem, "dfs"), find_engine(problem, settings.engine)
    return {
        "trace": name,
        "wanted_density": RECIPES[name].density,
        "density": table_density(costs, sharing),
        "wanted_sharing": RECIPES[name].sharing,
        "sharing": sharing,
        "requests": len(workload),
        "prompt_tokens": int(workload.prompt_len.sum()),
        "output_tokens": int(workload.output_len.sum()),
        "dfs_hours": seconds_in(problem, plan, engine, problem.drawn) / 3600,
    }


def _sources(
    name: str, workload: Workload, origin: dict[str, str]
) -> Iterable[dict[str, float | int | str]]:
    for code, source in enumerate(workload.source_names):
        is_its = workload.source == code
        yield {
            "trace": name,
            "source": source,
            "requests": int(is_its.sum()),
            "prompt_tokens": int(workload.prompt_len[is_its].sum()),
            "output_tokens": int(workload.output_len[is_its].sum()),
            "origin": origin[source],
        }
