"""StepModel: a System's step costs, as tables for the compiled loop and as best rates for bounds.

Every best rate is the true infimum of what the compiled functions return per unit of work, beyond
the measured grids too: between measured points time is linear, so time per unit is smallest at one
of them, and beyond the last one it stays as it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.batch import Batch
from blendsim.perf.calibration import Calibration
from blendsim.perf.cascade import merge_seconds
from blendsim.perf.coverage import Coverage, coverage_of
from blendsim.perf.grids import (
    UNCACHED_BYTES,
    AttentionGrid,
    along,
    complete,
    complete_prefill,
    walk_along,
)
from blendsim.perf.kernels import (
    StepTables,
    Streams,
    bound_by_streams,
    compute_seconds,
    dense_seconds,
    measured_overlap,
    memory_seconds,
    overlapped,
)
from blendsim.perf.model_shapes import expert_bytes, head_shape, token_weight_bytes
from blendsim.perf.overlap import default_overlap, overlap_lines, overlap_points
from blendsim.perf.profile import EXPERTS, HEAD, Profile, layers_with
from blendsim.perf.recurrent import deltas_of
from blendsim.perf.small import small_seconds
from blendsim.perf.store import load_profile
from blendsim.perf.waves import stretch
from blendsim.perf.windows import windows_of
from blendsim.specs import BYTES_PER_VALUE
from blendsim.system import System

DENSE_TOKENS = 16_384  # the dense tables reach at least this far


@dataclass(frozen=True, slots=True, eq=False)
class StepModel:
    """What steps of `system` cost. Rates are seconds per unit at the best size there is."""

    system: System
    overlap: str
    lines: Floats  # (k, 3), f(c, m, n) = max of a·c + b·m + d·n
    tables: StepTables = field(repr=False)
    coverage: Coverage = field(repr=False)
    small_seconds: Floats = field(repr=False)  # (N + 1,), the small operators within tables.layers
    merge_seconds: Floats = field(repr=False)  # (N + 1,), what cascade attention adds, by decodes
    best_layer_seconds_per_token: float  # min of layer_seconds[n] / n, small operators included
    best_head_seconds_per_token: float
    best_prefill_seconds_per_pair: float
    best_seconds_per_context_token: float  # of kernels, or of a runtime that reads faster
    #: Of layers with a window, for a context token within it, or of gated delta nets, for a decode;
    #: 0 where there are none.
    best_seconds_per_window_token: float
    #: Of a prompt's token in their attention, or in gated delta nets; 0 where there are none.
    best_seconds_per_prompt_token: float
    best_kernel_seconds_per_context_token: float
    best_network_seconds_per_token: float  # min of network_seconds[n] / n
    #: All weights but experts', KV of a context token, and experts' weights by the step's tokens,
    #: (N + 1,) or empty, at the best rate at which a kernel of the profile reads what no cache
    #: holds (decode attention, the LM head).
    weight_stream_seconds: float
    kv_stream_seconds: float
    #: Tokens that one stands for: more than one where search divides pool and machine.
    token_parts: int
    #: States of a request's gated delta nets at the same rate, read and written; 0 without them.
    state_stream_seconds: float = 0.0
    #: m/c and f/c of a measured overlap, ascending; empty for the others. `lines` are their hull.
    measured: tuple[Floats, ...] = ()
    expert_stream_seconds: Floats = field(repr=False, default_factory=lambda: np.zeros(0))
    #: (N + 1,), of a step's seconds those of experts and exchange, which replicas that share them
    #: spend together; empty where they do not.
    joint_seconds: Floats = field(repr=False, default_factory=lambda: np.zeros(0))
    calibrations: tuple[Calibration, ...] = ()  # of runtimes whose steps were measured
    calibration: Calibration | None = None  # of the runtime whose steps these are (`run_by`)

    def run_by(self, runtime: str) -> "StepModel":
        """The same with steps as they were measured of that runtime, by kernels alone where none
        were.

        Bounds are not of a runtime: they go by kernels, none slower than a runtime's steps say.
        """
        own = next((found for found in self.calibrations if found.runtime == runtime), None)
        return replace(self, calibration=own)

    @property
    def seconds_per_context_token(self) -> float:
        """At the best size there is, in steps of the runtime that `run_by` names."""
        reads = self.calibration.reads if self.calibration else 1.0
        return self.best_kernel_seconds_per_context_token * reads

    @property
    def charged_tables(self) -> StepTables:
        """`tables`, the layers as the runtime takes them that `run_by` names."""
        return self._with_layers([self.calibration] if self.calibration else [])

    @property
    def best_tables(self) -> StepTables:
        """`tables`, the layers as the fastest takes them: kernels alone, or a calibrated runtime
        with its steps of that many tokens.
        """
        return self._with_layers([Calibration(""), *self.calibrations])

    def _with_layers(self, takers: Sequence[Calibration]) -> StepTables:
        tables = self.tables
        if not any(taker.layers for taker in takers):
            return tables
        tokens = np.arange(len(tables.layers))
        layers = tables.layers * np.min([taker.factors(tokens) for taker in takers], axis=0)
        return tables._replace(layers=layers, layers_with_network=layers + tables.network)

    @property
    def layer_seconds(self) -> Floats:
        """(N + 1,): the part of a step's compute that depends on its tokens only, at best."""
        return self.best_tables.layers

    @property
    def network_seconds(self) -> Floats:
        """(N + 1,): all-reduces of a step by its tokens, and what replicas exchange."""
        return self.tables.network

    @property
    def streams(self) -> Streams:
        """What `bound_by_streams` goes by, for a step in one piece. A runtime that reads faster
        than kernels alone were measured to is not held to their rate.
        """
        faster = min(1.0, self.calibration.reads) if self.calibration else 1.0
        return Streams(
            self.weight_stream_seconds,
            self.kv_stream_seconds * faster,
            self.token_parts,
            self.expert_stream_seconds,
            self.state_stream_seconds * faster,
        )

    def seconds(self, batch: Batch) -> tuple[float, float, float]:
        """(compute, memory, overlapped) seconds of one step in one piece by kernels alone, its
        all-reduces in the last. As in perf/step.py, kernels side by side share the memory.
        """
        c = float(
            compute_seconds(
                self.tables,
                batch.prefill_tokens,
                batch.prefill_requests,
                batch.prefill_pairs,
                batch.decode_requests,
                batch.sampled_tokens,
            )
        )
        m = float(memory_seconds(self.tables, batch.decode_requests, batch.context_tokens))
        n = float(dense_seconds(self.tables.network, batch.tokens))
        together, alone = self.together(c, m, n), c + m + n
        reads, decodes = batch.context_tokens, batch.decode_requests
        held = bound_by_streams(self.streams, batch.tokens, reads, together, alone, decodes)
        return c, m, float(held)

    def together(self, compute: float, memory: float, network: float = 0.0) -> float:
        """Seconds of all kinds of work side by side, by the overlap alone."""
        if self.measured:
            return float(measured_overlap(*self.measured, compute, memory)) + network
        return float(overlapped(self.lines, compute, memory, network))


