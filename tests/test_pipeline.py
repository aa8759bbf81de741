"""Pipelines: how stages follow each other in time, what fits in them, and what no run beats."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import tiny_pool

from blendsim import search
from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError, Unfit
from blendsim.perf.model import step_model
from blendsim.perf.step import step_seconds
from blendsim.plan import Plan
from blendsim.prefix import sort_prompts
from blendsim.report.optimum import bounds
from blendsim.request import Workload, from_lengths
from blendsim.search import Settings
from blendsim.search.budgets import BUDGETS, WORTH
from blendsim.search.served import serve
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.sim.pipeline import SENT, leaves_at, new_stages
from blendsim.sim.run import simulate
from blendsim.sim.timing import time_plan
from blendsim.specs import GPUS, MODELS
from blendsim.steplog import COUNTS, StepLog
from blendsim.system import System

LLAMA = MODELS["llama-3.1-8b"]
LARGE = MODELS["llama-3.1-70b"]
PLENTY = 20_000_000_000  # bytes of KV


def pool_of(rng: np.random.Generator, n: int, longest_output: int) -> Workload:
    lengths = [(int(rng.integers(1, 900)), int(rng.integers(1, longest_output))) for _ in range(n)]
    return tiny_pool(lengths, [16 * int(rng.integers(0, 20)) for _ in range(n)])


def ran(
    pool: Workload, stages: int, kv_bytes: int = PLENTY, **rules: Any
) -> tuple[StepLog, Plan, Settings]:
    asked = Settings(gpu="h100", engine="vllm", pp=stages, kv_bytes=kv_bytes, sample=1.0, **rules)
    problem = search.prepare(pool, asked)
    plan = search.plan_policy(problem, "dfs")
    lengths, prompts = pool.output_len, problem.prompts
    return simulate(plan, pool, lengths, prompts, problem.model, asked.flavour()), plan, asked


def entered_and_left(stages: Any, steps: list[tuple[int, float, float, int]]) -> list[list[float]]:
    """When each step leaves each stage, in another way: (microbatch, layers, head, tokens) steps as
    a table filled stage by stage, row by row.
    """
    left: list[list[float]] = []
    for number, (microbatch, layers, head, tokens) in enumerate(steps):
        before = [row for row, step in zip(left, steps, strict=False) if step[0] == microbatch]
        arrives = before[-1][-1] if before else 0.0
        row: list[float] = []
        for stage, share in enumerate(stages.share.tolist()):
            free = left[number - 1][stage] if number else 0.0
            takes = share * layers + (head if stage == len(stages.share) - 1 else 0.0)
            row.append(max(arrives, free) + takes)
            arrives = row[-1] + tokens * stages.send[0] + stages.send[1]
        left.append(row)
    return left


def test_layers_are_spread_as_vllm_spreads_them() -> None:
    """What is left over goes to the last stages but one, which have no LM head."""

    def layers(number: int, stages: int) -> tuple[int, ...]:
        model = replace(LLAMA, layers=number)
        return System(model, GPUS["h200"], pp=stages).stage_layers

    assert layers(32, 4) == (8, 8, 8, 8)
    assert layers(22, 4) == (5, 6, 6, 5)
    assert layers(61, 4) == (15, 15, 16, 15)
    assert layers(3, 2) == (2, 1)
    assert layers(7, 4) == (2, 2, 2, 1)


def test_kv_is_what_the_fullest_stage_leaves_to_all() -> None:
    system = System(LARGE, GPUS["h100"], tp=2, pp=2)
    embedding = 2 * 128_256 * 8_192
    layers = (LARGE.weight_bytes - 2 * embedding) // 2
    free = int(0.90 * 2 * GPUS["h100"].memory_bytes) - 2 * (2 << 30)
    assert system.stage_weight_bytes == pytest.approx((layers + embedding,) * 2, rel=1e-9)
    assert system.kv_capacity_bytes == pytest.approx(2 * (free - layers - embedding), rel=1e-9)
    assert system.weight_bytes == pytest.approx(LARGE.weight_bytes, rel=1e-9)
    assert system.gpus == 4
    # A stage with one layer more has less room, and needs more of it.
    odd = System(replace(LARGE, layers=81), GPUS["h100"], tp=2, pp=2)
    assert odd.stage_layers == (41, 40)
    room = [free - held for held in odd.stage_weight_bytes]
    assert odd.kv_capacity_bytes == room[0] * 81 // 41 < room[1] * 81 // 40


def test_a_tied_embedding_lies_on_the_first_and_on_the_last_stage() -> None:
    model = MODELS["llama-3.2-3b"]
    embedding = 2 * model.vocab * model.hidden
    one, two = System(model, GPUS["h100"]), System(model, GPUS["h100"], pp=2)
    assert two.weight_bytes == one.weight_bytes + embedding


def test_towers_lie_on_the_first_stage_alone() -> None:
    """Layers are halved, embedding and LM head of one size; only the towers are on one of two."""
    model = MODELS["mistral-small-3.1-24b"]
    system = System(model, GPUS["h100"], pp=2)
    first, last = system.stage_weight_bytes
    assert model.tower_parameters > 0
    assert first - last == 2 * model.tower_parameters
    assert system.weight_bytes == pytest.approx(System(model, GPUS["h100"]).weight_bytes, rel=1e-9)


def test_gpus_of_a_stage_send_a_share_each() -> None:
    """Two values of two bytes each a hidden dimension and token, half of them over each link."""
    stages = new_stages(System(LLAMA, GPUS["h100"], tp=2, pp=2))
    link = GPUS["h100"].link
    sent = 1_000 * 4_096 * 4 / 2 / link.bandwidth + link.latency
    assert leaves_at(stages, 0, 1.0, 0.0, 1_000) == pytest.approx(1.0 + sent, rel=1e-12)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(0, 3)), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_steps_follow_each_other_through_the_stages(
    number: int, drawn: list[tuple[int, int, int]]
) -> None:
    system = System(replace(LLAMA, layers=7), GPUS["h100"], pp=number)
    stages = new_stages(system)
    steps = [(batch % number, 1e-3 * layers, 1e-3 * head, 100) for batch, layers, head in drawn]
    found = [leaves_at(stages, *step) for step in steps]
    assert found == pytest.approx([row[-1] for row in entered_and_left(stages, steps)], rel=1e-12)


def test_a_full_pipeline_gives_a_step_every_stage_time() -> None:
    """Equal steps of four micro-batches: the first takes all stages, every further one a stage."""
    stages = new_stages(System(LLAMA, GPUS["h100"], pp=4))
    stages.send[:] = 0.0
    left = [leaves_at(stages, step % 4, 1.0, 0.0, 64) for step in range(40)]
    assert left == pytest.approx([1.0 + 0.25 * step for step in range(40)])


def test_one_micro_batch_alone_waits_for_its_tokens() -> None:
    stages = new_stages(System(LLAMA, GPUS["h100"], pp=4))
    link = GPUS["h100"].link
    sent = 64 * SENT * LLAMA.hidden / link.bandwidth + link.latency
    left = [leaves_at(stages, 0, 1.0, 0.5, 64) for _ in range(3)]
    assert left == pytest.approx([step * (1.5 + 3 * sent) for step in (1, 2, 3)])


def test_a_run_takes_what_its_steps_take_in_the_stages() -> None:
    """The log's times, reckoned anew from who decodes in which micro-batch."""
    pool = pool_of(np.random.default_rng(3), 60, 40)
    log, plan, asked = ran(pool, 3, token_budget=512)
    system, flavour = asked.system, asked.flavour()
    model = step_model(system)
    core = ServingCore.from_plan(plan, pool, pool.output_len, sort_prompts(pool), system, flavour)
    costs = flavour.costs(model)
    steps: list[tuple[int, float, float, int]] = []
    kinds: list[tuple[float, float, float]] = []  # of work, of a GPU in the mean
    turn = 0
    while not core.is_done:
        if core.step().tokens:
            counts: Ints = core.state.counts.copy()
            head = float(costs.tables.head[counts[COUNTS.index("sampled_tokens")]])
            took = step_seconds(costs, counts)
            tokens = int(counts[0] + counts[3])
            steps.append((turn % 3, took.seconds - head, head, tokens))
            kinds.append((took.compute / 3, took.memory / 3, took.network / 3))
        core.commit()
        turn += 1
    left = [row[-1] for row in entered_and_left(new_stages(system), steps)]
    ends: Floats = log.time("start") + log.time("seconds")
    assert len(log) == len(steps)
    assert ends == pytest.approx(left, rel=1e-9)
    assert log.time("start")[1:] == pytest.approx(ends[:-1], rel=1e-12)
    assert log.end == pytest.approx(left[-1])
    for name, found in zip(("compute", "memory", "network"), zip(*kinds, strict=True), strict=True):
        assert log.time(f"{name}_seconds") == pytest.approx(found, rel=1e-9), name


