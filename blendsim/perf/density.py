"""Density ρ = compute time / memory time, of requests and pools (paper §2, §4.1), two ways: the
paper's closed form on peak figures, and our step model at its best rates.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel
from blendsim.perf.model import StepModel
from blendsim.system import System


class RequestCosts(NamedTuple):
    """Seconds each request needs alone, nothing shared; and those of one token through the layers,
    which sharing it saves.
    """

    compute: Floats  # (n,)
    memory: Floats  # (n,)
    seconds_per_token: float


class Split(NamedTuple):
    """KV memory of the two ends of a dual scan, in the unit of what was split."""

    left: float
    right: float


def window_reads(window: int, prompt: Floats | Ints, reads: Floats | Ints) -> Floats:
    """Σ min(p + j, window) over j = 1 … reads: what a layer with a window reads in the decode steps
    of a request, tokens.
    """
    # Steps that still read their whole context.
    whole = np.clip(window - prompt, 0, reads).astype(np.float64)
    return np.asarray(whole * prompt + whole * (whole + 1.0) / 2.0 + (reads - whole) * window)


def closed_form(system: System, prompt_len: Ints, output_len: Ints) -> RequestCosts:
    """The paper's densities (§4.1): Comp = 2·(p + d)·P / peak, Mem = (p·d + d²/2)·H_kv·L·4 /
    bandwidth, both of `tp` GPUs; the attention term in p² is left out, as the paper does. Layers
    with a window read that alone (gated delta nets their state, which they write, too), and GPUs
    that keep the same K and V all read them.
    """
    p, d = prompt_len.astype(np.float64), output_len.astype(np.float64)
    per_token = 2.0 * system.model.active_parameters / (system.flops * system.tp)
    bandwidth = system.gpu.bandwidth * system.tp
    memory = (p * d + 0.5 * d * d) * (system.kv_bytes_per_token / bandwidth)
    if system.model.windowed_layers:
        per_window = system.window_bytes_per_token / bandwidth
        memory = memory + window_reads(system.model.window, p, d) * per_window
    return RequestCosts((p + d) * per_token, memory, per_token)


def profiled(model: StepModel, prompt_len: Ints, output_len: Ints) -> RequestCosts:
    """The same by the step model at its best rates, for the work an engine really does: p + d − 1
    tokens through the layers, d through the LM head, p·(p + 1)/2 query-key pairs, and decode reads
    Σ (p + j) for j = 1 … d − 1, and p prompt tokens through layers with a window or gated delta
    nets. All-reduces are neither: they count in the bounds alone.
    """
    p, d = prompt_len.astype(np.float64), output_len.astype(np.float64)
    compute = (
        (p + d - 1.0) * model.best_layer_seconds_per_token
        + d * model.best_head_seconds_per_token
        + 0.5 * p * (p + 1.0) * model.best_prefill_seconds_per_pair
        + p * model.best_seconds_per_prompt_token
    )
    reads = (d - 1.0) * p + 0.5 * d * (d - 1.0)
    memory = reads * model.best_seconds_per_context_token
    spec = model.system.model
    if spec.windowed_layers:
        within = window_reads(spec.window, p, d - 1.0)
        memory = memory + within * model.best_seconds_per_window_token
    per_token = model.best_layer_seconds_per_token + model.best_seconds_per_prompt_token
    return RequestCosts(compute, memory, per_token)


def table_density(costs: RequestCosts, sharing: float = 0.0) -> float:
    """(1 − s)·ΣComp / ΣMem with s the *prompt* sharing ratio, which is what the paper's Table 4
    holds: outputs count as shared too, so a pool of short answers reads a little lower than ρ.
    Infinite when nothing is read.
    """
    memory = float(costs.memory.sum())
    whole = float(costs.compute.sum()) / memory if memory > 0.0 else float("inf")
    return (1.0 - sharing) * whole


@kernel
def left_fraction(rho_left: float, rho_right: float, rho_root: float) -> float:
    """M_L / M of §5.3: (ρ(root) − ρ(R)) / (ρ(L) − ρ(R)), held in [0, 1]; half when both ends are
    equally dense.
    """
    if rho_left == rho_right:
        return 0.5
    return float(min(1.0, max(0.0, (rho_root - rho_right) / (rho_left - rho_right))))


def memory_split(memory: float, rho_left: float, rho_right: float, rho_root: float) -> Split:
    """M_L and M_R with M_L + M_R = M and M_L·ρ(L) + M_R·ρ(R) = M·ρ(root), within [0, M]."""
    left = memory * float(left_fraction(rho_left, rho_right, rho_root))
    return Split(left, memory - left)
