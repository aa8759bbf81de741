"""Workloads that vLLM's own scheduler was stepped on, and the same ones for our core.

A world is what `vllm_oracle/record.py` reads: plain JSON. A recording is what it wrote.
"""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from blendsim.plan import IN_ORDER, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import FLAVOURS, Flavour
from blendsim.serving.knobs import Knobs
from blendsim.serving.state import DONE
from blendsim.specs import LINKS, GpuSpec, ModelSpec
from blendsim.system import System
from blendsim.traces.load import load

World = dict[str, Any]
Recording = dict[str, Any]

BLOCK = 16  # tokens
RECORDINGS = Path(__file__).parent / "vllm_oracle" / "recordings.json.gz"
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

#: KV blocks for the first requests of the real traces. Azure's fill them until some are preempted.
CAPACITY = {"azure-code": 6_000, "azure-conv": 12_000, "mmlu": 2_500}

#: One KV token of this model takes 4 bytes.
_MODEL = ModelSpec("grain", 1, 1, 1, heads=1, kv_heads=1, head_dim=1, vocab=1, context=1 << 20)
_GPU = GpuSpec("sand", 1.0, 1.0, memory_bytes=1 << 40, sm_count=1, link=LINKS["pcie4"])


def core_of(world: World, flavour: Flavour | None = None) -> ServingCore:
    """Our core for `world`, in the order given, as the vLLM flavour."""
    flavour = replace(
        flavour or FLAVOURS["vllm"],
        token_budget=world["budget"],
        max_running=world["max_running"],
        prefix_sharing=world["sharing"],
        knobs=Knobs(**world.get("knobs", {})),
    )
    listed = [p if isinstance(p, list) else [] for p in world["prompts"]]
    lengths = [len(p) if isinstance(p, list) else p for p in world["prompts"]]
    n = len(lengths)
    prompts = Prompts(
        offsets=np.array([0, *accumulate(map(len, listed))], np.int64),
        units=np.array([token for prompt in listed for token in prompt], np.int64),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    workload = from_lengths(lengths, world["outputs"], prompts=prompts)
    plan = Plan(
        policy="fcfs",
        admission=IN_ORDER,
        order=np.arange(n),
        rank=np.zeros(n, np.int32),
        is_first=np.zeros(n, np.bool_),
        is_visible=np.zeros(n, np.bool_),
        expected_output=np.ones(n, np.int64),
        density=np.ones(n),
        root_density=1.0,
        workload_hash="",
        meta={},
    )
    kv_bytes = world["capacity"] * BLOCK * _MODEL.kv_bytes_per_token
    stages = world.get("stages", 1)
    model = replace(_MODEL, layers=stages)
    system = System(model, _GPU, kv_bytes=kv_bytes * stages, block_tokens=BLOCK, pp=stages)
    return ServingCore.from_plan(
        plan, workload, workload.output_len, sort_prompts(workload), system, flavour
    )


def digest(rows: list[list[int]]) -> str:
    """What a recording keeps of a step's rows where it keeps no more."""
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()[:8]


def our_steps(world: World, flavour: Flavour | None = None) -> Iterator[tuple[Any, list[int], int]]:
    """Of every step of our core: its rows (or their digest), who was preempted, blocks in use."""
    core = core_of(world, flavour)
    requests: Any = core.state.requests
    out_before: list[int] = []  # thrown out by steps of a pipeline that compute nothing
    while not core.is_done:
        before = {int(k) for k in np.flatnonzero(requests.status != 0)}
        has_ended = requests.status == DONE
        turn = int(core.state.microbatches[0].record[0].turn) if core.state.microbatches else None
        is_empty = core.step().tokens == 0
        rows = sorted(
            list(row) for row in zip(*(column.tolist() for column in core.scheduled()), strict=True)
        )
        out_before += before & {int(k) for k in np.flatnonzero(requests.status == 0)}
        if turn is not None:  # thrown out while the last token is on its way: over with that
            is_over = (requests.status == DONE) & ~has_ended & (requests.microbatch != turn)
            out_before += np.flatnonzero(is_over).tolist()
        held = core.counts()["held_blocks"]
        core.commit()
        if is_empty:
            continue
        yield digest(rows) if world["digest"] else rows, sorted(out_before), held
        out_before = []


def matching(world: World, recording: Recording, flavour: Flavour | None = None) -> int:
    """Steps that are identical in both, from the first on, until they part."""
    theirs = zip(recording["steps"], recording["preempted"], recording["held"], strict=True)
    same = 0
    for ours, vllm in zip(our_steps(world, flavour), theirs, strict=False):
        if ours != vllm:
            return same
        same += 1
    return same


def small_worlds(number: int, aligned: bool, start: int = 0) -> list[World]:
    """Worlds drawn by Hypothesis, the same ones for a `start`. `aligned`: some prompts end with a
    block and are shared to their last token.
    """
    drawn: list[World] = []

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_worlds(aligned))
    def draw(world: World) -> None:
        drawn.append(world)

    draw()
    return drawn


