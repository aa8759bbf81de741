"""The account of a run against the reachable bound: it adds up, and every cause is one thing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import SMALL, tiny_pool

from blendsim import search
from blendsim.errors import InputError
from blendsim.perf.model import StepModel
from blendsim.report.losses import CAUSES, Losses, Priced, _least_above, losses, price
from blendsim.report.optimum import bounds
from blendsim.request import Workload, from_lengths
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog

BUDGET = 2_048
POOLS = st.integers(1, 12).flatmap(
    lambda n: st.builds(
        tiny_pool,
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=n, max_size=n),
        st.lists(st.integers(0, 400), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
    )
)
MIXED = from_lengths([900, 40] * 150, [20, 400] * 150)


def problem_of(pool: Workload, **options: object) -> search.Problem:
    """The pool on an A100, lengths known if nothing else is said."""
    return search.prepare(pool, search.Settings(**{"sample": 1.0, **options}))


def run(
    problem: search.Problem, policy: str = "blend", engine: Flavour | None = None
) -> tuple[StepLog, Priced]:
    """A run on the true lengths, and the pool's prices."""
    pool, prompts, model = problem.workload, problem.prompts, problem.model
    engine = engine or find_flavour("nanoflow", BUDGET)
    plan = search.plan_policy(problem, policy)
    log = simulate(plan, pool, pool.output_len, prompts, model, engine)
    return log, price(pool, pool.output_len, prompts, model, BUDGET, engine.nano_batches)


def account(problem: search.Problem, policy: str = "blend") -> Losses:
    """The losses of that run."""
    return losses(*run(problem, policy))


def ideal(model: StepModel, *parts: str) -> StepModel:
    """The model with these tables at their best rates whatever the size, and nothing that keeps
    a step from overlapping: neither the memory's bandwidth nor being of one token.
    """
    t = model.tables
    n = np.arange(len(t.layers), dtype=np.float64)
    rows = np.arange(len(t.decode), dtype=np.float64)[:, None]
    reach = np.broadcast_to(0.5 * (t.prefill_lengths + 1.0), t.prefill.shape)
    best = {
        "layers": model.best_layer_seconds_per_token * n,
        "head": model.best_head_seconds_per_token * n,
        "decode": model.best_seconds_per_context_token * rows * t.decode_contexts,
        "prefill": model.best_prefill_seconds_per_pair * reach,
    }
    tables = t._replace(**{part: best[part] for part in parts})
    streams = {"weight_stream_seconds": 0.0, "kv_stream_seconds": 0.0, "token_parts": 2}
    return replace(model, tables=tables, **streams)


def wrong_size(lost: Losses) -> float:
    """Seconds lost to steps of another size than the best, a run's tail among them."""
    return lost.causes["size"] + lost.causes["tail"]


@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@pytest.mark.parametrize("engine", ["nanoflow", "vllm"])
@given(pool=POOLS, sample=st.sampled_from([0.2, 1.0]), policy=st.sampled_from(["dfs", "blend"]))
@settings(max_examples=15, deadline=None)
def test_losses_add_up_to_the_run_above_the_bound(
    engine: str, overlap: str, pool: Workload, sample: float, policy: str
) -> None:
    problem = problem_of(pool, overlap=overlap, sample=sample, kv_bytes=SMALL)
    log, priced = run(problem, policy, find_flavour(engine, BUDGET))
    lost = losses(log, priced)
    assert lost.run == log.end
    assert sum(lost.causes.values()) == pytest.approx(lost.run - lost.bound, abs=1e-9 * lost.run)
    assert lost.steps.shape == (10, len(CAUSES))


@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@pytest.mark.parametrize("pieces", [1, 2])
@given(pool=POOLS, kv_bytes=st.sampled_from([SMALL, 400_000_000]))
@settings(max_examples=15, deadline=None)
def test_no_cause_gains_time_where_nothing_is_computed_twice(
    pieces: int, overlap: str, pool: Workload, kv_bytes: int
) -> None:
    problem = problem_of(pool, overlap=overlap, kv_bytes=kv_bytes)
    log, priced = run(
        problem, "dfs", replace(find_flavour("nanoflow", BUDGET), nano_batches=pieces)
    )
    if not log.count("preempted").any():
        lost = losses(log, priced)
        assert min(lost.causes.values()) >= -1e-9 * lost.run


