"""Worlds of several replicas by hand: a step model whose steps all last one second, plans in the
order given, and what a run did as a list of events.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blendsim.perf.kernels import StepTables
from blendsim.perf.model import StepModel, step_model
from blendsim.plan import IN_ORDER, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.serving.flavour import PROMPT_FITS, Flavour
from blendsim.sim.run import simulate
from blendsim.specs import ModelSpec, find_gpu, find_model
from blendsim.steplog import StepLog
from blendsim.system import System
from blendsim.topology import COLOCATED, Topology

_MODEL, _GPU = find_model("llama-3.1-8b"), find_gpu("a100-80g")
KV_BYTES = _MODEL.kv_bytes_per_token  # of a token

PLAIN = Flavour("plain", "0", token_budget=100, max_running=16, admission=PROMPT_FITS)


def seconds_model(blocks: int = 1_000, tp: int = 1, model: ModelSpec = _MODEL) -> StepModel:
    """Every step takes one second; a replica has this many KV blocks."""
    system = System(model, _GPU, tp, kv_bytes=blocks * 16 * model.kv_bytes_per_token)
    none = np.zeros((2, 2))
    tables = StepTables(
        layers=np.concatenate(([0.0], np.ones(20_000))),
        head=np.zeros(20_001),
        decode_contexts=np.array([1.0, 2.0]),
        decode=none,
        prefill_batches=np.array([1.0, 2.0]),
        prefill_lengths=np.array([1.0, 2.0]),
        prefill=none,
        network=np.zeros(20_001),
        layers_with_network=np.concatenate(([0.0], np.ones(20_000))),
        windows=np.zeros(0),
        walk=np.zeros(2),
    )
    measured = step_model(System(_MODEL, _GPU, tp), "sum")
    return replace(measured, system=system, tables=tables)


def alone(prompt: Sequence[int], output: Sequence[int]) -> Workload:
    """Requests that share nothing."""
    return from_lengths(np.array(prompt), np.array(output))


def sharing(prompt: Sequence[int], output: Sequence[int], shared: int) -> Workload:
    """Requests whose prompts begin with the same `shared` tokens."""
    n = len(prompt)
    prompts = Prompts(
        np.arange(n + 1) * shared,
        np.tile(np.arange(shared), n),
        np.zeros(n, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(np.array(prompt), np.array(output), prompts=prompts)


def listed(workload: Workload, rank: Sequence[int] = (), admission: str = IN_ORDER) -> Plan:
    """The plan that serves the requests as they are listed, lengths known."""
    n = len(workload)
    return Plan(
        policy="listed",
        admission=admission,
        order=np.arange(n),
        rank=np.array(rank or [0] * n, np.int32),
        is_first=np.zeros(n, np.bool_),
        is_visible=np.ones(n, np.bool_),
        expected_output=workload.output_len,
        density=np.linspace(2.0, 0.5, n),
        root_density=1.0,
        workload_hash="",
        meta={},
    )


def run(
    workload: Workload,
    topology: Topology = COLOCATED,
    plan: Plan | None = None,
    model: StepModel | None = None,
    flavour: Flavour = PLAIN,
) -> StepLog:
    """The log of a simulated run."""
    plan = listed(workload) if plan is None else plan
    model = seconds_model() if model is None else model
    prompts = sort_prompts(workload)
    return simulate(plan, workload, workload.output_len, prompts, model, flavour, topology)


def events(log: StepLog) -> list[tuple[float, int, int, int, int]]:
    """(start, replica, prompt tokens, decodes, finished) of every step, in order of time."""
    columns = [log.count(n).tolist() for n in ("prefill_tokens", "decode_requests", "finished")]
    start = np.round(log.time("start"), 6).tolist()
    return sorted(zip(start, log.replica.tolist(), *columns, strict=True))


def total(log: StepLog, name: str) -> int:
    """Sum of a column."""
    return int(log.count(name).sum())