def test_many_micro_batches_compute_what_one_does() -> None:
    """Tokens, answers and what is shared are the same however many stages there are."""
    pool = pool_of(np.random.default_rng(5), 200, 60)
    one, *more = [ran(pool, stages)[0] for stages in (1, 2, 4)]
    for log in more:
        assert len(log) > len(one)
        for column in ("prefill_tokens", "sampled_tokens", "hit_tokens", "finished"):
            assert log.count(column).sum() == one.count(column).sum(), column
        assert log.count("context_tokens").sum() == one.count("context_tokens").sum()


def test_what_is_thrown_out_is_computed_again_and_all_end() -> None:
    """With little memory requests are thrown out while steps of theirs are on their way, at times
    by a micro-batch that has nothing to compute then.
    """
    rng = np.random.default_rng(0)
    pool = from_lengths(rng.integers(1, 200, 60), rng.integers(1, 300, 60))
    log, plan, asked = ran(pool, 4, kv_bytes=32 * 16 * LLAMA.kv_bytes_per_token, token_budget=32)
    core = ServingCore.from_plan(
        plan, pool, pool.output_len, sort_prompts(pool), asked.system, asked.flavour()
    )
    out, lost, out_for_nothing = 0, 0, 0
    while not core.is_done:
        is_empty = core.step().tokens == 0
        core.commit()
        core.check()
        out += core.counts()["preempted"]
        lost += core.counts()["preempted_tokens"]
        out_for_nothing += core.counts()["preempted"] * is_empty
    assert out_for_nothing > 5
    assert out == int(log.count("preempted").sum()) > 20
    assert lost == int(log.count("preempted_tokens").sum()) > 0
    assert int(log.count("finished").sum()) == len(pool)
    assert int(log.count("sampled_tokens").sum()) == int(pool.output_len.sum())