@given(pool=POOLS, budget=st.sampled_from([16, 300, BUDGET]))
@settings(max_examples=25, deadline=None)
def test_the_bound_is_what_the_work_is_worth_at_its_prices(pool: Workload, budget: int) -> None:
    problem = problem_of(pool, kv_bytes=SMALL)
    asked = (pool, pool.output_len, problem.prompts, problem.model, budget)
    limits = bounds(*asked)
    bound = price(*asked).bound
    assert bound <= limits.reachable * (1 + 2e-6)
    if limits.reachable > limits.longest * (1 + 1e-9):
        assert bound == pytest.approx(limits.reachable, rel=2e-6)


def test_a_run_of_best_rates_one_after_another_loses_nothing() -> None:
    problem = problem_of(MIXED, overlap="sum")
    best = ideal(problem.model, "layers", "head", "decode", "prefill")
    lost = account(problem._replace(model=best))
    assert lost.run == pytest.approx(lost.bound, rel=1e-9)
    assert list(lost.causes.values()) == pytest.approx(
        [0.0] * len(lost.causes), abs=1e-9 * lost.run
    )


@pytest.mark.parametrize(
    ("best", "cause"), [(("decode",), "attention"), (("head", "prefill"), "floors")]
)
def test_a_cause_taken_out_of_the_model_is_no_loss(best: tuple[str, ...], cause: str) -> None:
    problem = problem_of(MIXED)
    assert account(problem).causes[cause] > 1e-3 * account(problem).run
    lost = account(problem._replace(model=ideal(problem.model, *best)))
    assert lost.causes[cause] == pytest.approx(0.0, abs=1e-9 * lost.run)


def test_layers_at_one_rate_leave_no_step_size_to_regret_one_after_another() -> None:
    problem = problem_of(MIXED, overlap="sum")
    assert wrong_size(account(problem)) > 1e-3 * account(problem).run
    lost = account(problem._replace(model=ideal(problem.model, "layers")))
    assert wrong_size(lost) == pytest.approx(0.0, abs=1e-9 * lost.run)


def test_only_an_engine_that_does_not_overlap_loses_to_overlap() -> None:
    problem = problem_of(MIXED)
    beside, after = (
        losses(*run(problem, "dfs", find_flavour(name, BUDGET))) for name in ("nanoflow", "vllm")
    )
    assert beside.causes["overlap"] == pytest.approx(0.0, abs=1e-9 * beside.run)
    assert after.causes["overlap"] > 0.05 * after.run


def test_prompts_and_decodes_apart_are_steps_of_the_wrong_sizes() -> None:
    """Best rates, and memory beside compute for nothing: only the order is left to blame."""
    lost = []
    for apart in (True, False):
        long = np.arange(3_000) >= 1_500 if apart else np.arange(3_000) % 2 == 1
        pool = from_lengths(np.where(long, 40, 900), np.where(long, 1_500, 2))
        problem = problem_of(pool, overlap="max")
        best = ideal(problem.model, "layers", "head", "decode", "prefill")
        lost.append(account(problem._replace(model=best), "fcfs"))
        assert wrong_size(lost[-1]) == pytest.approx(lost[-1].run - lost[-1].bound)
    assert wrong_size(lost[1]) < 0.9 * wrong_size(lost[0])


def test_a_tail_is_charged_what_steps_lose_once_nobody_waits() -> None:
    """Short answers beside one long one: until they are done it is no tail."""
    pool = from_lengths([500] * 40, [30] * 39 + [2_000])
    log, priced = run(problem_of(pool), "fcfs")
    lost, alone = losses(log, priced), log.count("running") == 1
    assert (log.count("waiting")[alone] == 0).all()
    assert lost.causes["tail"] > 0.5 * float(log.time("seconds")[alone].sum())
    late = replace(log, counts=log.counts.copy())
    late.count("waiting")[:] = 1
    waited = losses(late, priced)
    assert waited.causes["tail"] == 0.0
    assert waited.causes["size"] == pytest.approx(lost.causes["size"] + lost.causes["tail"])


