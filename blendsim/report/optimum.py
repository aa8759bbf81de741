"""Lower bounds on the time of any schedule: the practical optimum and the reachable bound, for
every row of every report.

Both bound the *simulated* time of any order on `replicas` equal replicas, because the step model
never charges less than its best rate for any piece of work and because f, the overlap of compute,
memory and network time, is convex, degree-1 homogeneous and monotone:
f(Σc, Σm, Σn) ≤ Σ f(c, m, n).
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.perf.density import window_reads
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import overlapped_each
from blendsim.perf.step import in_pieces
from blendsim.prefix import SortedPrompts, common_blocks, longest_shared
from blendsim.report.spared import most_spared
from blendsim.request import Workload


class Work(NamedTuple):
    """What any schedule of a pool must do at least, after the best sharing at the core's block
    size.
    """

    tokens: int  # through the layers: unshared prompt tokens, all outputs but the last ones
    prompts: int  # those of prompts
    sampled: int  # positions through the LM head
    pairs: int  # prefill query-key pairs
    private_reads: int  # decode context tokens that only their own request holds
    shared_reads: int  # decode context tokens on a prefix shared with another request
    shareable: int  # prompt tokens that sharing saves
    spared: int = 0  # of the shared reads, those that cascade attention can turn into pairs at most
    window_reads: int = 0  # decode context tokens within the window of layers that have one

    @property
    def reads(self) -> int:
        """Context tokens read by all decodes: (d − 1)·p + d·(d − 1)/2 a request, by layers without
        a window.
        """
        return self.private_reads + self.shared_reads


class BestTimes(NamedTuple):
    """Seconds of a replica's share of some work, each piece at its best rate over all sizes."""

    layers: float
    beside: float  # LM head, and prompts in attention (or what stands for it)
    memory: float  # decode reads
    network: float  # all-reduces

    @property
    def compute(self) -> float:
        """All but reads and all-reduces."""
        return self.layers + self.beside

    @property
    def density(self) -> float:
        """ρ by the step model: compute over reads, infinite where nothing is read."""
        return self.compute / self.memory if self.memory > 0.0 else float("inf")


class Bounds(NamedTuple):
    """Seconds. `optimum` ≤ `reachable` ≤ any simulated time."""

    optimum: float  # f(T_comp, T_mem, T_net)
    reachable: float
    compute: float  # T_comp of one replica's share, each piece at its best rate
    memory: float  # T_mem, at the best bandwidth
    longest: float  # the longest request's critical path
    work: Work  # the pool's, of all replicas
    replicas: int = 1
    network: float = 0.0  # T_net, all-reduces at their best rate

    def over(self, replicas: int) -> "Bounds":
        """The same pool on more replicas: all is divided but the longest request. Where that
        request is the bound, that of fewer cannot be told.
        """
        assert replicas >= self.replicas, f"{replicas} replicas are fewer than {self.replicas}"
        share = self.replicas / replicas
        return Bounds(
            optimum=self.optimum * share,
            reachable=max(self.longest, self.reachable * share),
            compute=self.compute * share,
            memory=self.memory * share,
            longest=self.longest,
            work=self.work,
            replicas=replicas,
            network=self.network * share,
        )


