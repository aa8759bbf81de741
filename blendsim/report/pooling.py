"""Pooling: how much work of another kind runs almost free beside a pool, and what it takes in a
large batch of its own.

Work at best rates knows no steps. Here KV memory says how many there must be, an answer takes as
many as it has tokens, and every one of them reads the weights.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.perf.density import profiled
from blendsim.perf.model import StepModel
from blendsim.report.optimum import Bounds, overlapped_best

WORTH = 0.85  # a partner that saves less than 15 % of its time is not worth naming
#: Of KV memory, what a partner may hold where its answers are longest: those that start together
#: are long together, and keep others out. Simulated beside demo:mixed on an A100, 13 of 16,384
#: tokens, half of the memory, add 102 s where 84 are told; 39 would add 528, where 253 were.
SHARE = 0.5
_USUAL = 2_048  # tokens of a step of prompts
_AMOUNTS = 200  # of a partner that are tried
_SIZES = 100  # of steps that prompts may be taken in
_VERY_MANY = 1e6  # requests, beside whose work the length of one counts for nothing


class Partner(NamedTuple):
    """A kind of work to pool with: requests of one shape."""

    kind: str
    prompt: int
    output: int


LONG_ANSWERS = Partner("memory-heavy", 128, 16_384)
LONG_PROMPTS = Partner("compute-heavy", 4_096, 16)


class Mix(NamedTuple):
    """How much of a partner fits beside a pool, on each replica."""

    partner: Partner
    requests: int
    beside: float  # seconds by which the pool's bound grows with the partner
    steady: float  # its seconds as a part of very many, where none waits for the longest to end

    @property
    def is_worth(self) -> bool:
        """Whether there is some, and it saves enough against a large batch of its own, which is
        what else could be done with it.
        """
        return self.requests >= 1 and self.beside <= WORTH * self.steady


class Load(NamedTuple):
    """Work of one replica."""

    compute: float  # seconds, these three at best rates
    memory: float
    network: float
    tokens: float  # through the layers
    decodes: float  # tokens sampled
    held: float  # KV tokens times the steps that they are held for

    def beside(self, other: "Load", amount: float = 1.0) -> "Load":
        """With so many of the other."""
        return Load(*(mine + amount * more for mine, more in zip(self, other, strict=True)))


NO_LOAD = Load(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def load_of(limits: Bounds, model: StepModel) -> Load:
    """A replica's share of a pool. A prefix that requests share is taken to need no room."""
    work = limits.work
    held = work.private_reads + work.sampled * _window_tokens(model)
    counts = (count / limits.replicas for count in (work.tokens, work.sampled, held))
    return Load(limits.compute, limits.memory, limits.network, *counts)


def load_of_one(partner: Partner, model: StepModel) -> Load:
    """One request of a partner."""
    costs = profiled(model, np.array([partner.prompt]), np.array([partner.output]))
    tokens = partner.prompt + partner.output - 1
    reads = (partner.output - 1) * (partner.prompt + partner.output / 2)
    return Load(
        compute=float(costs.compute[0]),
        memory=float(costs.memory[0]),
        network=tokens * model.best_network_seconds_per_token,
        tokens=tokens,
        decodes=partner.output,
        held=reads + partner.output * _window_tokens(model),
    )


def _window_tokens(model: StepModel) -> int:
    """KV that a request holds for layers with a window, in tokens of the others."""
    return model.system.window_blocks * model.system.block_tokens


def room_of(model: StepModel) -> float:
    """KV memory, tokens."""
    return float(model.system.kv_blocks * model.system.block_tokens)


def least_steps(load: Load, model: StepModel, room: float, longest: int = 0) -> float:
    """Steps in which the work can be done: each holds `room` tokens of KV at most, and an answer
    of `longest` tokens takes as many.
    """
    most = len(model.layer_seconds) - 1  # tokens of a step
    return max(load.held / room, load.tokens / most, float(longest))


