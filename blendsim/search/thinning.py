"""A small pool on a small machine that stand for a large pool on a whole one.

Of a pool's requests one of k is kept, and the machine is divided by k as well: KV memory, tokens
and requests a step, and the rates of all its kernels, so that n requests take the time that k·n
take on the whole. The run then has as many steps and takes as long, and its seconds compare with
the whole pool's: what is lost is the detail of who runs when. A pool alone would not do: with few
long requests left of many, half of its run would be a tail that the whole pool's run has not.

The pool's depth-first order is cut into runs: a subtree is one run as long as it is small, larger
ones are cut into runs of neighbours, which lose the prefixes at their cuts only. Of each source's
runs, ranked by the memory time a request is expected to take, every k-th is kept.
"""

from dataclasses import replace

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.perf.model import StepModel
from blendsim.planner.tree import pool_tree
from blendsim.prefix import SortedPrompts, subset
from blendsim.request import joined, select, without_prompts
from blendsim.search.problem import Problem
from blendsim.serving.flavour import Flavour
from blendsim.settings import Settings

RUNS = 64  # the largest run is this part of what is kept of the pool at most
LONGEST = 1.0  # of the small machine's KV memory that one request may take
MOST_CUT = 0.3  # of the pool's context tokens read that may be lost by that


def can_thin(problem: Problem, parts: int) -> bool:
    """Whether few requests are too long for a machine divided by `parts`."""
    p, longest = problem.workload.prompt_len, _longest(problem.model, parts)
    if longest <= 0 or bool((p >= longest).any()):
        return False

    def is_whole(d: Ints) -> bool:
        short = np.minimum(d, longest - p)
        reads = float((p * d + d * d / 2.0).sum())
        return reads - float((p * short + short * short / 2.0).sum()) <= MOST_CUT * reads

    return all(map(is_whole, problem.worlds or (problem.drawn,)))


def thin(problem: Problem, parts: int, seed: int) -> Problem:
    """The problem with one of `parts` requests on such a part of the machine; the same seed keeps
    the same requests. What is believed of each stays; outputs are cut to what the memory holds.
    """
    rows = _kept_rows(problem, 1 / parts, np.random.default_rng((seed, parts)))
    every = np.concatenate((rows, np.arange(len(problem.workload), len(problem.tree.order))))
    lengths, costs = problem.lengths, problem.costs
    room = _longest(problem.model, parts) - problem.workload.prompt_len[rows]
    workload = replace(select(problem.workload, rows), notes=())
    whole = _only(SortedPrompts(problem.tree.order, problem.tree.common), every)
    return problem._replace(
        workload=workload,
        prompts=_only(problem.prompts, rows),
        tree=pool_tree(joined(without_prompts(workload)), whole),
        model=divide_model(problem.model, parts),
        lengths=lengths._replace(
            expected=np.minimum(lengths.expected[rows], room),
            uncut=lengths.uncut[rows],
            is_visible=lengths.is_visible[rows],
            is_sampled=lengths.is_sampled[rows],
        ),
        drawn=np.minimum(problem.drawn[rows], room),
        worlds=tuple(np.minimum(world[rows], room) for world in problem.worlds),
        costs=costs._replace(compute=costs.compute[rows], memory=costs.memory[rows]),
    )


def _only(prompts: SortedPrompts, rows: Ints) -> SortedPrompts:
    """Those of the requests `rows`, ascending, by their places there."""
    some = subset(prompts, rows)
    return SortedPrompts(np.searchsorted(rows, some.order).astype(np.int64), some.common)


def divide_model(model: StepModel, parts: int) -> StepModel:
    """A machine on which n tokens or requests take what `parts` times as many take on the whole,
    with such a part of its KV memory.
    """
    tables, system = model.tables, model.system
    dense: tuple[str, ...] = ("layers", "head", "network", "layers_with_network")
    if len(tables.windows):
        dense = (*dense, "windows")
    divided = tables._replace(
        **{name: _every(getattr(tables, name), parts) for name in dense},
        decode=tables.decode[::parts].copy(),
        prefill_batches=tables.prefill_batches / parts,
        prefill=tables.prefill * parts,
        deltas=tables.deltas._replace(batches=tables.deltas.batches / parts),
    )
    kv_bytes = system.kv_blocks // parts * system.block_tokens * system.kv_bytes_per_token
    rates = [name for name in StepModel.__dataclass_fields__ if name.startswith("best_")]
    return replace(
        model,
        tables=divided,
        system=replace(system, kv_bytes=int(kv_bytes)),
        merge_seconds=_every(model.merge_seconds, parts),
        kv_stream_seconds=model.kv_stream_seconds * parts,
        state_stream_seconds=model.state_stream_seconds * parts,
        token_parts=model.token_parts * parts,
        calibrations=tuple(each.divided(parts) for each in model.calibrations),
        calibration=model.calibration and model.calibration.divided(parts),
        **{name: getattr(model, name) * parts for name in rates},
    )


def _every(table: Floats, parts: int) -> Floats:
    """Every such entry of a dense table, as long as it was: its last rate beyond the end."""
    last = len(table) - 1
    at = np.arange(len(table)) * parts
    return np.where(at <= last, table[np.minimum(at, last)], table[last] / last * at)


def divide_flavour(flavour: Flavour, parts: int) -> Flavour:
    """The engine's limits on such a machine, those of its knobs among them."""
    budget = max(1, flavour.token_budget // parts)
    knobs = flavour.knobs
    active, threshold = knobs.max_num_active_seqs, knobs.long_prefill_token_threshold
    return replace(
        flavour,
        token_budget=budget,
        max_running=max(1, min(budget, flavour.max_running // parts)),
        dense_multiple=max(1, flavour.dense_multiple // parts),
        knobs=replace(
            knobs,
            max_num_active_seqs=None if active is None else max(1, active // parts),
            long_prefill_token_threshold=max(1, threshold // parts) if threshold else 0,
        ),
    )


def divide_settings(settings: Settings, parts: int) -> Settings:
    """What plans for such a machine are made by: paced steps are limited as the engine's are."""
    most = max(1, settings.pacing.most_tokens // parts)
    return replace(settings, pacing=replace(settings.pacing, most_tokens=most))


def _longest(model: StepModel, parts: int) -> int:
    system = model.system
    # A request's window is as long there.
    return int(LONGEST * (system.kv_blocks // parts - system.window_blocks) * system.block_tokens)


def _kept_rows(problem: Problem, share: float, rng: np.random.Generator) -> Ints:
    tree = pool_tree(problem.workload, problem.prompts, problem.model.system.block_tokens)
    n = len(tree.order)
    most = max(1, int(n * share / RUNS))
    start = (tree.common == 0) | (np.diff(tree.group, prepend=-1) != 0)
    place = np.arange(n) - np.maximum.accumulate(np.where(start, np.arange(n), 0))
    run = np.cumsum(place % most == 0) - 1
    first = np.flatnonzero(np.diff(run, prepend=-1))
    size = np.diff(first, append=n)
    memory = np.add.reduceat(problem.costs.memory[tree.order], first) / size
    kept = np.zeros(len(first), np.bool_)
    for source in np.unique(tree.group):
        mine = np.flatnonzero(tree.group[first] == source)
        ranked = mine[np.argsort(memory[mine], kind="stable")]
        counted = np.floor(np.arange(len(mine) + 1) * share + rng.random())
        kept[ranked[np.diff(counted) > 0]] = True
    rows: Ints = np.sort(tree.order[kept[run]])
    return rows
