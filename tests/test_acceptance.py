"""The project seen from outside: facts checked through its public doors only, each by arithmetic or
input of the test's own.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run_json
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.perf.model import step_model
from blendsim.plan import read_plan
from blendsim.request import Workload
from blendsim.specs import GPUS, MODELS
from blendsim.system import System
from blendsim.traces import load_pool
from blendsim.traces.workload_file import write_workload


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_pool() -> Workload:
    """Compute-heavy, memory-heavy (lengths known), sharing and hashed requests."""
    names = ("azure-code?n=150", "openvid?n=8", "mmlu?n=400", "sharegpt?n=200")
    return load_pool([f"demo:{name}" for name in names])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dp", "2"),
        ("--planner", "fcfs"),
        ("--planner", "random"),
        ("--planner", "dfs", "--dp", "3"),
        ("--planner", "blend"),
    ],
    ids=" ".join,
)
def test_lengths_that_planning_may_not_see_change_no_byte(
    folder: Path, options: tuple[str, ...]
) -> None:
    pool = small_pool()
    write_workload(pool, folder / "pool.parquet")
    first = run_json("plan", "--trace", "pool.parquet", "-o", "first.parquet", *options)
    plan = read_plan(folder / "first.parquet")
    seen = np.zeros(len(pool), np.bool_)
    seen[plan.order] = plan.is_visible
    assert seen[pool.is_known].all()
    assert not seen.all()
    for other in (np.ones(len(pool), np.int64), pool.output_len[::-1] % 3_000 + 1):
        changed = replace(pool, output_len=np.where(seen, pool.output_len, other))
        write_workload(changed, folder / "pool.parquet")
        again = run_json("plan", "--trace", "pool.parquet", "-o", "again.parquet", *options)
        assert (folder / "first.parquet").read_bytes() == (folder / "again.parquet").read_bytes()
        assert again["predicted_seconds"] == first["predicted_seconds"]
        assert again["seconds"] != first["seconds"]


@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
def test_optimum_is_the_sum_over_requests_of_their_work_at_best_rates(
    folder: Path, overlap: str
) -> None:
    rng = np.random.default_rng(8)
    lengths = [(int(p), int(d)) for p, d in rng.integers(1, 900, (40, 2))]
    rows = "".join(f"{p},{d}\n" for p, d in lengths)
    (folder / "t.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + rows)
    row = run_json("plan", "--trace", "t.csv", "--overlap", overlap, "--planner", "fcfs")
    system = System(MODELS["llama-3.1-8b"], GPUS["a100-80g"])
    model = step_model(system, overlap)
    layers = min(float(s) / n for n, s in enumerate(model.layer_seconds) if n > 0)
    compute = memory = 0.0
    for p, d in lengths:
        compute += (p + d - 1) * layers + d * model.best_head_seconds_per_token
        compute += sum(range(1, p + 1)) * model.best_prefill_seconds_per_pair
        memory += sum(p + j for j in range(1, d)) * model.best_seconds_per_context_token
    optimum = {
        "sum": compute + memory,
        "max": max(compute, memory),
        "table": max(compute + memory / 2, memory + compute / 3),
    }[overlap]
    assert row["optimum_seconds"] == pytest.approx(optimum, rel=1e-9)


@pytest.mark.parametrize("dp", ["1", "2"])
def test_same_seed_same_bytes_of_plan_and_steps(folder: Path, dp: str) -> None:
    pool = ("--trace", "demo:clips?n=30", "--trace", "demo:mmlu?n=300", "--dp", dp, "--seed", "5")
    for name in ("a", "b"):
        planned = run_json("plan", *pool, "-o", f"{name}.parquet")
        # NOTE: the step log holds the SHA-256 of its plan, so equal plans come first.
        simulated = run_json("simulate", f"{name}.parquet", "-o", f"{name}-steps.parquet")
        assert simulated["seconds"] == planned["seconds"]
        assert simulated["predicted_seconds"] == planned["predicted_seconds"]
    for suffix in (".parquet", "-steps.parquet"):
        assert (folder / f"a{suffix}").read_bytes() == (folder / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("kv_tokens", [64, 4_096, 1 << 20])
def test_extreme_pools_stay_within_the_bounds(folder: Path, gpu: str, kv_tokens: int) -> None:
    """One-token answers, one giant, equal requests, all of them on a shared prefix."""
    kv_bytes = min(
        kv_tokens * MODELS["qwen3-8b"].kv_bytes_per_token,
        GPUS[gpu].memory_bytes - MODELS["qwen3-8b"].weight_bytes,
    )
    (folder / "c.toml").write_text(f'[settings]\nkv_bytes = {kv_bytes}\nmodel = "qwen3-8b"\n')
    rng = np.random.default_rng(kv_tokens)
    most = min(kv_tokens, 40_000)
    shapes = [(1, 1), (most - 1, 1), (1, most - 1), *([(most // 2, most // 4)] * 12)]
    shapes += [(int(p), int(d)) for p, d in rng.integers(1, most // 2, (20, 2))]
    rows = [
        {"timestamp": 0, "input_length": p, "output_length": d, "hash_ids": [1] * (p // 16)}
        | {"chat_id": i, "parent_chat_id": -1, "type": "text", "turn": 1}
        for i, (p, d) in enumerate(shapes)
    ]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    for engine, budget in (("nanoflow", "16"), ("vllm", "8192")):
        options = ("--engine", engine, "--token-budget", budget, "--gpu", gpu, "--config", "c.toml")
        for row in run_json("plan", "--trace", "t.jsonl", *options)["rows"]:
            assert 0 < row["share_of_optimum"] <= row["share_of_reachable"] * (1 + 1e-9)
            assert row["share_of_reachable"] <= 1 + 1e-9
            assert row["sharing_ratio"] <= row["sharing_optimum"] + 1e-12


def test_an_unknown_format_is_refused_whatever_the_trace() -> None:
    result = CliRunner().invoke(app, ["plan", "--trace", "demo:mmlu?n=9", "--format", "azure"])
    assert result.exit_code == 2
    assert "unknown format 'azure'; nearest known: azure-csv" in result.stderr