def step_model(system: System, overlap: str = "auto", profile: Profile | None = None) -> StepModel:
    """The step costs of `system` from its profile; `auto` overlap is `fit` where measured, else
    `table`.
    """
    profile = profile or load_profile(system.gpu, system.model, system.tp)
    name = default_overlap(system) if overlap == "auto" else overlap
    size = max(DENSE_TOKENS, int(profile.tokens[-1]))
    tokens = np.arange(size + 1, dtype=np.int64)
    dense = _dense(system, profile, tokens)
    exchange = _exchange_seconds(system, profile, size)
    network = _reduce_seconds(system, profile, size) + exchange
    small = small_seconds(system, profile, tokens)
    prefill = complete_prefill(profile.prefill)
    full = system.model.full_layers
    contexts, rows_of_one = _to_the_longest(
        system, profile.decode.lengths, _decode_rows(system, profile)
    )
    decode = full * rows_of_one
    windows = windows_of(system, profile, contexts, len(decode) - 1, size)
    deltas = deltas_of(system, profile.delta, len(decode) - 1)
    tables = StepTables(
        layers=dense.layers + small,
        head=dense.head,
        decode_contexts=contexts,
        decode=decode + windows.decode + deltas.decode[:, None],
        prefill_batches=prefill.batches,
        prefill_lengths=prefill.lengths,
        prefill=full * prefill.seconds,
        network=network,
        layers_with_network=dense.layers + network + small,
        walk=full * walk_along(profile.chunks),
        windows=windows.prefill,
        deltas=deltas.prompts,
    )
    n = np.arange(1, size + 1)
    batches = np.arange(1, len(decode))[:, None]
    read = float((decode[1:] / (batches * contexts)).min())
    kv_bytes = full * head_shape(system.model, system.tp).kv_bytes
    rate = max(kv_bytes / read, dense.head_rate, deltas.rate)
    return StepModel(
        system=system,
        overlap=name,
        lines=overlap_lines(name, system),
        tables=tables,
        coverage=coverage_of(profile),
        small_seconds=small,
        merge_seconds=merge_seconds(system, profile, tokens),
        best_layer_seconds_per_token=float((tables.layers[1:] / n).min()),
        best_head_seconds_per_token=float((dense.head[1:] / n).min()),
        best_prefill_seconds_per_pair=float(
            (tables.prefill / (0.5 * (prefill.lengths + 1.0))).min()
        ),
        best_seconds_per_context_token=read,
        best_kernel_seconds_per_context_token=read,
        best_seconds_per_window_token=windows.best + deltas.best,
        best_seconds_per_prompt_token=windows.best_of_prompts + deltas.best_of_prompts,
        best_network_seconds_per_token=float((tables.network[1:] / n).min()),
        weight_stream_seconds=dense.weight_bytes / rate,
        kv_stream_seconds=kv_bytes / rate,
        token_parts=1,
        state_stream_seconds=2 * system.model.state_bytes / system.tp / rate,
        measured=overlap_points(name, system),
        expert_stream_seconds=_expert_streams(system, dense.experts, rate),
        joint_seconds=_joint_seconds(system, dense.experts, exchange),
    )


