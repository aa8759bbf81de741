"""Figure 5, the overview: a small real tree as it is built, annotated, sorted, split and merged.

A couple of dozen requests of the traces go through the planner's own functions; the table holds
what each stage made of the tree. By the paper's rule: a tree of tokens, and whatever costs at most
t tokens is split.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Floats, Ints
from blendsim.perf.density import RequestCosts, closed_form
from blendsim.planner.arrange import arrange
from blendsim.planner.lengths import Lengths, expect_lengths
from blendsim.planner.split import Split, SplitRule, split
from blendsim.planner.tree import PoolTree, density, node_costs, pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, pool, select
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.table import Cell, Table

SUBJECTS, QUESTIONS = 3, 3  # of MMLU
OTHERS = {"burstgpt": 7, "wildchat": 4, "openvid": 3}
CANDIDATES = 2_000  # MMLU prompts among which subjects with enough questions are looked for
SAMPLE, LEAST_SAMPLE = 0.3, 2  # of each source; a real run samples 1 % and 32 at least
MERGE_SIZE = 4
SORT_ONLY = SplitRule(kept_sharing=0, worth=0, threshold=0)
SPLIT = SplitRule(kept_sharing=0, worth=0, threshold=20)  # t: a system prompt may be recomputed


class Stage(NamedTuple):
    """A tree laid out: its nodes' parents and the leaf at each place from left to right."""

    name: str
    parent: Ints
    leaf_parent: Ints
    sequence: Ints
    node_density: Floats
    leaf_density: Floats


def measure(lab: Lab) -> dict[str, Table]:
    """`nodes`: inner nodes and leaves at every stage; `stages`: what each stage did."""
    workload = _small_pool(lab)
    prompts = sort_prompts(workload)
    tree = pool_tree(workload, prompts)
    rng = np.random.default_rng(lab.seed)
    lengths = expect_lengths(workload, tree, SAMPLE, rng, LEAST_SAMPLE)
    costs = closed_form(lab.settings().system, workload.prompt_len, lengths.expected)
    done = {rule: _split(tree, costs, rule) for rule in (SORT_ONLY, SPLIT)}
    merged = arrange(tree, costs, SPLIT, MERGE_SIZE)
    group = np.cumsum(np.diff(merged.density, prepend=merged.density[0]) != 0)
    stages = [
        _as_built("built", tree, costs),
        _as_built("annotated", tree, costs),
        _laid_out("sorted", done[SORT_ONLY]),
        _laid_out("split and merged", done[SPLIT]),
    ]
    rows = [row for stage in stages for row in _rows(stage, workload, tree, lengths, group)]
    return {"nodes": Table.of(rows), "stages": Table.of([_told(stage, tree) for stage in stages])}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Every stage leaves the leaves' densities better in order than the one before."""
    rises = {row["stage"]: row["rises"] for row in tables["stages"].records()}
    moved = tables["stages"].record(stage="split and merged")["moved"]
    built, after_sort, after_split = (
        rises[name] for name in ("annotated", "sorted", "split and merged")
    )
    shown = (
        f"density rises from a leaf to the next {built} times in prefix order, {after_sort} after "
        f"sorting, {after_split} after {moved} splits"
    )
    return [sign("fig05", after_split <= after_sort < built and moved > 0, shown)]


def _small_pool(lab: Lab) -> Workload:
    """Questions of a few MMLU subjects and some requests of other traces."""
    mmlu = lab.source("mmlu", CANDIDATES)
    tree = pool_tree(mmlu, sort_prompts(mmlu))
    # Subjects are the deepest prefixes with many questions; the first ones will do.
    subject, count = np.unique(tree.leaf_parent, return_counts=True)
    chosen = subject[count >= QUESTIONS][:SUBJECTS]
    rows = [tree.order[np.flatnonzero(tree.leaf_parent == node)[:QUESTIONS]] for node in chosen]
    parts = [select(mmlu, np.concatenate(rows))]
    return pool([*parts, *(lab.source(name, n) for name, n in OTHERS.items())])