def least_work(
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    block_tokens: int,
    window: int = 0,
) -> Work:
    """The work of the pool when request i generates `output_len[i]` tokens, on a model whose
    windowed layers, if it has any, attend to `window` tokens.
    """
    p = workload.prompt_len[prompts.order]
    d = output_len[prompts.order]
    blocks = common_blocks(prompts, block_tokens)
    hits = np.minimum(blocks, (p - 1) // block_tokens) * block_tokens
    path = longest_shared(blocks) * block_tokens
    return Work(
        tokens=int((p - hits + d - 1).sum()),
        prompts=int((p - hits).sum()),
        sampled=int(d.sum()),
        pairs=int((p * (p + 1) // 2 - hits * (hits + 1) // 2).sum()),
        private_reads=int(((d - 1) * (p - path) + d * (d - 1) // 2).sum()),
        shared_reads=int(((d - 1) * path).sum()),
        shareable=int(hits.sum()),
        window_reads=int(window_reads(window, p, d - 1).sum()) if window else 0,
    )


def best_times(work: Work, model: StepModel, replicas: int = 1) -> BestTimes:
    """What the work takes at least, by kind, before any of it is overlapped or spared."""
    stages = replicas * model.system.pp  # work is spread evenly over them at best
    tokens = work.tokens / stages
    beside = (
        work.sampled * model.best_head_seconds_per_token
        + work.pairs * model.best_prefill_seconds_per_pair
        + work.prompts * model.best_seconds_per_prompt_token
    )
    return BestTimes(
        layers=tokens * model.best_layer_seconds_per_token,
        beside=beside / stages,
        memory=work.reads / stages * model.best_seconds_per_context_token
        + work.window_reads / stages * model.best_seconds_per_window_token,
        network=tokens * model.best_network_seconds_per_token,
    )


def bounds(
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    token_budget: int,
    replicas: int = 1,
    nano_batches: int = 1,
    cascade: bool = False,
) -> Bounds:
    """Practical optimum and reachable bound of the pool on `replicas` replicas with `token_budget`
    tokens a step, run whole or in `nano_batches` pieces, with or without `cascade` attention.
    """
    system = model.system
    work = least_work(workload, output_len, prompts, system.block_tokens, system.model.window)
    if cascade:  # a step has at most a token of its budget a decode
        most = most_spared(workload, output_len, prompts, system, token_budget)
        work = work._replace(spared=most)
    least = best_times(work, model, replicas)
    network, beside = least.network, least.beside
    beta, pair = model.best_seconds_per_context_token, model.best_prefill_seconds_per_pair
    plain = np.array([least.compute, least.memory, network])
    swap = work.spared / (replicas * system.pp) * np.array([pair, -beta, 0.0])
    compute, memory, _ = _best_swap(model.lines, plain, swap).tolist()
    optimum = overlapped_best(model.lines, compute, memory, network)
    longest = _longest_path(workload, output_len, prompts, model)
    sizes = step_sizes(model, token_budget, nano_batches)
    program = reachable_program(work, beside, model, sizes, replicas * system.pp)
    reachable = max(optimum, longest, program.seconds)
    return Bounds(optimum, reachable, compute, memory, longest, work, replicas, network)


def _best_swap(lines: Floats, plain: Floats, swap: Floats) -> Floats:
    """The times plain + x·swap, 0 ≤ x ≤ 1, of the least f: that is convex in x, and least at an end
    or where two of its forms meet.
    """
    height, slope = lines @ plain, lines @ swap
    with np.errstate(divide="ignore", invalid="ignore"):
        meet = (height - height[:, None]) / (slope[:, None] - slope)
    shares = np.concatenate(([0.0, 1.0], meet[(meet > 0) & (meet < 1)]))
    f = (height[:, None] + slope[:, None] * shares).max(axis=0)
    return np.asarray(plain + shares[np.argmin(f)] * swap, np.float64)


def overlapped_best(lines: Floats, compute: float, memory: float, network: float = 0.0) -> float:
    """f(compute, memory, network) for an overlap given as the largest of the forms
    a·c + b·m + d·n.
    """
    return float((lines @ np.array([compute, memory, network])).max())


def _longest_path(
    workload: Workload, output_len: Ints, prompts: SortedPrompts, model: StepModel
) -> float:
    """Least seconds from start to end of the request that takes longest alone.

    Its unshared prompt at the best rate, then d − 1 steps of at least the cheapest step and its own
    reads.
    """
    p = workload.prompt_len[prompts.order]
    d = output_len[prompts.order]
    block = model.system.block_tokens
    blocks = common_blocks(prompts, block)
    path = np.minimum(longest_shared(blocks), (p - 1) // block) * block
    layer = float(model.layer_seconds[1:].min())
    step = layer + model.best_head_seconds_per_token
    reads = (d - 1) * p + d * (d - 1) // 2
    memory = reads * model.best_seconds_per_context_token
    window = model.system.model.window
    if window:
        memory += window_reads(window, p, d - 1) * model.best_seconds_per_window_token
    # NOTE: chunks of a prompt may be in all stages at once, decodes in one at a time.
    unshared = (p - path) / model.system.pp
    prefill = unshared * model.best_layer_seconds_per_token
    network = unshared * model.best_network_seconds_per_token
    network = network + (d - 1) * float(model.network_seconds[1:].min())
    alone = overlapped_each(model.lines, prefill + (d - 1) * step, memory, network)
    return float(alone.max(initial=0.0))


class DualPrices(NamedTuple):
    """What the program's bound grows by for one more of each thing to do: its dual solution.

    The bound is Σ price × work of a replica, if no read can be spared. And a step that does some of
    each, within its KV and step size, takes at least Σ price × what it does.
    """

    token: float  # seconds a token through the layers
    private_read: float  # seconds a context token read that only its own request holds
    shared_read: float  # seconds a context token read on a shared prefix
    beside: float  # seconds a second of LM head and prefill attention at best rates, at most 1


class Program(NamedTuple):
    """A solved program."""

    seconds: float  # the bound, a little below the optimum for the solver's tolerance
    prices: DualPrices


class StepSizes(NamedTuple):
    """Step sizes, and what a step of each takes at least."""

    tokens: Ints
    compute: Floats
    network: Floats


def reachable_program(
    work: Work,
    beside: float,
    model: StepModel,
    kinds: StepSizes,
    replicas: int,
    least_steps: int = 0,
) -> Program:
    """The linear program of the architecture's "Bounds": which steps must be run, if KV and step
    size are limited, and all replicas together run no fewer than `least_steps`.

    Step kinds n = 1 … token_budget with weight w_n ≥ 0 (how many such steps), R_n private and Q
    shared context tokens read, h_n seconds of head and prefill attention placed beside them, and
    t_n seconds: Σ n·w_n ≥ tokens, Σ R_n ≥ private reads, R_n ≤ capacity·w_n, t_n ≥ a·(c_n·w_n +
    h_n) + b·β·(R_n + Q_n) + d·ν_n·w_n for every form (a, b, d) of f, with ν_n the all-reduces of a
    step of n tokens, and Σ w_n ≥ least_steps. A step holds each running request's own KV, so its
    private reads are at most the capacity. A shared prefix is held once and read by each of its
    readers: those reads are not limited by the capacity, nor are those of layers with a window,
    which count in Q as tokens of the others that take as long. With cascade attention up to
    `work.spared` of them are query-key pairs instead, placed as the head is.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, hstack

    if work.tokens == 0:
        return Program(0.0, DualPrices(0.0, 0.0, 0.0, 0.0))
    share = _share(work, model, kinds, replicas, least_steps)
    k, limits = len(kinds.tokens), _limits(share, model, kinds)
    objective, most = np.repeat([0.0, 1.0], [4 * k, k]), np.full(5 * k, np.inf)
    if work.spared:  # one variable more: the share of what can be spared that is
        swap = np.zeros((limits.shape[0], 1))
        rates = -model.best_seconds_per_context_token, model.best_prefill_seconds_per_pair
        swap[-2:, 0] = np.array(rates) * (work.spared / replicas / share.unit)
        limits = hstack([limits, csr_matrix(swap)], format="csr")
        objective, most = np.append(objective, 0.0), np.append(most, 1.0)
    reads = share.private / (share.capacity * share.steps), share.shared / share.unit
    wanted = np.array([share.fewest / share.steps, 1.0, *reads, beside / share.unit])
    solved = linprog(
        objective,
        A_ub=limits,
        b_ub=np.concatenate([np.zeros(k * (len(model.lines) + 1)), -wanted]),
        bounds=np.column_stack([np.zeros_like(most), most]),
        method="highs-ipm",  # ten times faster here than the simplex, to the same optimum
    )
    assert solved.status == 0, f"the reachable bound's program is feasible: {solved.message}"
    token, private_read, shared_read, beside_price = (-solved.ineqlin.marginals[-4:]).tolist()
    prices = DualPrices(
        token=token * share.unit / share.tokens,
        private_read=private_read * share.unit / (share.capacity * share.steps),
        shared_read=shared_read * model.best_seconds_per_context_token,
        beside=beside_price,
    )
    # NOTE: the solver's tolerance must not turn a bound into more than one.
    return Program(float(solved.fun * share.unit * (1 - 1e-6)), prices)


class _Share(NamedTuple):
    """A replica's share of the work, and the units in which the program counts.

    The solver takes factors below 1e-9 for 0. In units of the steps there must be at least, the KV
    they can hold and their least time, none that matters is that small.
    """

    tokens: float
    private: float  # context tokens read
    shared: float  # seconds of shared reads, those of layers with a window among them
    fewest: float  # steps
    capacity: int  # tokens of KV
    steps: float  # that there are at least, by tokens, reads or number
    least: float  # seconds of the shortest step

    @property
    def unit(self) -> float:
        """Least seconds of all steps."""
        return self.steps * self.least


def _share(
    work: Work, model: StepModel, kinds: StepSizes, replicas: int, least_steps: int
) -> _Share:
    capacity = model.system.kv_blocks * model.system.block_tokens
    shared = work.shared_reads * model.best_seconds_per_context_token
    shared += work.window_reads * model.best_seconds_per_window_token
    amounts = work.tokens, work.private_reads, shared, least_steps
    tokens, private, shared, fewest = (amount / replicas for amount in amounts)
    steps = max(tokens / kinds.tokens[-1], private / capacity, fewest)
    least = float((kinds.compute + kinds.network).min())
    return _Share(tokens, private, shared, fewest, capacity, steps, least)


def _limits(share: _Share, model: StepModel, kinds: StepSizes) -> Any:
    """The sparse matrix of what `reachable_program` demands, each row to be at most its limit: a
    row a step kind for every form of f and for the capacity, then one for each total.

    Variables, one a step kind each: w (steps), R (full KV of a step), Q, h and t (least time of all
    steps).
    """
    from scipy.sparse import bmat, csr_matrix, diags, identity

    sizes, cost, network = kinds
    k = len(sizes)
    eye, zero = identity(k, format="csr"), csr_matrix((k, k))
    reading = share.capacity * model.best_seconds_per_context_token / share.least
    rows = [
        [diags((a * cost + d * network) / share.least), b * reading * eye, b * eye, a * eye, -eye]
        for a, b, d in model.lines
    ]
    rows.append([-eye, eye, zero, zero, zero])
    ones, none = csr_matrix(np.ones((1, k))), csr_matrix((1, k))
    totals = [
        [-ones, none, none, none, none],
        [csr_matrix(-sizes[None, :] * (share.steps / share.tokens)), none, none, none, none],
        [none, -ones, none, none, none],
        [none, none, -ones, none, none],
        [none, none, none, -ones, none],
    ]
    return bmat(rows + totals, format="csr")


def step_sizes(model: StepModel, token_budget: int, nano_batches: int) -> StepSizes:
    """Step sizes worth a weight: all, or on one GPU those no larger size undercuts."""
    tables = model.best_tables
    pieces = in_pieces(tables, nano_batches)
    cost = np.minimum(tables.layers, pieces.layers)[1 : token_budget + 1]
    network = np.minimum(tables.network, pieces.network)[1 : token_budget + 1]
    cheapest_above = np.minimum.accumulate(cost[::-1])[::-1]
    kept = np.flatnonzero((cost <= cheapest_above) | (network > 0))
    return StepSizes(kept.astype(np.int64) + 1, cost[kept], network[kept])
