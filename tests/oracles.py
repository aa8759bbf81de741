"""Slow twins: each clever algorithm of the prefix tree and the planner once more, plainly.

Dictionaries, sets and loops over pairs; nothing is shared with the code under test but the rules.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from blendsim.perf.density import RequestCosts
from blendsim.planner.split import SplitRule
from blendsim.planner.tree import DENSEST, PoolTree
from blendsim.request import Workload

# ---- prompts


def units_of(workload: Workload, row: int) -> tuple[int, ...]:
    """The listed units of a request."""
    offsets = workload.prompts.offsets
    return tuple(workload.prompts.units[offsets[row] : offsets[row + 1]].tolist())


def tokens_of(workload: Workload, row: int) -> list[object]:
    """A prompt as one hashable value a token, which says all that stands before it; private tokens
    name their request.
    """
    units, space = units_of(workload, row), int(workload.prompts.space[row])
    size = int(workload.prompts.unit_tokens[space])
    return [
        (space, units[: j // size + 1], j) if j < len(units) * size else ("private", row, j)
        for j in range(int(workload.prompt_len[row]))
    ]


def shared_tokens(workload: Workload, a: int, b: int) -> int:
    """Common prefix of two prompts, token by token."""
    count = 0
    for one, other in zip(tokens_of(workload, a), tokens_of(workload, b), strict=False):
        if one != other:
            break
        count += 1
    return count


def prompt_order(workload: Workload) -> list[int]:
    """Rows sorted by space, units, prompt length, row."""
    return sorted(
        range(len(workload)),
        key=lambda row: (
            int(workload.prompts.space[row]),
            units_of(workload, row),
            int(workload.prompt_len[row]),
            row,
        ),
    )


def trie_savings(workload: Workload) -> int:
    """Prompt tokens less the nodes of a dictionary trie that holds all prompts."""
    trie: dict[object, dict] = {}  # type: ignore[type-arg]
    nodes, total = 0, 0
    for row in range(len(workload)):
        at = trie
        for token in tokens_of(workload, row):
            total += 1
            if token not in at:
                at[token] = {}
                nodes += 1
            at = at[token]
    return total - nodes


def cached_savings(workload: Workload, order: Sequence[int], block: int) -> int:
    """Prompt tokens that a cache of full blocks that forgets nothing saves in `order`; a prompt's
    last token is always computed.
    """
    cache: set[object] = set()
    saved = 0
    for row in order:
        tokens = tokens_of(workload, row)
        ends = [tokens[j - 1] for j in range(block, len(tokens) + 1, block)]
        hits = 0
        while hits < min(len(ends), (len(tokens) - 1) // block) and ends[hits] in cache:
            hits += 1
        saved += hits * block
        cache.update(ends)
    return saved


def intervals(common: Sequence[int]) -> set[tuple[int, int, int]]:
    """(depth, first, last) of every node but the root, from all pairs of leaves."""
    n = len(common)

    def shared(i: int, j: int) -> int:
        return min(common[min(i, j) + 1 : max(i, j) + 1])

    nodes = set()
    for i in range(n):
        for j in range(i + 1, n):
            depth = shared(i, j)
            if depth > 0:
                inside = [k for k in range(n) if k == i or shared(i, k) >= depth]
                nodes.add((depth, min(inside), max(inside) + 1))
    return nodes


# ---- the pool's tree


def group_of(workload: Workload) -> list[int]:
    """The source each request is counted with: the commonest of all that share its first token."""
    groups = []
    for row in range(len(workload)):
        family = [
            other
            for other in range(len(workload))
            if other == row or shared_tokens(workload, row, other) > 0
        ]
        votes = [int(workload.source[other]) for other in family]
        groups.append(max(sorted(set(votes)), key=votes.count))
    return groups


def was_cut(workload: Workload) -> bool:
    """Whether any output is as long as its request allows."""
    limited = workload.output_limit > 0
    return bool((limited & (workload.output_len >= workload.output_limit)).any())


def estimates(
    workload: Workload, is_visible: np.ndarray, value: np.ndarray | None = None
) -> list[float | None]:
    """Mean output, or `value`, of the visible requests nearest in prefix, of the same group; None
    where there is nothing to learn from. Requests that share with nobody learn from their like.
    Ancestors never enter: nearness is measured on the prompts themselves.
    """
    groups = group_of(workload)
    n = len(workload)
    found: list[float | None] = []

    def is_alone(row: int) -> bool:
        return all(shared_tokens(workload, row, i) == 0 for i in range(n) if i != row)

    for row in range(n):
        if is_visible[row]:
            found.append(float(workload.output_len[row]))
            continue
        peers = [i for i in range(n) if is_visible[i] and groups[i] == groups[row]]
        peers = [i for i in peers if not _is_fixed(workload, i)]
        sampled = [i for i in peers if not workload.is_known[i]]
        evidence = sampled or peers
        if is_alone(row):
            evidence = [i for i in evidence if is_alone(i)] or evidence
        if not evidence:
            found.append(None)
            continue
        near = max(shared_tokens(workload, row, i) for i in evidence)
        best = [i for i in evidence if shared_tokens(workload, row, i) == near]
        told = workload.output_len if value is None else value
        found.append(float(np.mean([told[i] for i in best])))
    return found


def _is_fixed(workload: Workload, row: int) -> bool:
    """Whether the request's own limit is why its length is known."""
    limit = workload.output_limit[row]
    return bool(workload.is_known[row] and limit > 0 and workload.output_len[row] == limit)