@st.composite
def _worlds(draw: st.DrawFn, aligned: bool) -> World:
    """Requests behind up to three heads; memory, budget and running limit that bite.

    Hypothesis draws the shape and a seed; the lengths come from the seed, since Hypothesis likes
    them too small to fill a block.
    """
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    n = draw(st.integers(12, 48))
    heads = rng.integers(1, 9, draw(st.integers(1, 3)))  # blocks of heads that stand on each other
    longest_output = draw(st.sampled_from([2, 6, 40, 80]))
    longest_own = draw(st.sampled_from([20, 60, 200]))
    prompts, outputs = [], []
    for k in range(n):
        depth = BLOCK * int(heads[: rng.integers(0, len(heads) + 1)].sum())
        branch = 1_000 * int(rng.integers(0, 2))
        own = int(rng.integers(1, longest_own))
        has_twin = rng.random() < 0.3 and own % BLOCK > 0
        if aligned and depth and rng.random() < 0.3:
            own = 0
        tail = [100_000 if has_twin else 200_000 + k] * own
        prompts.append([branch + token for token in range(depth)] + tail)
        outputs.append(int(rng.integers(1, longest_output + 1)))
    longest = max(len(p) + d for p, d in zip(prompts, outputs, strict=True))
    budget = draw(st.sampled_from([16, 32, 100, 256, 600]))
    return {
        "prompts": prompts,
        "outputs": outputs,
        "capacity": -(-longest // BLOCK) + draw(st.integers(0, 24)),
        "budget": budget,
        "max_running": draw(st.sampled_from([3, 8, 16])),
        "sharing": draw(st.sampled_from([True, True, True, False])),
        "digest": False,
    }


def pipeline_worlds(number: int, start: int = 0) -> list[World]:
    """Worlds in which two to four steps are on their way at a time."""
    rng = np.random.default_rng([start, 4])
    worlds = small_worlds(number, False, start=20_000 + start)
    return [world | {"stages": int(rng.integers(2, 5))} for world in worlds]


def trace_world(name: str, requests: int = 2_000) -> World:
    """The first requests of a real trace (needs the shared data), in memory that they fill."""
    if name == "mmlu":
        file = dict(np.load(SHARED / "mmlu_5shot_llama3_tokens.npz"))
        prefix_start = np.concatenate(([0], np.cumsum(file["prefix_len"])))
        suffix_start = np.concatenate(([0], np.cumsum(file["suffix_len"])))
        prompts: list[Any] = []
        for k, subject in enumerate(file["subject_of_prompt"][:requests].tolist()):
            head = file["prefix_tokens"][prefix_start[subject] : prefix_start[subject + 1]]
            tail = file["suffix_tokens"][suffix_start[k] : suffix_start[k + 1]]
            prompts.append(np.concatenate([head, tail]).tolist())
        outputs, capacity = [2] * len(prompts), CAPACITY[name]
    else:
        path = SHARED / f"AzureLLMInferenceTrace_{name.removeprefix('azure-')}.csv.gz"
        workload = load(str(path))
        prompts = workload.prompt_len[:requests].tolist()
        outputs, capacity = workload.output_len[:requests].tolist(), CAPACITY[name]
    return {
        "prompts": prompts,
        "outputs": outputs,
        "capacity": capacity,
        "budget": 2_048,
        "max_running": 1_024,
        "sharing": True,
        "digest": True,
    }


def stepped(worlds: list[World], python: Path) -> dict[str, Any]:
    """What vLLM's scheduler does with `worlds`, stepped now by the environment's `python`."""
    done = subprocess.run(
        [str(python), str(RECORDINGS.with_name("record.py"))],
        input=json.dumps({"worlds": worlds}),
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def environment() -> Path:
    """The Python that has vLLM: of $VLLM_ENV, else of the one `make vllm-env` makes."""
    root = Path(__file__).resolve().parents[1]
    return Path(os.environ.get("VLLM_ENV") or root / ".venv-vllm").absolute() / "bin" / "python"


def load_recordings() -> dict[str, Any]:
    """The recordings the project keeps."""
    content: dict[str, Any] = json.loads(gzip.decompress(RECORDINGS.read_bytes()))
    return content