def test_a_prompt_is_no_tail_though_nobody_waits() -> None:
    """The only step of the only request is smaller than the best."""
    log, priced = run(problem_of(from_lengths([512], [1])), "fcfs")
    assert log.count("waiting").tolist() == [0]
    assert log.count("prefill_tokens").tolist() == [512]
    lost = losses(log, priced)
    assert lost.causes["tail"] == 0.0
    assert lost.causes["size"] > 0.1 * lost.run


def test_an_engine_that_may_not_fill_its_memory_loses_to_kv() -> None:
    """A GB of KV holds about 25 of these requests, and is what limits the bound."""
    problem = problem_of(from_lengths([200] * 300, [300] * 300), kv_bytes=1_000_000_000)
    full, few = (
        losses(*run(problem, "fcfs", replace(find_flavour("nanoflow", BUDGET), max_running=most)))
        for most in (BUDGET, 8)
    )
    assert few.causes["kv"] > 0.5 * few.run
    assert few.causes["kv"] > 2 * full.causes["kv"]


def test_a_prefix_computed_again_is_worth_its_tokens_and_attention() -> None:
    """Six groups in turn, in memory for about one: a shuffled order finds nothing in the cache."""
    n = 60
    pool = tiny_pool([(400, 4)] * n, [384] * n, [i % 6 for i in range(n)])
    problem = problem_of(pool, kv_bytes=SMALL)
    apart, priced = run(problem, "fcfs")
    together, _ = run(problem, "dfs")
    assert losses(together, priced).again == pytest.approx(0.0, abs=1e-9)
    missed = int(together.count("hit_tokens").sum() - apart.count("hit_tokens").sum())
    pairs = int(apart.count("prefill_pairs").sum() - together.count("prefill_pairs").sum())
    rate = priced.model.best_prefill_seconds_per_pair * priced.prices.beside
    assert missed > 0
    assert losses(apart, priced).again == pytest.approx(
        missed * priced.prices.token + pairs * rate, rel=1e-9
    )


@pytest.fixture(scope="module")
def some() -> Priced:
    """The prices of a request."""
    return run(problem_of(tiny_pool([(30, 3)], [0])))[1]


@given(data=st.data())
def test_the_best_size_is_the_best_of_all_where_cost_is_convex(
    some: Priced, data: st.DataObject
) -> None:
    step = some.model.best_layer_seconds_per_token
    slopes = sorted(data.draw(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=40)))
    layers = np.concatenate(([0.0], 300 * step + np.cumsum(slopes) * step))
    token = data.draw(st.floats(0.0, 4.0)) * step
    priced = some._replace(layers=layers, prices=some.prices._replace(token=token))
    beside, memory = (data.draw(st.floats(0.0, 500 * step)) for _ in range(2))
    best = min(
        max(a * (layers[n] + beside) + b * memory for a, b, _ in priced.model.lines) - token * n
        for n in range(1, len(layers))
    )
    found = _least_above(priced, np.array([beside]), np.array([memory]))
    assert found == pytest.approx([best], abs=1e-9 * 300 * step)


def test_losses_stand_in_the_part_of_the_run_where_they_are_made() -> None:
    """All prompts first: what follows are decodes only, fewer and fewer."""
    log, priced = run(problem_of(from_lengths([50] * 600, list(range(1, 601)))), "fcfs")
    lost = losses(log, priced)
    at_last = log.time("start") >= 0.9 * lost.run
    part = StepLog(log.counts[at_last], log.times[at_last], log.replica[at_last], log.meta)
    assert losses(part, priced).steps.sum() == pytest.approx(lost.steps[-1].sum())