def fair_costs(workload: Workload, costs: RequestCosts, block: int = 1) -> list[float]:
    """Compute of each request when the seconds of every prompt token are divided among all requests
    that share it.
    """
    every = [tokens_of(workload, row) for row in range(len(workload))]
    blocks = [tokens[: len(tokens) // block * block] for tokens in every]
    holders: dict[object, int] = {}
    for tokens in blocks:
        for j in range(0, len(tokens), block):
            end = tokens[j + block - 1]
            holders[end] = holders.get(end, 0) + 1
    compute = []
    for row, tokens in enumerate(blocks):
        saved = sum(
            block * (1 - 1 / holders[tokens[j + block - 1]]) for j in range(0, len(tokens), block)
        )
        compute.append(float(costs.compute[row]) - costs.seconds_per_token * saved)
    return compute


# ---- sorting and splitting


def rho(compute: float, memory: float) -> float:
    """Density, as the planner bounds it."""
    if memory == 0.0:
        return DENSEST if compute > 0 else 0.0
    return min(compute / memory, DENSEST)


class SlowTree:
    """The split tree with dictionaries: children are ("node", k) or ("leaf", i)."""

    def __init__(self, tree: PoolTree, costs: RequestCosts) -> None:
        self.depth, self.first = tree.depth.tolist(), tree.first.tolist()
        self.width = (tree.last - tree.first).tolist()
        self.full = costs.compute[tree.order].tolist()
        self.memory = costs.memory[tree.order].tolist()
        self.second = costs.seconds_per_token
        self.up: dict[tuple[str, int], int] = {}
        for k in range(1, len(tree.parent)):
            self.up["node", k] = int(tree.parent[k])
        for i in range(len(tree.order)):
            self.up["leaf", i] = int(tree.leaf_parent[i])
        for child, parent in self.up.items():  # leaving a source costs nothing
            if self.depth[parent] == 0:
                self.up[child] = 0

    def path(self, child: tuple[str, int]) -> list[int]:
        """Ancestors from the parent to the root."""
        nodes = [self.up[child]]
        while nodes[-1] != 0:
            nodes.append(self.up["node", nodes[-1]])
        return nodes

    def leaves(self, child: tuple[str, int]) -> list[int]:
        if child[0] == "leaf":
            return [child[1]]
        return [i for i in range(len(self.full)) if child[1] in self.path(("leaf", i))]

    def costs(self) -> tuple[list[float], dict[tuple[str, int], list[int]]]:
        """Compute of each leaf with its fair share of prefixes, and the leaves of every child."""
        below = {child: self.leaves(child) for child in self.up}
        below["node", 0] = list(range(len(self.full)))
        compute = []
        for i, full in enumerate(self.full):
            nodes = self.path(("leaf", i))
            share = sum(
                (self.depth[k] - self.depth[up]) / len(below["node", k])
                for k, up in pairwise(nodes)
            )
            compute.append(full - self.second * (self.depth[nodes[0]] - share))
        return compute, below

    def density(self, leaves: Sequence[int], compute: Sequence[float]) -> float:
        return rho(sum(compute[i] for i in leaves), sum(self.memory[i] for i in leaves))

    def sequence(self) -> list[int]:
        """Leaves left to right with every layer sorted by density, ties by first leaf."""
        compute, below = self.costs()
        laid: list[int] = []
        stack: list[tuple[str, int]] = [("node", 0)]
        while stack:
            kind, k = stack.pop()
            if kind == "leaf":
                laid.append(k)
                continue
            children = [c for c, up in self.up.items() if up == k and c != ("node", 0) and below[c]]
            children.sort(key=lambda c: (-self.density(below[c], compute), *self.seniority(c)))
            stack.extend(reversed(children))
        return laid

    def seniority(self, child: tuple[str, int]) -> tuple[int, int, int]:
        kind, k = child
        return (self.first[k], -self.width[k], k) if kind == "node" else (k, 0, k)

    def densities(self) -> list[float]:
        """Of the leaves, in sequence."""
        compute, _ = self.costs()
        return [self.density([i], compute) for i in self.sequence()]

    def split_cost(self, child: tuple[str, int], below: dict[tuple[str, int], list[int]]) -> int:
        """Depth of the nearest ancestor that holds other leaves too."""
        for k in self.path(child):
            if len(below["node", k]) > len(below[child]):
                return int(self.depth[k])
        return 0

    def gain(
        self,
        child: tuple[str, int],
        compute: list[float],
        below: dict[tuple[str, int], list[int]],
        displaced: list[float],
    ) -> tuple[float, float]:
        """Seconds gained, and how far right of the rest of its top-level subtree it belongs."""
        work = [c + m for c, m in zip(compute, self.memory, strict=True)]
        total = sum(work)
        single = [self.density([i], compute) for i in range(len(work))]
        known = sorted(set(single))
        middle = [
            sum(w for w, s in zip(work, single, strict=True) if s > value) / total
            + sum(w for w, s in zip(work, single, strict=True) if s == value) / total / 2
            for value in known
        ]

        def place(leaves: Sequence[int]) -> float:
            value = min(max(self.density(leaves, compute), known[0]), known[-1])
            at = min(max(bisect_left(known, value), 1), len(known) - 1)
            if len(known) == 1:
                return middle[0]
            part = (value - known[at - 1]) / (known[at] - known[at - 1])
            return middle[at - 1] + part * (middle[at] - middle[at - 1])

        def fall(leaves: Sequence[int]) -> float:
            weight = sum(work[i] for i in leaves)
            now = sum(work[i] * displaced[i] for i in leaves) / weight
            then = sum(work[i] * place([i]) for i in leaves) / weight - place(leaves)
            return max(0.0, weight * (now**2 - then**2))

        nodes = self.path(child)
        family = below["node", nodes[-2]]
        rest = [i for i in family if i not in below[child]]
        return fall(below[child]) + fall(rest), place(below[child]) - place(rest)

    def displaced(self, compute: list[float]) -> list[float]:
        """How far right each leaf should be, in shares of the pool's work."""
        work = [c + m for c, m in zip(compute, self.memory, strict=True)]
        sequence = self.sequence()
        ideal = sorted(sequence, key=lambda i: -self.density([i], compute))
        shift = [0.0] * len(work)
        for i in sequence:
            here = sum(work[j] for j in sequence[: sequence.index(i)])
            there = sum(work[j] for j in ideal[: ideal.index(i)])
            shift[i] = (there - here) / sum(work)
        return shift

    def split(self, rule: SplitRule, sharing: int) -> list[tuple[str, int]]:
        """Split by the planner's rules until none is allowed; what was split, in order."""
        budget = (1 - rule.kept_sharing) * sharing if rule.kept_sharing > 0 else float("inf")
        limit = float("inf") if rule.threshold is None else rule.threshold
        done: list[tuple[str, int]] = []
        while True:
            values = self.densities()
            if all(a >= b for a, b in pairwise(values)):
                return done
            compute, below = self.costs()
            displaced = self.displaced(compute)
            offers = {}
            for child in self.up:
                if child == ("node", 0) or not below[child]:
                    continue
                cost = self.split_cost(child, below)
                if not 0 < cost <= min(limit, budget):
                    continue
                gain, shift = self.gain(child, compute, below, displaced)
                if gain > 0 and gain >= rule.worth * self.second * cost:
                    offers[child] = (float(np.float32(cost / gain)), cost, shift)
            farthest = max((abs(shift) for _, _, shift in offers.values()), default=0.0)
            offers = {c: offer for c, offer in offers.items() if abs(offer[2]) >= farthest / 2}
            chosen = [c for c in offers if self._leads_its_path(c, offers)]
            chosen.sort(key=lambda c: (offers[c][0], c[0] == "leaf", c[1]))
            side: dict[int, bool] = {}
            for child in chosen:
                side.setdefault(self.path(child)[-2], offers[child][2] > 0)
            chosen = [c for c in chosen if (offers[c][2] > 0) == side[self.path(c)[-2]]]
            spent = np.cumsum([offers[c][1] for c in chosen])
            chosen = [c for c, total in zip(chosen, spent, strict=True) if total <= budget]
            if not chosen:
                return done
            budget -= sum(offers[c][1] for c in chosen)
            for child in chosen:
                self.up[child] = 0
            done += chosen

    def _leads_its_path(
        self, child: tuple[str, int], offers: dict[tuple[str, int], tuple[float, int, float]]
    ) -> bool:
        """No ancestor is as cheap and no descendant cheaper."""
        price = offers[child][0]
        above = [offers["node", k][0] for k in self.path(child) if ("node", k) in offers]
        inside = [
            offer[0]
            for other, offer in offers.items()
            if child[0] == "node" and child[1] in self.path(other)
        ]
        return all(price < other for other in above) and all(price <= other for other in inside)