@pytest.mark.parametrize("engine", ["vllm", "vllm-planned", "sequential"])
@given(st.integers(0, 1 << 16), st.integers(2, 5), st.sampled_from([64, 512, 8_192]))
@settings(max_examples=12, deadline=None)
def test_no_pipeline_beats_the_bounds(engine: str, drawn: int, stages: int, budget: int) -> None:
    rng = np.random.default_rng(drawn)
    pool = pool_of(rng, int(rng.integers(1, 60)), int(rng.choice([2, 30, 300])))
    asked = Settings(
        gpu="h100", engine=engine, pp=stages, token_budget=budget, kv_bytes=400_000_000, sample=1.0
    )
    problem = search.prepare(pool, asked)
    limits = bounds(pool, pool.output_len, problem.prompts, problem.model, budget)
    for policy in ("dfs", "blend") if engine == "vllm-planned" else ("dfs", "dfs-longest"):
        plan = search.plan_policy(problem, policy)
        flavour = asked.flavour(token_budget=budget)
        log = simulate(plan, pool, pool.output_len, problem.prompts, problem.model, flavour)
        assert limits.optimum <= limits.reachable <= log.end


def test_the_work_of_a_pipeline_is_that_of_as_many_gpus() -> None:
    pool = pool_of(np.random.default_rng(1), 300, 200)
    prompts, flavour = sort_prompts(pool), find_flavour("vllm")
    one, four = [
        bounds(
            pool,
            pool.output_len,
            prompts,
            step_model(System(LLAMA, GPUS["h100"], kv_bytes=PLENTY, pp=stages)),
            flavour.token_budget,
        )
        for stages in (1, 4)
    ]
    assert four.compute == pytest.approx(one.compute / 4)
    assert four.memory == pytest.approx(one.memory / 4)
    assert four.longest > one.longest / 4  # whose decodes go through all stages, one after another


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({"engine": "nanoflow"}, "one operator after another"),
        ({"engine": "sglang"}, "one operator after another"),
        ({"topology": "1P1D"}, "1P1D is not modelled"),
        ({"steals": True, "dp": 2}, "stealing between ranks is not modelled"),
        ({"host_memory_bytes": 10**10}, "host memory is not modelled"),
        ({"cascade": True}, "cascade attention is not modelled"),
        ({"knobs": {"watermark": 0.1}}, "knobs of vLLM is not modelled"),
        ({"engine": "sequential", "eviction": "plan"}, "eviction by plan is not modelled"),
    ],
)
def test_what_has_no_pipeline_is_refused(rules: dict[str, Any], what: str) -> None:
    from blendsim.settings import remembered

    asked = remembered({"gpu": "h100", "engine": "vllm", "pp": 2} | rules, "the test")
    pool = from_lengths([100, 50], [20, 10])
    with pytest.raises(InputError, match=what):
        search.choose(pool, asked)


