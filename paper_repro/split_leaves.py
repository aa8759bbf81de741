"""§5.4, how many leaves are split off: by the paper's rule at several thresholds t, and by ours.

The paper splits whatever costs at most t recomputed tokens and sets t so that 99 % of the sharing
is kept. That leaves t open where few splits are dear, so several t are tried, without end among
them. Our rule asks of each split what it gains (planner/outliers.py) and counts sharing in KV
blocks.
"""

from typing import NamedTuple

import numpy as np

from blendsim.planner.arrange import arrange
from blendsim.planner.blend import BlendSettings
from blendsim.planner.split import SplitRule
from blendsim.planner.tree import pool_tree
from blendsim.prefix import subset
from blendsim.search.problem import Problem
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.reading import between, in_per_cent
from paper_repro.runs import TRACES
from paper_repro.table import Cell, Table

KEPT = 0.99
LEAST, MOST = 0.001, 0.01  # of the leaves, in the paper
SMALL_T, WITHOUT_END, OURS = "paper's, t = 64", "paper's, t without end", "ours"


class _Case(NamedTuple):
    rule: SplitRule
    block_tokens: int


CASES = {
    SMALL_T: _Case(SplitRule(KEPT, 0.0, 64), 1),
    "paper's, t = 1,024": _Case(SplitRule(KEPT, 0.0, 1024), 1),
    WITHOUT_END: _Case(SplitRule(KEPT, 0.0, None), 1),
    OURS: _Case(BlendSettings().split, BlendSettings().block_tokens),
}


def measure(lab: Lab) -> dict[str, Table]:
    """`splits`: a row a workload and rule."""
    rows = []
    for trace in TRACES[:2] if lab.quick else TRACES:
        problem = lab.problem(lab.pool(trace))
        rows += [_row(trace, name, case, problem) for name, case in CASES.items()]
    return {"splits": Table.of(rows)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """A share of leaves as small as the paper's; sharing kept."""
    splits = tables["splits"]
    shares = {r["trace"]: r["leaves_split"] for r in splits.records(rule=WITHOUT_END)}
    outside = [trace for trace, share in shares.items() if not LEAST <= share <= MOST]
    ours, small_t = (
        [row["leaves_split"] for row in splits.records(rule=rule)] for rule in (OURS, SMALL_T)
    )
    shown = f"{between([*shares.values()], 2)} with t without end; ours {between(ours, 2)}"
    words = f"outside on {', '.join(outside) or 'none'} of {len(shares)}; with t = 64, which frees "
    words += f"requests from their system prompt, {between(small_t, 0)}"
    kept = min(splits.column("sharing_kept"))
    return [
        sign("split-leaves", not outside, shown, words),
        sign("split-sharing", kept >= KEPT, f"{in_per_cent(kept, 2)} at least, by every rule"),
    ]


def _row(trace: str, name: str, case: _Case, problem: Problem) -> dict[str, Cell]:
    """The splits of what is planned: all requests but the sampled."""
    prompts = subset(problem.prompts, np.flatnonzero(~problem.lengths.is_sampled))
    tree = pool_tree(problem.workload, prompts, case.block_tokens)
    done = arrange(tree, problem.costs, case.rule, BlendSettings().merge_size)
    return {
        "trace": trace,
        "rule": name,
        "leaves": len(done.order),
        "leaves_split": done.share_of_leaves_split,
        "subtrees_split": done.subtrees_split,
        "dearest_tokens": done.threshold,
        "rounds": done.rounds,
        "sharing_kept": done.sharing_after / max(done.sharing_before, 1),
    }
