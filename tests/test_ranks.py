"""Experts that data-parallel replicas share (`--ep`): what a replica weighs and keeps, what its
steps take, reckoned again from the kernels' own tables, and what cannot be.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, refusal, run, run_json
from test_model_latent import ROOT
from test_perf_latent_steps import at, lines_of, row_of

from blendsim import search
from blendsim.cli.servers import flags_assumed
from blendsim.errors import InputError, ProfileError
from blendsim.formats import WEIGHTS
from blendsim.perf.atlas import needs_of, read_atlas
from blendsim.perf.density import closed_form
from blendsim.perf.derive import derive_profile
from blendsim.perf.model import step_model
from blendsim.perf.model_shapes import shape_of, token_weight_bytes, token_weights
from blendsim.perf.overlap import overlap_lines
from blendsim.perf.profile import EXPERTS
from blendsim.perf.store import load_profile, read_profile, write_profile
from blendsim.plan import read_plan
from blendsim.request import from_lengths
from blendsim.search.rental import find_candidates
from blendsim.search.world_run import seconds_in
from blendsim.settings import Settings, remembered
from blendsim.sim.lock_step import ALONE, LONGEST, in_lock_step
from blendsim.sim.run import require_modelled
from blendsim.specs import GPUS, MODELS, find_gpu
from blendsim.steplog import COUNTS, TIMES, StepLog
from blendsim.system import System
from blendsim.traces.load import load

H200 = "h200"
JOINED = Settings(model="deepseek-v3", gpu=H200, dp=8, ep=8)
PAIRS = Settings(model="deepseek-v3", gpu=H200, tp=2, dp=4, ep=8)
HIDDEN, WITH_EXPERTS, LAYERS = 7_168, 58, 61
EXPERTS_IN_ALL = WITH_EXPERTS * 256 * 3 * HIDDEN * 2_048
SIZES = [512, 513, 100_000, 14_336 * 8 * 64, 2**29, 3 * 2**29]


def exchanged(gpu: str, gpus: int, size: float, column: int) -> float:
    """Seconds of an all-gather (2) or a reduce-scatter (3) of so many bytes in all."""
    rows = [line for line in lines_of(gpu, "gather_scatter.csv")[1:] if line[0] == str(gpus)]
    return at({int(line[1]): float(line[column]) / 1e6 for line in rows}, size)


def reduced(gpu: str, gpus: int, size: float) -> float:
    rows = [line for line in lines_of(gpu, "all_reduce.csv")[1:] if line[0] == str(gpus)]
    return at({int(line[1]): float(line[2]) / 1e6 for line in rows}, size)


# What it weighs and keeps


def test_a_gpu_has_its_share_of_experts_and_all_else() -> None:
    whole = MODELS["deepseek-v3"].weight_bytes
    of_experts = EXPERTS_IN_ALL * WEIGHTS["fp8-block"]
    found = JOINED.system.weight_bytes
    assert found == pytest.approx(whole - 7 / 8 * of_experts, abs=1)
    assert found == pytest.approx(100.8e9, rel=1e-3)
    # Two GPUs have both shares, and each all of what is no head's: 61 layers' way down, and of
    # those with experts the routers.
    down = LAYERS * HIDDEN * (1_536 + 512 + 64) * WEIGHTS["fp8-block"]
    down += WITH_EXPERTS * HIDDEN * 256 * 2
    assert PAIRS.system.weight_bytes == pytest.approx(whole - 3 / 4 * of_experts + down, abs=2)


def test_kv_is_kept_once_in_all() -> None:
    """What a replica's GPU has left, in tokens of 61 layers of 576 bf16 values."""
    memory = 143_771 * 2**20
    free = 0.9 * memory - 2 * 2**30 - JOINED.system.weight_bytes
    blocks = int(free // (16 * LAYERS * 576 * 2))
    assert JOINED.system.kv_blocks == blocks
    in_all = 8 * 16 * blocks
    assert in_all == 3_724_288
    one_replica = replace(JOINED, dp=1, tp=8, ep=None).system
    assert in_all / (16 * one_replica.kv_blocks) == pytest.approx(5.406, abs=1e-3)


def test_a_replica_alone_is_what_it_was() -> None:
    """Of tables, label and shape; over the GPUs of one replica `--ep` is `--expert-parallel`."""
    asked = Settings(model="mixtral-8x7b", gpu="h100", tp=4)
    assert "expert_ranks" not in shape_of(asked.spec)
    same = replace(asked, ep=4), replace(asked, expert_parallel=True)
    assert same[0].system == same[1].system
    assert same[0].system.model.label == "mixtral-8x7b-ep"
    one, other = (step_model(each.system, "table") for each in same)
    assert len(one.joint_seconds) == 0
    for a, b in zip(one.tables, other.tables, strict=True):
        same_parts = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
        assert all(np.array_equal(x, y) for x, y in same_parts)


# What steps take


@pytest.mark.parametrize("asked", [JOINED, PAIRS, replace(JOINED, gpu="b200")])
@pytest.mark.parametrize("tokens", [1, 7, 64, 300, 2_048, 4_096])
def test_experts_take_what_they_do_for_all_replicas_tokens(asked: Settings, tokens: int) -> None:
    system = asked.system
    profile = load_profile(system.gpu, system.model, system.tp)
    column = profile.gemm[:, profile.operators.index(EXPERTS)]
    measured = row_of(asked.gpu, "experts.csv", "fp8-block", HIDDEN, 2_048, 256, 8, 1, 8)
    found = float(np.interp(tokens, profile.tokens, column))
    if tokens in profile.tokens:
        assert found == pytest.approx(at(measured, asked.dp * tokens), rel=1e-9)
    assert any(f"on 8 GPUs whole, at {asked.dp} times the tokens" in n for n in profile.notes)


def test_no_floor_of_reads_is_above_what_was_measured() -> None:
    """A token of each replica goes through eight experts at least, on eight GPUs."""
    model = JOINED.spec
    moved = token_weight_bytes(model, 1)[EXPERTS]
    one = 3 * HIDDEN * 2_048
    assert moved == int(one * WEIGHTS["fp8-block"])
    assert token_weights(model, 1)[EXPERTS] == 8 * one
    measured = row_of(H200, "experts.csv", "fp8-block", HIDDEN, 2_048, 256, 8, 1, 8)
    assert at(measured, 8) > moved / find_gpu(H200).bandwidth
    layers = step_model(JOINED.system, "sum").joint_seconds
    by_hand = at(measured, 8) + sum(exchanged(H200, 8, 8 * 2 * HIDDEN, i) for i in (2, 3))
    assert layers[1] == pytest.approx(WITH_EXPERTS * by_hand, rel=1e-9)


@pytest.mark.parametrize("tokens", [1, 64, 500, 2_048, 20_000])
def test_tokens_are_gathered_and_sums_scattered_around_experts_alone(tokens: int) -> None:
    size = tokens * 2 * HIDDEN
    around = sum(exchanged(H200, 8, 8 * size, column) for column in (2, 3))
    model = step_model(JOINED.system, "sum")
    assert model.network_seconds[tokens] == pytest.approx(WITH_EXPERTS * around, rel=1e-9)


@pytest.mark.parametrize("tokens", [1, 64, 500, 2_048])
def test_gpus_of_a_replica_add_up_attention_and_gather_their_tokens(tokens: int) -> None:
    """All-reduces after attention, and after the MLP of the three layers without experts."""
    size = tokens * 2 * HIDDEN
    around = sum(exchanged(H200, 8, 4 * size, column) for column in (2, 3))
    around += exchanged(H200, 2, size, 2)
    wanted = WITH_EXPERTS * around + (LAYERS + 3) * reduced(H200, 2, size)
    found = step_model(PAIRS.system, "sum").network_seconds[tokens]
    assert found == pytest.approx(wanted, rel=0.002)  # of times between measured sizes


def test_a_gpu_computes_as_much_as_one_that_has_the_model() -> None:
    """As many replicas' tokens go to its experts as its own go to others'."""
    lengths = np.array([100]), np.array([20])
    costs = closed_form(JOINED.system, *lengths)
    flops = 2 * MODELS["deepseek-v3"].active_parameters
    assert costs.compute == pytest.approx(120 * flops / find_gpu(H200).fp8_flops, rel=1e-12)


def test_a_network_takes_its_share_of_a_single_gpu() -> None:
    table = overlap_lines("table", JOINED.system)
    assert table == pytest.approx(overlap_lines("table", PAIRS.system))
    assert len(table) > len(overlap_lines("table", System(MODELS["llama-3.1-8b"], GPUS[H200])))


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("column", [2, 3])
def test_no_exchange_is_faster_than_the_link(gpu: str, column: int) -> None:
    """A GPU receives what the others have, or sends it: read as bytes the sizes were half of it."""
    fastest = 0.0
    for gpus, *line in (list(map(float, line)) for line in lines_of(gpu, "gather_scatter.csv")[1:]):
        rate = line[0] * (gpus - 1) / gpus / (line[column - 1] / 1e6)
        fastest = max(fastest, rate / GPUS[gpu].link.bandwidth)
    assert 0.5 < fastest < 1.0


def test_a_profile_on_disk_keeps_what_is_exchanged(tmp_path: Path) -> None:
    system = PAIRS.system
    profile = load_profile(system.gpu, system.model, system.tp)
    write_profile(profile, tmp_path)
    again = read_profile(tmp_path)
    assert again.shape == profile.shape
    assert again.exchange is not None
    assert profile.exchange is not None
    assert again.exchange.sizes.tolist() == profile.exchange.sizes.tolist()
    assert again.exchange.seconds == pytest.approx(profile.exchange.seconds, rel=1e-5)
    assert "gather_scatter" in profile.meta["tables"]


# Lock step


def test_replicas_that_share_experts_wait_for_the_slowest() -> None:
    """Of eight, one takes two steps of 3 and 1 s, another one of 2 s, the others none."""
    model = step_model(JOINED.system, "sum")
    model = replace(model, joint_seconds=np.linspace(0.0, 10.0, 101))  # 0.1 s a token
    counts, times = np.zeros((3, len(COUNTS)), np.int64), np.zeros((3, len(TIMES)))
    counts[:, COUNTS.index("decode_requests")] = [8, 8, 16]
    for name in ("seconds", "compute_seconds"):
        times[:, TIMES.index(name)] = [3.0, 1.0, 2.0]
    times[1, TIMES.index("start")] = 3.0
    log = StepLog(counts, times, np.array([0, 0, 3], np.int32), {})
    # By themselves 2.2 and 0.4 s: with experts of (8 + 16) / 8 tokens, and of 8 / 8.
    own = (3.0 - 0.8) + (1.0 - 0.8)
    found = in_lock_step(log, model)
    assert found.end == pytest.approx(own + 0.3 + 0.1)
    assert (found.meta[ALONE], found.meta[LONGEST]) == pytest.approx((4.0, 3.0 + 1.0))
    first = 3.0 - 0.8 + 0.3
    assert found.time("seconds").tolist() == pytest.approx([first, 1.0 - 0.8 + 0.1, first])
    assert found.time("start").tolist() == pytest.approx([0.0, first, 0.0])
    assert found.time("compute_seconds").tolist() == [3.0, 1.0, 2.0]
    apart = replace(log, replica=np.array([0, 0, 8], np.int32))  # two deployments of eight
    found = in_lock_step(apart, model)
    assert found.time("seconds").tolist() == pytest.approx([2.3, 0.3, 0.6])


def test_equal_replicas_take_what_each_takes_alone() -> None:
    asked = replace(JOINED, planner="dfs", sample=1.0, engine="vllm")
    pool = from_lengths(np.full(64, 400), np.full(64, 30))
    problem = search.prepare(pool, asked)
    plan = search.plan_policy(problem, "dfs")
    done = search.simulate_plan(pool, plan, asked)
    assert seconds_in(problem, plan, asked.flavour(), problem.true_lengths) == done.log.end
    told = done.log.meta[ALONE], done.log.meta[LONGEST]
    assert told == pytest.approx((done.log.end, done.log.end))
    assert done.row.reachable_seconds <= done.log.end


# What cannot be


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"ep": 1}, r"--ep 1 must be at least 2 GPUs"),
        ({"ep": 8, "expert_parallel": True}, r"give one of the two"),
        ({"ep": 8, "model": "llama-3.1-8b", "dp": 8}, r"--ep 8: llama-3.1-8b has no experts"),
        ({"ep": 8, "tp": 16, "dp": 8}, r"--ep 8 is no multiple of --tp 16"),
        ({"ep": 8, "dp": 1}, r"over 8 replicas, and --dp 1 is no multiple .*; use --dp 8, or"),
        ({"ep": 8, "tp": 2, "dp": 6}, r"over 4 replicas, and --dp 6 .*; use --dp 4, or another"),
        ({"ep": 24, "dp": 24}, r"--ep 24: 24 GPUs cannot share the 256 experts .*another --ep"),
        ({"ep": 2, "dp": 2}, r"leaves no KV cache on 1 × h200; use a larger --ep, --tp or"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(asked: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        _ = replace(replace(JOINED, ep=None), **asked).system  # type: ignore[arg-type]


def test_what_was_not_measured_is_refused_with_a_way_out() -> None:
    sixteen = replace(JOINED, dp=16, ep=16).system
    have = r"not measured in fp8-block at --ep 16, but .*in fp8-block at --ep 2, 4, 8"
    with pytest.raises(ProfileError, match=have):
        load_profile(sixteen.gpu, sixteen.model, 1)


@pytest.mark.parametrize(
    ("kept", "asked", "why"),
    [
        ((), JOINED, r"no all-gather of 8 GPUs .*: none; run `blendsim profile import` again$"),
        ((2, 4), JOINED, r"no all-gather of 8 GPUs measured, for --ep 8 with --tp 1; .*: 2, 4$"),
        ((8,), PAIRS, r"no all-gather of 2 GPUs measured, for --ep 8 with --tp 2; measured: 8$"),
    ],
)
def test_what_is_not_exchanged_so_is_refused(
    kept: tuple[int, ...], asked: Settings, why: str
) -> None:
    """As of a GPU's kernels from before these tables, or made by hand."""
    atlas = read_atlas(ROOT / H200 / "kernels", needs_of(asked.spec))
    some = {gpus: atlas.gather[gpus] for gpus in kept}
    with pytest.raises(ProfileError, match=why):
        derive_profile(replace(atlas, gather=some), find_gpu(H200), asked.spec, asked.tp)


def test_pools_share_no_experts() -> None:
    asked = replace(JOINED, dp=1, topology="1P1D")
    with pytest.raises(InputError, match="--ep 8 with 1P1D is not modelled; leave one of the two"):
        require_modelled(asked.flavour(), asked.cluster, None, asked.system)


def test_numbers_of_replicas_that_leave_some_over_are_told_once() -> None:
    asked = replace(JOINED, engine="vllm")
    found = find_candidates(asked, [H200], [1, 2, 8], range(1, 9))
    assert [(each.tp, each.dp) for each in found.settings] == [
        (1, 8), (2, 4), (2, 8), *((8, dp) for dp in range(1, 9))
    ]  # fmt: skip
    assert found.left_out == [
        "h200 tp 1 is left out with --dp 1, 2, 3, 4, 5, 6, 7: --ep 8 is of 8 replicas together",
        "h200 tp 2 is left out with --dp 1, 2, 3, 5, 6, 7: --ep 8 is of 4 replicas together",
    ]


# Words


def test_servers_are_told_that_replicas_share_experts() -> None:
    (told,) = flags_assumed(replace(JOINED, engine="vllm"))
    assert "--data-parallel-size 8 --enable-expert-parallel" in told
    assert "--tensor-parallel-size" not in told
    assert "to its own server, --data-parallel-rank 0 to 7 of 8 that share experts" in told
    (told,) = flags_assumed(replace(PAIRS, engine="sglang", token_budget=512))
    assert "--tp-size 8 --enable-dp-attention --dp-size 4 --ep-size 8" in told
    assert "--chunked-prefill-size 2048 " in told  # which SGLang divides by the replicas
    assert "X-Data-Parallel-Rank 0 to 3 names" in told


def test_a_page_and_a_label_say_it() -> None:
    assert JOINED.spec.label == "deepseek-v3-fp8-block-ep-8-ranks"
    assert JOINED.in_formats == " in fp8-block, experts whole over 8 GPUs"
    assert JOINED.system.model.expert_ranks == 8


def test_from_plan_to_export(tmp_path: Path) -> None:
    plan, log = tmp_path / "plan.parquet", tmp_path / "log.parquet"
    given = ("--model", "qwen3-235b-a22b", "--quantization", "fp8-block", "--gpu", "h200")
    pool = ("--trace", "demo:mmlu?n=160", "--sample", 1, "--planner", "dfs", "--engine", "vllm")
    told = run_json("plan", *given, *pool, "--dp", 8, "--ep", 8, "-o", plan)
    assert any("replicas that share experts (--ep 8) wait" in note for note in told["notes"])
    again = run_json("simulate", plan, "-o", log)
    assert again["seconds"] == told["seconds"]
    assert again["reachable_seconds"] <= again["seconds"]
    assert "that share experts" in run("export", plan, "-o", tmp_path / "served.csv")
    run("report", log, "-o", tmp_path / "run.html")
    assert "whole on one GPU each, over 8" in (tmp_path / "run.html").read_text()
    why = refusal(invoke("simulate", plan, "--ep", 16))
    assert "--dp 8 is no multiple of that; use --dp 16, or another --ep" in why
    why = refusal(invoke("simulate", plan, "--topology", "1P1D", "--ep", 8))
    assert "--ep 8 with 1P1D is not modelled" in why


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["--no-expert-parallel"], {}),
        (["--expert-parallel"], {"expert_parallel": True}),
        (["--topology", "2P1D"], {"expert_parallel": True, "topology": "2P1D", "dp": 1}),
    ],
)
def test_a_plan_for_ranks_can_be_run_without_them(
    flags: list[str], meant: dict[str, Any], tmp_path: Path
) -> None:
    """As in one replica, or in pools."""
    path = tmp_path / "plan.parquet"
    given = ("--model", "qwen3-30b-a3b", "--tp", 2, "--dp", 2, "--ep", 4, "--gpu", H200)
    pool = ("--trace", "demo:mmlu?n=160", "--sample", 1, "--planner", "dfs", "--engine", "vllm")
    run("plan", *pool, *given, "-o", path)
    joined, found = run_json("simulate", path), run_json("simulate", path, *flags)
    assert any("wait for each other" in note for note in joined["notes"])
    assert not any("wait for each other" in note for note in found["notes"])
    plan = read_plan(path)
    settings = replace(remembered(plan.meta["settings"], "plan"), ep=None, **meant)
    again = search.simulate_plan(load("demo:mmlu?n=160"), plan, settings)
    assert found["seconds"] == again.row.seconds