@pytest.mark.parametrize("engine", ["nanoflow", "vllm"])
@given(pool=POOLS, kv_bytes=st.sampled_from([SMALL, 400_000_000]))
@settings(max_examples=15, deadline=None)
def test_layers_with_a_window_have_their_reads_in_the_bound_and_in_every_step(
    engine: str, pool: Workload, kv_bytes: int
) -> None:
    """Contexts end before the window, within it and behind it."""
    problem = problem_of(pool, model="gpt-oss-20b", gpu="h100", kv_bytes=kv_bytes)
    log, priced = run(problem, "dfs", find_flavour(engine, BUDGET))
    lost = losses(log, priced)
    assert sum(lost.causes.values()) == pytest.approx(lost.run - lost.bound, abs=1e-9 * lost.run)
    limits = bounds(pool, pool.output_len, problem.prompts, problem.model, BUDGET)
    assert lost.bound <= limits.reachable * (1 + 2e-6)
    if limits.reachable > limits.longest * (1 + 1e-9):
        assert lost.bound == pytest.approx(limits.reachable, rel=2e-6)
    if not log.count("preempted").any():
        assert min(lost.causes.values()) >= -1e-9 * lost.run
        assert priced.within(log).sum() == pytest.approx(priced.work.window_reads)


def test_reads_of_windows_at_their_best_rate_are_no_loss_to_attention() -> None:
    """Behind the window every decode reads 128 tokens of it, beside its context."""
    problem = problem_of(
        from_lengths([200] * 20, [50] * 20), model="gpt-oss-20b", gpu="h100", overlap="sum"
    )
    model, tables = problem.model, problem.model.tables
    of_one = model.best_seconds_per_context_token * tables.decode_contexts
    of_one += model.best_seconds_per_window_token * np.minimum(tables.decode_contexts, 128)
    decode = np.arange(len(tables.decode))[:, None] * of_one
    best = replace(model, tables=tables._replace(decode=decode))
    log, priced = run(problem._replace(model=best), "fcfs", find_flavour("vllm", BUDGET))
    assert log.time("memory_seconds").sum() > 0.0
    assert losses(log, priced).causes["attention"] == pytest.approx(0.0, abs=1e-9)


def test_prompts_within_a_window_count_in_the_bound_at_their_best_rate() -> None:
    """What they take beyond it is among the floors: a model without them loses as much less."""
    problem = problem_of(MIXED, model="gpt-oss-20b", gpu="h100", overlap="sum")
    log, priced = run(problem, engine=find_flavour("vllm", BUDGET))
    lost = losses(log, priced)
    table, tokens = problem.model.tables.windows, log.count("prefill_tokens")
    in_chunks = table[tokens].sum()
    at_best = tokens.sum() * problem.model.best_seconds_per_prompt_token
    assert 0.005 * lost.run < at_best < in_chunks < 0.05 * lost.run
    tables = problem.model.tables._replace(windows=np.zeros(0))
    none = replace(problem.model, tables=tables, best_seconds_per_prompt_token=0.0)
    less = losses(*run(problem._replace(model=none), engine=find_flavour("vllm", BUDGET)))
    assert lost.run - less.run == pytest.approx(in_chunks)
    assert lost.bound - less.bound == pytest.approx(at_best, rel=1e-3)
    more = lost.causes["floors"] - less.causes["floors"]
    assert more == pytest.approx(in_chunks - at_best, rel=1e-3)


def test_other_kinds_of_runs_are_refused() -> None:
    log, priced = run(problem_of(MIXED))
    two = replace(log, replica=np.arange(len(log), dtype=np.int32) % 2)
    with pytest.raises(InputError, match="several replicas"):
        losses(two, priced)
    shared = replace(log, counts=log.counts + 1)
    with pytest.raises(InputError, match="cascade attention"):
        losses(shared, priced)
    with pytest.raises(InputError, match="at most 15"):
        losses(log, priced._replace(layers=priced.layers[:16]))
    pair = problem_of(MIXED, tp=2)
    with pytest.raises(InputError, match="replicas of one GPU, and this one has 2"):
        price(MIXED, MIXED.output_len, pair.prompts, pair.model, BUDGET)


def test_a_cause_below_zero_is_told_unless_it_is_rounding() -> None:
    """As of a run that computes again what the least work does not."""
    steps = np.zeros((1, len(CAUSES)))
    steps[0, :3] = 1.5, -0.5, -1e-13
    causes = Losses(5.0, 4.0, steps, 0.0).causes
    assert list(causes.values()) == [1.5, -0.5, *[0.0] * (len(CAUSES) - 1)]
