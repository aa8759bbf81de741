"""Where the seconds go: a simulated run against the reachable bound, to the last second.

The bound's program has a price for each thing to do, and the bound is Σ price × work. No step takes
less than the prices of what it does, so what it takes beyond them is its loss; and the run's time
above the bound is the sum of its steps' losses, plus the prices of work beyond the least. A loss is
split by looking at the same step with one imperfection after another taken away.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError
from blendsim.perf.hull import hull_corners
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import overlapped_each
from blendsim.perf.step import in_pieces
from blendsim.prefix import SortedPrompts
from blendsim.report.optimum import DualPrices, Work, least_work, reachable_program, step_sizes
from blendsim.request import Workload
from blendsim.steplog import StepLog

#: Why a step takes longer than its work is worth, in the order in which causes are taken away.
CAUSES = (
    "overlap",  # longer than f: not run side by side, waiting for GPU or host memory
    "attention",  # decode attention above its best rate
    "floors",  # LM head and prefill attention above theirs
    "size",  # another number of tokens would have been worth more than it took
    "tail",  # the same of steps that none are left for: nobody waits, and decodes alone run
    "kv",  # too little beside the best number: KV not full, or head and prefill in other steps
)
PHASES = 10  # equal parts of a run's time
_ROUNDING = 1e-12  # of a run's seconds: sums of a million steps are no more exact


class Priced(NamedTuple):
    """A pool's least work and its prices, found once for all schedules of it."""

    work: Work
    model: StepModel
    prices: DualPrices
    layers: Floats  # (token_budget + 1,), seconds of a step's tokens, whole or in pieces
    decodes: int  # of the work, each a token of one request

    @property
    def read_price(self) -> float:
        """Seconds a context token read, private or shared, in the mean over the pool.

        NOTE: a step log does not say whose context was read, so every step is taken to have the
        pool's mix of both. Sums over a run without preemption are exact; `kv` of a part of it is
        nearly so, and what preemption moves from reads to prompts is priced at the mean.
        """
        private = self.prices.private_read * self.work.private_reads
        shared = self.prices.shared_read * self.work.shared_reads
        return (private + shared) / max(self.work.reads, 1)

    def worth(self, tokens: Ints, reads: Ints, within: Floats, beside: Floats) -> Floats:
        """Seconds of the bound that so much work accounts for, `within` of it reads in windows: the
        program has those as shared reads that take as long.
        """
        model, prices = self.model, self.prices
        longer = model.best_seconds_per_window_token / model.best_seconds_per_context_token
        priced = prices.token * tokens + self.read_price * reads + prices.beside * beside
        return np.asarray(priced + prices.shared_read * longer * within, np.float64)

    def within(self, log: StepLog) -> Floats:
        """Context tokens that every step's decodes read in a layer with a window.

        NOTE: a step log has the mean context of its decodes alone, whose window is more than the
        mean of theirs: so what that gives is scaled to the pool's reads a decode. Sums over a run
        without preemption are exact, as they are by `read_price`.
        """
        window = self.model.system.model.window
        decodes, reads = log.count("decode_requests"), log.count("context_tokens")
        most = np.minimum(reads, window * decodes).astype(np.float64)
        wanted = self.work.window_reads / max(self.decodes, 1) * float(decodes.sum())
        scale: float = min(1.0, wanted / max(float(most.sum()), 1.0))
        return most * scale

    def beside(self, sampled: Ints, pairs: Ints, prompts: Ints) -> Floats:
        """Seconds of LM head and of prompts' attention, with `prompts` tokens, at best rates."""
        head = sampled * self.model.best_head_seconds_per_token
        attention = pairs * self.model.best_prefill_seconds_per_pair
        others = prompts * self.model.best_seconds_per_prompt_token
        return np.asarray(head + attention + others, np.float64)

    @property
    def bound(self) -> float:
        """Seconds of the program."""
        work = self.work
        beside = self.beside(*map(np.array, (work.sampled, work.pairs, work.prompts)))
        within = np.array(float(work.window_reads))
        return float(self.worth(np.array(work.tokens), np.array(work.reads), within, beside))


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Seconds of a run above the bound: `run` − `bound` is the sum of `steps` and `again`."""

    run: float
    bound: float  # of the program: the reachable bound, unless one request alone takes longer
    steps: Floats = field(repr=False)  # (PHASES, len(CAUSES))
    again: float  # work beyond the least: computed again, or prefixes not shared

    @property
    def causes(self) -> dict[str, float]:
        """Seconds lost to each cause in the whole run; 0 where only rounding would leave some."""
        lost = dict(zip(CAUSES, self.steps.sum(axis=0).tolist(), strict=True))
        least = _ROUNDING * self.run
        return {
            cause: seconds if abs(seconds) > least else 0.0
            for cause, seconds in {**lost, "again": self.again}.items()
        }


def price(
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    token_budget: int,
    nano_batches: int = 1,
) -> Priced:
    """The prices of the pool on one replica of one GPU, for steps as of `optimum.bounds`."""
    gpus = model.system.joined_gpus * model.system.pp
    if model.network_seconds.any() or gpus > 1:
        raise InputError(
            f"losses are told for replicas of one GPU, and this one has {gpus}; compare "
            "runs by their seconds"
        )
    system = model.system
    work = least_work(workload, output_len, prompts, system.block_tokens, system.model.window)
    tables = model.best_tables
    layers = np.minimum(tables.layers, in_pieces(tables, nano_batches).layers)
    layers, nothing = layers[: token_budget + 1], DualPrices(0.0, 0.0, 0.0, 0.0)
    unpriced = Priced(work, model, nothing, layers, work.sampled - len(workload))
    least = map(np.array, (work.sampled, work.pairs, work.prompts))
    beside = float(unpriced.beside(*least))
    sizes = step_sizes(model, token_budget, nano_batches)
    return unpriced._replace(prices=reachable_program(work, beside, model, sizes, 1).prices)


def losses(log: StepLog, priced: Priced) -> Losses:
    """The account of one run of the pool: one replica, no cascade attention, within the budget."""
    tokens = log.tokens
    _refuse(log, int(tokens.max(initial=0)), len(priced.layers) - 1)
    reads = log.count("context_tokens")
    counted = ("sampled_tokens", "prefill_pairs", "prefill_tokens")
    beside = priced.beside(*map(log.count, counted))
    within = priced.within(log)
    memory = reads * priced.model.best_seconds_per_context_token
    memory = memory + within * priced.model.best_seconds_per_window_token
    compute, layers = log.time("compute_seconds"), priced.layers[tokens]
    worth = priced.worth(tokens, reads, within, beside)
    taken = (
        log.time("seconds"),
        overlapped_each(priced.model.lines, compute, log.time("memory_seconds")),
        overlapped_each(priced.model.lines, compute, memory),
        overlapped_each(priced.model.lines, layers + beside, memory),
    )
    # From here on a step may be another: what counts is its time above what its tokens are worth.
    above = taken[-1] - priced.prices.token * tokens
    best = np.minimum(above, _least_above(priced, beside, memory))
    lost = [longer - shorter for longer, shorter in pairwise(taken)]
    wrong_size = above - best
    is_tail = (log.count("waiting") == 0) & (log.count("prefill_tokens") == 0)
    lost += [np.where(is_tail, 0.0, wrong_size), np.where(is_tail, wrong_size, 0.0)]
    lost.append(best - (worth - priced.prices.token * tokens))
    run = log.end
    phase = np.minimum((log.time("start") * (PHASES / max(run, 1e-300))).astype(int), PHASES - 1)
    steps = np.zeros((PHASES, len(CAUSES)))
    np.add.at(steps, phase, np.column_stack(lost))
    again = float(worth.sum()) - priced.bound
    return Losses(run, priced.bound, steps, again)


def _refuse(log: StepLog, most: int, token_budget: int) -> None:
    """InputError for a run that the prices do not hold for."""
    if (log.replica != log.replica[:1]).any():
        raise InputError("a step log of several replicas: losses are told for one; give its part")
    if log.count("shared_reads").any():
        raise InputError("a step log with cascade attention: losses are told for runs without it")
    if most > token_budget:
        raise InputError(
            f"a step of {most} tokens: prices are of at most {token_budget}; price larger steps"
        )


def _least_above(priced: Priced, beside: Floats, memory: Floats) -> Floats:
    """(steps,): the least of f(c_n + beside, memory) − price·n over sizes n on the lower hull of
    their cost c_n, which are those the program gives steps to.

    Along the hull this is convex in n, so its least is found by halving.
    """
    sizes = np.arange(1, len(priced.layers))
    corners = hull_corners(sizes.astype(np.float64), priced.layers[1:])
    under = np.interp(sizes, sizes[corners], priced.layers[1:][corners])
    sizes = sizes[priced.layers[1:] <= under * (1 + 1e-12)]

    def above(at: Ints) -> Floats:
        taken = overlapped_each(priced.model.lines, priced.layers[sizes[at]] + beside, memory)
        return taken - priced.prices.token * sizes[at]

    low = np.zeros(len(beside), np.int64)
    high = np.full(len(beside), len(sizes) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        rises = above(np.minimum(middle + 1, len(sizes) - 1)) >= above(middle)
        low, high = (
            np.where(rises, low, np.minimum(middle + 1, high)),
            np.where(rises, middle, high),
        )
    return above(low)
