"""How much of its GPUs a run uses: model FLOPs and memory bandwidth utilisation (MFU and MBU), and
how many requests run at a time.
"""

from typing import NamedTuple

import numpy as np

from blendsim.perf.model_shapes import expert_bytes, token_weight_bytes, token_weights
from blendsim.perf.profile import EXPERTS, HEAD, layers_with
from blendsim.steplog import StepLog
from blendsim.system import System

#: Columns of a log that its FLOPs and bytes are of.
OF_WORK = (
    "prefill_tokens",
    "prefill_pairs",
    "decode_requests",
    "context_tokens",
    "sampled_tokens",
    "shared_reads",
)


class Utilisation(NamedTuple):
    """Of the GPUs of all replicas, idle ones too, over the whole run."""

    mfu: float  # model FLOPs over the peak's with weights in their format
    mbu: float  # bytes that have to be read over the peak bandwidth's
    mean_running: float  # requests in a replica, weighted by time while it has any
    most_running: int


def utilisation(log: StepLog, system: System, replicas: int, recomputed: int) -> Utilisation:
    """Of a run of `replicas` replicas of `system` that computed so many tokens again.

    Model FLOPs as in PaLM (arXiv 2204.02311, appendix B): two for each weight that a token goes
    through, two for each multiplication of attention, none for what is computed again or was found
    in the cache. Bytes are those of all weights once a step, of experts those that its tokens go
    through if they go evenly, and of the KV that decodes read.
    """
    gpu_seconds = log.end * replicas  # of one GPU of each replica, whose share all figures are
    seconds = log.time("seconds")
    running = log.count("running")
    return Utilisation(
        mfu=_flops(log, system, recomputed) / (system.flops * gpu_seconds),
        mbu=_bytes(log, system) / (system.gpu.bandwidth * gpu_seconds),
        mean_running=float((running * seconds).sum() / seconds.sum()),
        most_running=int(running.max()),
    )


def _flops(log: StepLog, system: System, recomputed: int) -> float:
    """Of one GPU: an equal share of the model's, though each may compute what belongs to no head or
    expert.
    """
    model = system.model
    weights = token_weights(model, 1)
    a_token = sum(layers_with(model, name) * weights[name] for name in weights if name != HEAD)
    tokens = int(log.tokens.sum()) - recomputed
    # NOTE: of layers with a window or a state in place of attention none are counted.
    prefill = int(log.count("prefill_tokens").sum())
    first = 1.0 - recomputed / max(prefill, 1)  # of the prompts, what was computed once
    pairs = float(first * log.count("prefill_pairs").sum() + log.count("context_tokens").sum())
    a_pair = model.full_layers * model.heads * (2 * model.head_dim + model.rope_dim)
    sampled = int(log.count("sampled_tokens").sum())
    return 2.0 * (tokens * a_token + sampled * weights[HEAD] + pairs * a_pair) / system.gpus


def _bytes(log: StepLog, system: System) -> float:
    model = system.model
    weights = token_weight_bytes(model, system.tp)
    dense = sum(layers_with(model, name) * weights[name] for name in weights if name != EXPERTS)
    read = float(len(log) * dense)
    if model.experts:
        read += model.layers_with_experts * float(expert_bytes(model, system.tp, log.tokens).sum())
    decodes, context = log.count("decode_requests"), log.count("context_tokens")
    within = np.minimum(context, model.window * decodes)
    kv = float((context - log.count("shared_reads")).sum()) * system.kv_bytes_per_token
    kv += float(within.sum()) * system.window_bytes_per_token
    return (read + kv / system.tp) / system.pp