def test_models_whose_stages_would_differ_are_refused() -> None:
    for name, what in (("gpt-oss-20b", "several kinds"), ("deepseek-v3", "without experts")):
        with pytest.raises(InputError, match=what):
            System(MODELS[name], GPUS["b200"], tp=8, pp=2)
    with pytest.raises(InputError, match="1 to 32, the layers"):
        System(LLAMA, GPUS["h100"], pp=33)
    with pytest.raises(InputError, match="at least 1"):
        Settings(pp=0)
    with pytest.raises(Unfit, match="on 2 × l40s"):
        System(LARGE, GPUS["l40s"], pp=2)


def test_what_enters_when_is_told_of_a_pipeline() -> None:
    """Of the run that the log is of, request by request."""
    pool = pool_of(np.random.default_rng(9), 80, 50)
    log, plan, asked = ran(pool, 3)
    served = serve(pool, plan, asked).served
    assert float(served.ended.max()) == pytest.approx(log.end)
    assert bool((served.entered < served.first_token).all())
    ends = log.time("start") + log.time("seconds")
    assert set(served.ended.tolist()) <= set(ends.tolist())
    # A decode takes all stages, so that tokens of one request are a round apart.
    rounds = (served.ended - served.first_token)[pool.output_len > 1]
    steps = pool.output_len[pool.output_len > 1] - 1
    model = step_model(asked.system)
    assert bool((rounds / steps > 0.9 * float(model.layer_seconds[1:].min())).all())


def test_who_enters_does_so_when_its_step_is_sent_on_its_way() -> None:
    """Once the step as many before it as there are stages is back, not when the row begins."""
    pool = tiny_pool([(100, 1)] * 40, [0] * 40)
    log, plan, asked = ran(pool, 3, token_budget=200, max_running=200)
    served = serve(pool, plan, asked).served
    ends = log.time("start") + log.time("seconds")
    assert len(log) == 20
    sent = np.concatenate(([0.0] * 3, ends[:-3]))
    assert sorted(served.entered.tolist()) == pytest.approx(np.repeat(sent, 2).tolist())
    assert sorted(served.ended.tolist()) == pytest.approx(np.repeat(ends, 2).tolist())


def test_no_more_kv_is_asked_for_than_the_fullest_stage_has_room_for() -> None:
    """Though other stages have more."""
    asked = Settings(model="llama-3.1-70b", gpu="h100", tp=2, pp=3, engine="vllm")
    system = asked.system
    assert system.stage_layers == (27, 27, 26)
    most = (2 * system.gpu.memory_bytes - system.stage_weight_bytes[0]) * 80 // 27
    assert most < system.gpus * system.gpu.memory_bytes - system.weight_bytes
    assert replace(asked, kv_bytes=most).system.kv_capacity_bytes == most
    with pytest.raises(InputError, match=f"more than the {most} bytes that weights of"):
        _ = replace(asked, kv_bytes=most + 1).system


def test_no_step_is_paced_whether_a_log_is_kept_or_not() -> None:
    """A plan of `paced` is served there by dual scan, and told when by the same run."""
    pool = pool_of(np.random.default_rng(2), 200, 300)
    asked = Settings(
        gpu="h100", engine="vllm-planned", pp=2, kv_bytes=1_000_000_000, sample=1.0, seed=1
    )
    problem = search.prepare(pool, asked)
    plan = search.plan_policy(problem, "paced")
    assert plan.pacing is not None
    of_run = (pool, pool.output_len, problem.prompts, problem.model, asked.flavour())
    log = simulate(plan, *of_run)
    assert time_plan(plan, *of_run).seconds == log.end
    assert simulate(replace(plan, pacing=None), *of_run).end == log.end
    assert float(serve(pool, plan, asked).served.ended.max()) == log.end


def test_all_policies_are_tried_at_other_token_budgets() -> None:
    """Who is far behind at the engine's own budget may be ahead at another."""
    rng = np.random.default_rng(14)
    lengths = [(int(rng.integers(20, 8_000)), int(rng.integers(1, 1_500))) for _ in range(400)]
    shared = [16 * int(rng.integers(0, 500)) for _ in lengths]
    pool = tiny_pool(lengths, shared, [int(rng.integers(0, 20)) for _ in lengths])
    asked = Settings(gpu="h100", engine="vllm", pp=4, kv_bytes=PLENTY, sample=1.0)
    problem = search.prepare(pool, asked)
    chosen = search.choose_for(problem).chosen
    for policy in asked.policies:
        plan = search.plan_policy(problem, policy)
        for budget in BUDGETS:
            engine = find_engine(problem, "vllm", budget)
            seconds = seconds_in(problem, plan, engine, problem.true_lengths)
            assert chosen.reported_seconds <= seconds / (1 - WORTH)
