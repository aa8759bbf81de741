"""The practical optimum and the reachable bound: nothing that is simulated may beat them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendsim import search
from blendsim.perf.model import step_model
from blendsim.prefix import sort_prompts
from blendsim.report.optimum import bounds, least_work, step_sizes
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate
from blendsim.specs import GPUS, MODELS
from blendsim.system import System

SMALL = 120_000_000  # bytes of KV: 57 blocks of 16 tokens of llama-3.1-8b


def tiny_pool(
    lengths: list[tuple[int, int]], shared: list[int], group: list[int] | None = None
) -> Workload:
    """Requests (p, d) of which the first `shared` tokens are those of their group."""
    p = np.array([a for a, _ in lengths])
    listed = np.minimum(shared, p)
    groups = [0] * len(p) if group is None else group
    units = np.concatenate(
        [1_000 * g + np.arange(k) for g, k in zip(groups, listed, strict=True)]
    ).astype(np.int32)
    prompts = Prompts(
        np.concatenate(([0], np.cumsum(listed))).astype(np.int64),
        units,
        np.zeros(len(p), np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(p, [b for _, b in lengths], prompts=prompts)


def test_least_work_counts_every_distinct_block_once() -> None:
    pool = tiny_pool([(40, 3), (40, 3), (20, 1)], [32, 32, 16])
    work = least_work(pool, pool.output_len, sort_prompts(pool), 16)
    assert work.shareable == 32 + 16
    assert work.tokens == 100 - 48 + 2 + 2
    assert work.sampled == 7
    assert work.reads == 2 * (2 * 40 + 3)
    assert work.shared_reads == 2 * 2 * 32
    assert work.pairs == 2 * 820 + 210 - 32 * 33 // 2 - 16 * 17 // 2


def test_a_request_ending_on_a_block_boundary_still_computes_its_last_block() -> None:
    pool = tiny_pool([(32, 1), (32, 1)], [32, 32])
    assert least_work(pool, pool.output_len, sort_prompts(pool), 16).shareable == 16


#: Engines by what they run beside what, and in how many pieces.
ENGINES = {
    "nanoflow": find_flavour("nanoflow"),
    "two nano-batches": replace(find_flavour("nanoflow"), nano_batches=2),
    "three nano-batches": replace(find_flavour("nanoflow"), nano_batches=3),
    "network within compute": replace(find_flavour("nanoflow"), overlaps_network=False),
    "vllm": find_flavour("vllm"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_no_schedule_on_several_gpus_beats_the_bounds(
    data: st.DataObject, overlap: str, engine: str
) -> None:
    n = data.draw(st.integers(1, 10))
    lengths = data.draw(
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=n, max_size=n)
    )
    pool = tiny_pool(lengths, data.draw(st.lists(st.integers(0, 400), min_size=n, max_size=n)))
    name, gpu, tp, weights, kv = data.draw(
        st.sampled_from(
            [
                ("llama-3.1-8b", "a100-80g", 8, "none", "auto"),
                ("qwen-2.5-7b", "l40s", 2, "fp8", "fp8"),
                ("llama-2-7b", "b200", 4, "none", "fp8"),
                ("mixtral-8x7b", "a100-80g", 4, "none", "bf16"),
                ("qwen3-30b-a3b", "h200", 1, "fp8-block", "fp8"),
                ("gpt-oss-20b", "h200", 1, "auto", "auto"),
                ("gpt-oss-20b", "l40s", 2, "auto", "fp8"),
                ("deepseek-v3", "h200", 8, "auto", "auto"),
                ("deepseek-v3", "b200", 4, "auto", "fp8"),
            ]
        )
    )
    budget = data.draw(st.sampled_from([64, 300]))
    # Of windows and of latent attention it is not modelled.
    cascade = data.draw(st.booleans()) and not name.startswith(("gpt-oss", "deepseek"))
    flavour = replace(ENGINES[engine], token_budget=budget, max_running=budget, cascade=cascade)
    problem = search.prepare(
        pool,
        search.Settings(
            model=name,
            gpu=gpu,
            tp=tp,
            quantization=weights,
            kv_cache_dtype=kv,
            overlap=overlap,
            sample=1.0,
            kv_bytes=1_700_000_000 if name == "deepseek-v3" else 400_000_000,
        ),
    )
    limits = bounds(
        pool,
        pool.output_len,
        problem.prompts,
        problem.model,
        budget,
        nano_batches=flavour.nano_batches,
        cascade=cascade,
    )
    assert limits.network <= limits.optimum <= limits.reachable
    assert (limits.network > 0) == (tp > 1)
    for policy in ("dfs", "blend"):
        plan = search.plan_policy(problem, policy)
        log = simulate(plan, pool, pool.output_len, problem.prompts, problem.model, flavour)
        assert log.end >= limits.reachable * (1 - 1e-9)


def test_network_counts_in_the_optimum_of_several_gpus() -> None:
    pool = from_lengths([900] * 50, [100] * 50)
    eight = System(MODELS["llama-3.1-70b"], GPUS["a100-80g"], 8)
    model = step_model(eight, "max")
    limits = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048)
    tokens = 50 * (900 + 99)
    assert limits.network == pytest.approx(tokens * model.best_network_seconds_per_token)
    assert limits.optimum == max(limits.compute, limits.memory, limits.network)
    added = bounds(pool, pool.output_len, sort_prompts(pool), step_model(eight, "sum"), 2_048)
    assert added.optimum == pytest.approx(limits.compute + limits.memory + limits.network)


def test_a_step_in_pieces_may_be_cheaper_and_so_is_its_bound() -> None:
    pool = from_lengths([2_000] * 300, [1] * 300)
    prompts = sort_prompts(pool)
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["h200"]), "table")
    whole, cut = (
        bounds(pool, pool.output_len, prompts, model, 2_048, nano_batches=k) for k in (1, 2)
    )
    assert cut.optimum == whole.optimum
    assert cut.reachable <= whole.reachable


@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@pytest.mark.parametrize("engine", ["nanoflow", "vllm"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_no_schedule_beats_the_bounds(data: st.DataObject, overlap: str, engine: str) -> None:
    n = data.draw(st.integers(1, 12))
    lengths = data.draw(
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=n, max_size=n)
    )
    shared = data.draw(st.lists(st.integers(0, 400), min_size=n, max_size=n))
    group = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    options = search.Settings(
        engine=engine,
        overlap=overlap,
        sample=data.draw(st.sampled_from([0.2, 1.0])),
        kv_bytes=SMALL,
        token_budget=data.draw(st.sampled_from([16, 64, 2_048])),
        cascade=data.draw(st.booleans()),
    )
    choice = search.choose(tiny_pool(lengths, shared, group), options)
    for row in choice.rows:  # summarise() asserts the same with the unrounded figures
        assert 0 < row.share_of_optimum <= 1 + 1e-9
        assert row.share_of_optimum <= row.share_of_reachable * (1 + 1e-9)
        assert row.sharing_ratio <= row.sharing_optimum + 1e-12


def test_steps_at_the_bounds_best_rates_reach_the_practical_optimum() -> None:
    """A pool of one full step of prefill at the best batch size is close to its bound: it is not
    idle.
    """
    system = System(MODELS["llama-3.1-8b"], GPUS["a100-80g"])
    model = step_model(system, "table")
    sizes = np.arange(1, len(model.layer_seconds))
    best = int(sizes[np.argmin(model.layer_seconds[1:] / sizes)])
    pool = from_lengths([best], [1])
    options = search.Settings(planner="fcfs", sample=1.0, token_budget=max(best, 2_048))
    row = search.choose(pool, options).chosen
    assert row.share_of_optimum > 0.9


def test_reachable_bound_grows_when_kv_capacity_shrinks() -> None:
    pool = from_lengths([200] * 400, [300] * 400)
    prompts = sort_prompts(pool)
    whole = System(MODELS["llama-3.1-8b"], GPUS["a100-80g"])
    small = replace(whole, kv_bytes=1_000_000_000)
    loose = bounds(pool, pool.output_len, prompts, step_model(whole, "table"), 2_048)
    tight = bounds(pool, pool.output_len, prompts, step_model(small, "table"), 2_048)
    assert tight.optimum == loose.optimum
    assert tight.reachable > 1.05 * loose.reachable


@pytest.mark.parametrize("seed", [4, 7, 10])
def test_a_cache_of_two_blocks_still_has_a_bound(seed: int) -> None:
    """Reading it takes 10⁻⁹ of a step's time: the program may not lose that to rounding."""
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 30, 9)
    pool = from_lengths(p, rng.integers(1, 32 - p + 1))
    system = System(MODELS["qwen3-8b"], GPUS["l40s"], kv_bytes=2 * 16 * 147_456)
    model = step_model(system, "sum")
    limits = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048)
    d = pool.output_len
    full_reads = int(((d - 1) * p + d * (d - 1) // 2).sum()) / 32
    assert limits.reachable > full_reads * float(model.layer_seconds[1:].min())


def test_longest_request_bounds_a_pool_with_one_giant() -> None:
    pool = from_lengths([100] * 5 + [100], [10] * 5 + [20_000])
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"]), "table")
    limits = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048)
    assert limits.longest > limits.optimum
    assert limits.reachable >= limits.longest


def test_replicas_divide_the_work_but_not_the_longest_request() -> None:
    pool = from_lengths([100] * 500 + [100], [50] * 500 + [5_000])
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"]), "table")
    one = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048, replicas=1)
    four = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048, replicas=4)
    assert four.optimum == pytest.approx(one.optimum / 4)
    assert four.longest == one.longest
    many = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048, replicas=40)
    assert many.reachable == many.longest > one.reachable / 40
    assert one.over(40).reachable == many.reachable
    assert one.over(4).reachable == pytest.approx(four.reachable, rel=1e-5)