def with_calibrations(model: StepModel, calibrations: tuple[Calibration, ...]) -> StepModel:
    """The model with what was measured of whole steps. Where a runtime reads faster than kernels
    alone were measured to, no bound may say that it cannot.
    """
    fastest = min(1.0, *(found.reads for found in calibrations), 1.0)
    best = model.best_kernel_seconds_per_context_token * fastest
    beside = model.best_seconds_per_window_token / model.best_seconds_per_context_token
    calibrated = replace(
        model,
        calibrations=calibrations,
        best_seconds_per_context_token=best,
        best_seconds_per_window_token=beside * best,
    )
    layers = calibrated.layer_seconds[1:]
    least = float((layers / np.arange(1, len(layers) + 1)).min())
    return replace(calibrated, best_layer_seconds_per_token=least)


class _Dense(NamedTuple):
    """GEMMs of a step by its tokens, (N + 1,) each."""

    layers: Floats  # of all layers
    head: Floats
    experts: Floats  # of one layer; 0 without them
    head_rate: float  # bytes/s at which the LM head was read at best
    weight_bytes: float  # of all weights that a step reads, but experts'


def _dense(system: System, profile: Profile, tokens: Ints) -> _Dense:
    measured = _gemm_seconds(system, profile)
    names = profile.operators
    counts = {name: layers_with(system.model, name) for name in names}
    rows = _whole_tiles(profile, tokens[1:])
    layers, head, experts = np.zeros((3, len(tokens)))
    for count in dict.fromkeys(counts[name] for name in names if name != HEAD):
        alike = [i for i, name in enumerate(names) if name != HEAD and counts[name] == count]
        layers[1:] += count * along(profile.tokens, measured[:, alike].sum(axis=1), rows)
    of_head = measured[:, names.index(HEAD)]
    head[1:] = along(profile.tokens, of_head, rows)
    if system.model.experts:
        experts[1:] = along(profile.tokens, measured[:, names.index(EXPERTS)], rows)
    streamed = token_weight_bytes(system.model, system.tp)
    weights = sum(counts[name] * streamed[name] for name in names if name != EXPERTS)
    return _Dense(layers, head, experts, streamed[HEAD] / float(of_head.min()), weights)


def _reduce_seconds(system: System, profile: Profile, size: int) -> Floats:
    """(N + 1,), all-reduces of a step of n tokens, hidden bf16 values each: after every attention
    and every MLP, but for experts that replicas share.
    """
    model, seconds = system.model, np.zeros(size + 1)
    if profile.reduce is not None:
        moved = np.arange(1.0, size + 1.0) * (BYTES_PER_VALUE * model.hidden)
        once = along(profile.reduce.sizes, profile.reduce.seconds, moved)
        shared = model.layers_with_experts if system.is_joined else 0
        seconds[1:] = model.layers * (2.0 * once) - shared * once
    return seconds