def _split(tree: PoolTree, costs: RequestCosts, rule: SplitRule) -> Split:
    compute, memory = costs.compute[tree.order], costs.memory[tree.order]
    return split(tree, compute, memory, costs.seconds_per_token, rule)


def _as_built(name: str, tree: PoolTree, costs: RequestCosts) -> Stage:
    of = node_costs(tree, costs)
    return Stage(
        name,
        tree.parent,
        tree.leaf_parent,
        np.arange(len(tree.order)),
        density(of.compute, of.memory),
        density(of.leaf_compute, of.leaf_memory),
    )


def _laid_out(name: str, done: Split) -> Stage:
    layers = done.layers
    return Stage(
        name,
        done.parent,
        done.leaf_parent,
        layers.sequence,
        layers.node_density,
        layers.leaf_density,
    )


def _rows(
    stage: Stage, workload: Workload, tree: PoolTree, lengths: Lengths, group: NDArray[np.int64]
) -> list[dict[str, Cell]]:
    """Nodes that have leaves, then leaves, with their places; densities are known only once
    lengths have been sampled.
    """
    place = np.empty(len(stage.sequence), np.int64)
    place[stage.sequence] = np.arange(len(place))
    spans = _spans(stage, place)
    is_built = stage.name == "built"
    rows: list[dict[str, Cell]] = []
    for node, (low, high) in spans.items():
        rows.append(
            _row(stage, f"n{node}", int(stage.parent[node]), low, high)
            | {
                "kind": "inner",
                "prefix_tokens": int(tree.depth[node]),
                "density": None if is_built else float(stage.node_density[node]),
            }
        )
    for leaf, request in enumerate(tree.order.tolist()):
        at = int(place[leaf])
        rows.append(
            _row(stage, f"r{request}", int(stage.leaf_parent[leaf]), at, at)
            | {
                "kind": "leaf",
                "prefix_tokens": None,
                "density": None if is_built else float(stage.leaf_density[leaf]),
                "trace": workload.source_names[workload.source[request]],
                "prompt": int(workload.prompt_len[request]),
                "output": None if is_built else int(lengths.expected[request]),
                "is_visible": False if is_built else bool(lengths.is_visible[request]),
                "merged": int(group[at]) if stage.name == "split and merged" else None,
            }
        )
    return rows


def _row(stage: Stage, name: str, parent: int, low: int, high: int) -> dict[str, Cell]:
    return {
        "stage": stage.name,
        "node": name,
        "parent": f"n{parent}" if parent >= 0 else "",
        "first": low,
        "last": high,
        "kind": "",
        "prefix_tokens": None,
        "density": None,
        "trace": None,
        "prompt": None,
        "output": None,
        "is_visible": None,
        "merged": None,
    }


def _spans(stage: Stage, place: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """First and last place below each node that has leaves."""
    spans: dict[int, tuple[int, int]] = {}
    for leaf, node in enumerate(stage.leaf_parent.tolist()):
        at = int(place[leaf])
        while node >= 0:
            low, high = spans.get(node, (at, at))
            spans[node] = (min(low, at), max(high, at))
            node = int(stage.parent[node])
    return dict(sorted(spans.items()))


def _told(stage: Stage, tree: PoolTree) -> dict[str, Cell]:
    """`rises`: how often a leaf is denser than the one left of it; `moved`: what hangs from the
    root now and did not in the tree without sources.
    """
    rho = stage.leaf_density[stage.sequence]
    inner = (tree.depth[tree.parent] > 0) & (tree.parent >= 0) & (stage.parent == 0)
    leaves = (tree.depth[tree.leaf_parent] > 0) & (stage.leaf_parent == 0)
    return {
        "stage": stage.name,
        "leaves": len(rho),
        "rises": int((np.diff(rho) > 1e-9 * rho[1:]).sum()),
        "moved": int(inner.sum() + leaves.sum()),
    }