@pytest.mark.parametrize("overlap", ["sum", "max"])
@pytest.mark.parametrize("tp", [1, 8])
def test_longest_path_is_its_unshared_prompt_and_a_step_with_its_reads_a_token(
    tp: int, overlap: str
) -> None:
    """Two of 100 + 5,000 tokens share 90: of five full blocks of them, 20 tokens are left."""
    pool = tiny_pool([(100, 5_000), (100, 3), (60, 3)], [90, 90, 0])
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"], tp), overlap)
    found = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048).longest
    layers = 20 * model.best_layer_seconds_per_token
    layers += 4_999 * (model.layer_seconds[1:].min() + model.best_head_seconds_per_token)
    reads = sum(100 + k for k in range(1, 5_000)) * model.best_seconds_per_context_token
    network = 20 * model.best_network_seconds_per_token
    network += 4_999 * model.network_seconds[1:].min()
    together = max if overlap == "max" else lambda *parts: sum(parts)
    assert found == pytest.approx(together(layers, reads, network))


@pytest.mark.parametrize("tp", [1, 2])
def test_a_size_whose_compute_a_larger_one_undercuts_is_left_out_on_one_gpu_alone(tp: int) -> None:
    """On several its all-reduces are shorter than those of the larger one."""
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"], tp))
    layers = np.arange(len(model.tables.layers), dtype=np.float64)
    layers[3] = 4.5  # more than size 4 takes
    found = step_sizes(replace(model, tables=model.tables._replace(layers=layers)), 6, 1)
    assert found.tokens.tolist() == ([1, 2, 4, 5, 6] if tp == 1 else [1, 2, 3, 4, 5, 6])
    assert found.compute.tolist() == [layers[n] for n in found.tokens]
    assert found.network.tolist() == [model.tables.network[n] for n in found.tokens]


def test_a_longest_request_that_is_shared_to_its_end_computes_its_last_block() -> None:
    pool = tiny_pool([(32, 400), (32, 3)], [32, 32])
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"]), "sum")
    found = bounds(pool, pool.output_len, sort_prompts(pool), model, 2_048).longest
    layers = 16 * model.best_layer_seconds_per_token
    layers += 399 * (model.layer_seconds[1:].min() + model.best_head_seconds_per_token)
    reads = sum(32 + k for k in range(1, 400)) * model.best_seconds_per_context_token
    assert found == pytest.approx(layers + reads, rel=1e-9)