def least_seconds(load: Load, model: StepModel, steps: float) -> float:
    """What the work takes in so many steps that decode alike, at best.

    With B decodes each, steps take c(B) and ν(B) at least, and what prompt tokens add: those are
    taken in the size of step that adds least a token. To the work at best rates this adds what c, ν
    and the LM head of such steps take beyond them, and f is of the sums. No step is faster than its
    weights and KV come out of memory (`bound_by_streams`), unless all runs one after the other.
    """
    if steps <= 0.0:
        return overlapped_best(model.lines, *load[:3])
    layers, network = model.layer_seconds, model.network_seconds
    decodes = min(max(load.decodes / steps, 1.0), len(layers) - 2.0)
    prompts = max(load.tokens - decodes * steps, 0.0)
    sizes = np.geomspace(decodes + 1.0, len(layers) - 1.0, _SIZES)

    def taken(table: Floats, size: float) -> float:
        base = _along(table, decodes)
        return steps * base + prompts * (_along(table, size) - base) / (size - decodes)

    size = min(sizes.tolist(), key=lambda n: taken(layers, n) + taken(network, n))
    beyond = max(taken(layers, size) - load.tokens * model.best_layer_seconds_per_token, 0.0)
    head = steps * _along(model.tables.head, decodes)
    beyond += max(head - load.decodes * model.best_head_seconds_per_token, 0.0)
    reduced = max(taken(network, size) - load.tokens * model.best_network_seconds_per_token, 0.0)
    compute, reduces = load.compute + beyond, load.network + reduced
    streams = model.streams
    weights = streams.weights
    if len(streams.experts):
        weights += _along(streams.experts, decodes)
    reads = load.memory * streams.context_token / model.best_seconds_per_context_token
    alone = compute + load.memory + reduces
    together = overlapped_best(model.lines, compute, load.memory, reduces)
    return max(together, min(steps * weights + reads, alone))


def _along(table: Floats, size: float) -> float:
    """Between two entries of a dense table."""
    low = min(int(size), len(table) - 2)
    return float(table[low] + (size - low) * (table[low + 1] - table[low]))


def best_mix(limits: Bounds, model: StepModel, partner: Partner, room: float | None = None) -> Mix:
    """The amount of `partner` of which all requests are worth pooling with the work in `limits`,
    where the KV memory holds `room` tokens, by itself the system's.

    It is the x with the most of WORTH·x·r + T(W) − T(W + x·w), with T of `least_seconds` and r what
    a request takes as a part of very many: past it, another would save less. The partner is no more
    work than the pool itself, and of its requests no more than fill SHARE of the memory in sets,
    one after another while the pool's steps last.
    """
    room = room_of(model) if room is None else room
    partner = _fitted(partner, model.system.longest_request)
    pool, one = load_of(limits, model), load_of_one(partner, model)

    def seconds(load: Load, longest: int = 0) -> float:
        return least_seconds(load, model, least_steps(load, model, room, longest))

    here = max(seconds(pool), limits.longest)
    steady = seconds(NO_LOAD.beside(one, _VERY_MANY)) / _VERY_MANY
    steps = max(least_steps(pool, model, room), pool.tokens / _USUAL)
    sets = max(steps // partner.output, 1.0)
    held = partner.prompt + partner.output + _window_tokens(model)
    most = min(here / steady, sets * (SHARE * room // held))
    amounts = np.unique(np.floor(np.linspace(0.0, most, _AMOUNTS + 1)))
    mixed = [
        max(seconds(pool.beside(one, x), partner.output if x else 0), here)
        for x in amounts.tolist()
    ]
    saved = here + WORTH * amounts * steady - np.array(mixed)
    k = int(np.argmax(saved >= 0.999 * saved.max()))
    requests = int(amounts[k])
    return Mix(partner, requests, mixed[k] - here, requests * steady)


def _fitted(partner: Partner, longest: int) -> Partner:
    """The partner within `longest` tokens: its longer half gives way."""
    prompt = min(partner.prompt, longest - min(partner.output, longest // 2))
    return partner._replace(prompt=prompt, output=min(partner.output, longest - prompt))


def ending_within(seconds: float, partner: Partner, model: StepModel) -> Partner:
    """The partner with its answer halved until one of its requests alone ends within `seconds`:
    every token of an answer takes a step.
    """
    step = float(model.layer_seconds[1:].min()) + model.best_head_seconds_per_token
    step += float(model.network_seconds[1:].min())
    output = partner.output
    while output > 1 and output * step > seconds:
        output //= 2
    return partner._replace(output=output)