def _exchange_seconds(system: System, profile: Profile, size: int) -> Floats:
    """(N + 1,), what replicas that share experts exchange in a step of n tokens each."""
    model, seconds = system.model, np.zeros(size + 1)
    if system.is_joined:
        assert profile.exchange is not None, "a profile of shared experts has what they exchange"
        moved = np.arange(1.0, size + 1.0) * (BYTES_PER_VALUE * model.hidden * model.expert_ranks)
        each = along(profile.exchange.sizes, profile.exchange.seconds, moved)
        seconds[1:] = model.layers_with_experts * each
    return seconds


def _gemm_seconds(system: System, profile: Profile) -> Floats:
    """The profile's GEMMs, none faster than its weights can stream from memory: a benchmark repeats
    one GEMM and finds small weights in the cache, where a layer's are never found. Where sizes lie
    as close as tiles, none is slower than a larger one: its rows could be filled up to that.
    """
    moved = list(token_weight_bytes(system.model, system.tp).values())
    least = np.array(moved) / system.gpu.bandwidth
    seconds = np.maximum(profile.gemm, least)
    if profile.gemm_tile > 1:
        seconds = np.minimum.accumulate(seconds[::-1])[::-1]
    return np.asarray(seconds, np.float64)


def _expert_streams(system: System, seconds: Floats, rate: float) -> Floats:
    """(N + 1,), seconds of a step's reads of experts' weights at `rate` bytes/s by its tokens;
    empty without experts. `seconds` are those of one layer's experts.

    Measured loads are not even, and leave more unread: so no reads are longer than the kernel they
    are of.
    """
    model = system.model
    if not model.experts:
        return np.zeros(0)
    moved = expert_bytes(model, system.tp, np.arange(len(seconds)))
    reads = model.layers_with_experts * np.minimum(moved / rate, seconds)
    return np.asarray(reads, np.float64)


def _joint_seconds(system: System, experts: Floats, exchange: Floats) -> Floats:
    if not system.is_joined:
        return np.zeros(0)
    return np.asarray(system.model.layers_with_experts * experts + exchange, np.float64)


def _whole_tiles(profile: Profile, tokens: Ints) -> Ints:
    """Rows that GEMMs of so many tokens compute, since they compute in tiles. Below one tile it is
    the weights that take the time, and rows are what they are.
    """
    tile = profile.gemm_tile
    return np.where(tokens <= tile, tokens, -(-tokens // tile) * tile)


def _to_the_longest(system: System, lengths: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """The contexts of decode attention and its rows, with the model's whole context among them
    where other layers take no more for a longer one. Beyond the last context all would grow with
    it; in rows that go on to the longest there is, only what is of full attention does.
    """
    longest = system.model.context
    if not system.model.windowed_layers or longest <= lengths[-1]:
        return lengths, rows
    grown = rows[:, -1:] * (longest / lengths[-1])
    return np.append(lengths, float(longest)), np.column_stack([rows, grown])


def _decode_rows(system: System, profile: Profile) -> Floats:
    """One layer's decode attention for every batch up to the grid's end and every context of the
    grid, with the cliffs between measured batches; nothing reads faster than KV too large for the
    cache was measured to be read.
    """
    waves, grid = profile.meta["waves"], profile.decode
    shape = head_shape(system.model, system.tp)
    slots = float(system.gpu.sm_count * waves["blocks_per_sm"])
    # NOTE: cliffs were fitted to kernels with a block for each KV head, which latent ones have not.
    share = 0.0 if shape.latent else float(waves["share"])
    smooth = grid.seconds / stretch(grid.batches * shape.kv_heads, slots, share)[:, None]
    smooth = complete(AttentionGrid(grid.batches, grid.lengths, smooth)).seconds
    batches = np.arange(1, int(grid.batches[-1]) + 1, dtype=np.float64)
    rows = np.column_stack([along(grid.batches, column, batches) for column in smooth.T])
    rows *= stretch(batches * shape.kv_heads, slots, share)[:, None]
    work = grid.batches[:, None] * grid.lengths
    cold = (grid.seconds / work)[work * shape.kv_bytes >= UNCACHED_BYTES]
    fastest = float(np.nanmin(cold, initial=np.inf))
    if np.isinf(fastest):
        fastest = shape.kv_bytes / system.gpu.bandwidth
    rows = np.maximum(rows, fastest * batches[:, None] * grid.lengths)
    return np.concatenate([np.zeros((1, rows.shape[1])), rows])
