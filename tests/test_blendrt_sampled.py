"""Sampled replay: chosen steps are rebuilt as they stood, and the time of all follows from them."""

from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from oracle_serving import World
from serving_worlds import core_of, worlds_without_host

from blendrt.batch import StepInputs
from blendrt.config import TINY
from blendrt.loading import ModelChoice, Runtime, load_decoder
from blendrt.pages import PagedStep, Pager
from blendrt.replay.job import Job
from blendrt.replay.rebuild import Rebuilder
from blendrt.replay.sampled import SampledReplay, profile_price
from blendrt.replay.timing import ExecutorTimer
from blendsim.batch import Batch
from blendsim.errors import InputError
from blendsim.perf.measured import IMPORTED
from blendsim.perf.model import step_model
from blendsim.perf.pricing import price_steps
from blendsim.perf.step import step_costs
from blendsim.plan import Plan
from blendsim.prefix import sort_prompts
from blendsim.report.validate import validate
from blendsim.request import Prompts, from_lengths
from blendsim.serving import ahead
from blendsim.serving.ahead import all_counts, visit
from blendsim.serving.flavour import find_flavour
from blendsim.settings import Settings
from blendsim.steplog import COUNTS, MEASURED_ROWS, StepLog

FLAVOURS: dict[str, dict[str, bool]] = {
    "plain": {"keeps_own": False},
    "vllm": {"keeps_own": True, "oldest_first": True},
}

# ---- the core run ahead


@given(world=worlds_without_host())
@settings(max_examples=40)
def test_counts_ahead_are_those_of_the_core_asked_one_by_one(world: World) -> None:
    one, found = core_of(world), []
    while not one.is_done:
        one.step()
        one.commit()
        found.append(list(one.counts().values()))
    assert all_counts(core_of(world)).tolist() == found


def test_counts_come_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    job = some_plan()
    whole = counts_of(job)
    monkeypatch.setattr(ahead, "_ROWS", 7)
    assert np.array_equal(counts_of(job), whole)
    core = job.core(0)
    seen = [dict(core.counts()) for _ in visit(core, np.array([0, 3, 20, 21]))]
    batch = COUNTS[: len(Batch._fields)]
    assert [[counts[name] for name in batch] for counts in seen] == whole[
        [0, 3, 20, 21], : len(batch)
    ].tolist()


def test_plain_twin_of_the_loop_runs_the_same_steps() -> None:
    job = some_plan()
    rows = np.zeros((40, len(COUNTS)), np.int64)
    core = job.core(0)
    assert ahead.advance.py_func(core.kind, core.state, rows) == 40
    assert np.array_equal(rows, counts_of(job)[:40])


# ---- steps as they stood


def rows_of(step: PagedStep) -> tuple[list[tuple[int, int, int, bool]], list[list[int]]]:
    """Chunks in their order, then decodes by request; and the pages of each."""
    order = [*range(step.chunks), *(step.chunks + np.argsort(step.requests[step.chunks :]))]
    columns = (step.requests, step.computed, step.tokens, step.samples)
    whole = list(zip(*(column.tolist() for column in columns), strict=True))
    pages = [step.indices[step.indptr[i] : step.indptr[i + 1]].tolist() for i in order]
    return [whole[i] for i in order], pages


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(world=worlds_without_host())
@settings(max_examples=60)
def test_rebuilt_step_is_the_runs_own_on_other_pages(flavour: str, world: World) -> None:
    """Same requests, contexts and samples; two blocks are one page there if and only if here."""
    core = core_of(replace(world, **FLAVOURS[flavour]))
    pager = Pager(core)
    rebuilder, rng = Rebuilder(core, pager.pages), np.random.default_rng(0)
    while not core.is_done:
        core.step()
        own, made = pager.follow(), rebuilder.step(rng)
        (own_rows, own_pages), (made_rows, made_pages) = rows_of(own), rows_of(made)
        assert (own.chunks, own_rows) == (made.chunks, made_rows)
        assert [len(row) for row in own_pages] == [len(row) for row in made_pages]
        pairs = set(zip(chain(*own_pages), chain(*made_pages), strict=True))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        assert all(0 <= page < pager.pages for _, page in pairs)
        core.commit()


# ---- a plan of requests that share, chunk and are preempted


@cache
def some_plan(ranks: int = 1) -> Job:
    """120 requests, two of three behind one of four common prompts, in little memory."""
    rng, n = np.random.default_rng(8), 120
    own, group = rng.integers(1, 90, n), rng.integers(0, 6, n)
    heads = [tuple(range(1000 * g, 1000 * g + 50 + 20 * g)) if g < 4 else () for g in range(6)]
    rows = [(*heads[g], *rng.integers(10_000, 90_000, k)) for g, k in zip(group, own, strict=True)]
    prompts = Prompts(
        offsets=np.cumsum([0, *map(len, rows)]),
        units=np.array([unit for row in rows for unit in row], np.int64),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("ids",),
    )
    workload = from_lengths([len(row) for row in rows], rng.integers(1, 60, n), prompts=prompts)
    settings = Settings()
    model = settings.system.model
    system = replace(settings.system, kv_bytes=1500 * model.kv_bytes_per_token)
    plan = Plan(
        policy="drawn",
        admission="in_order",
        order=np.arange(n),
        rank=np.sort(np.arange(n) % ranks).astype(np.int32),
        is_first=np.zeros(n, np.bool_),
        is_visible=np.zeros(n, np.bool_),
        expected_output=np.full(n, 20),
        density=np.ones(n),
        root_density=1.0,
        workload_hash="",
        meta={},
    )
    flavour = replace(find_flavour("vllm"), token_budget=96, max_running=64)
    return Job(plan, workload, workload.output_len, sort_prompts(workload), system, flavour)


def counts_of(job: Job) -> Any:
    return SampledReplay(job, 1_000_000).ranks[0].counts


@cache
def tiny() -> Runtime:
    return Runtime(load_decoder(ModelChoice(TINY, None), 0, torch.device("cpu")))


def known_seconds(counts: Any) -> Any:
    """Seconds of steps by their counts, (…, Batch's fields): a shape, and noise that is no
    function of it.
    """
    tokens = counts[..., 0] + counts[..., 3]
    noise = np.sin(17.0 * counts[..., 4] + 3.0 * counts[..., 2])
    return (0.002 + 3e-5 * tokens + 2e-6 * counts[..., 4]) * (1 + 0.1 * noise)


class KnownTimer:
    """A machine whose seconds are known."""

    def __init__(self, least_halved: int = 1_000) -> None:
        self.seen: list[StepInputs] = []
        self.least_halved = least_halved  # decodes

    @property
    def is_halved(self) -> bool:
        return self.seen[-1].counts.decode_requests >= self.least_halved

    def seconds(self, inputs: StepInputs) -> float:
        self.seen.append(inputs)
        return float(known_seconds(np.array(inputs.counts)))


def full_log(job: Job) -> StepLog:
    """What a full replay on that machine would log."""
    run = SampledReplay(job, 1_000_000)
    run.measure(tiny(), KnownTimer())
    return run.log({})


def test_the_plan_has_what_makes_replays_hard() -> None:
    counts = dict(zip(COUNTS, counts_of(some_plan()).sum(axis=0).tolist(), strict=True))
    assert counts["preempted"] > 0
    assert counts["hit_tokens"] > 0
    assert counts["prefill_requests"] > counts["admitted"], "prompts are cut into chunks"


def test_estimate_lies_within_its_interval_of_the_full_replay() -> None:
    job = some_plan()
    total = float(known_seconds(counts_of(job)).sum())
    price = profile_price(job.system, "auto", IMPORTED, job.flavour)
    held = 0
    for seed in range(20):
        run = SampledReplay(job, 60, seed=seed, price=price)
        run.measure(tiny(), KnownTimer())
        found = run.estimate()
        assert (found["measured"], found["steps"]) == (60, len(counts_of(job)))
        assert found["low"] < found["seconds"] < found["high"]
        assert found["seconds"] == pytest.approx(total, rel=0.1)
        held += found["low"] <= total <= found["high"]
    # Below 16 of 20 lie 0.3 % of a binomial count at 95 %.
    assert held >= 16


def test_rebuilt_batches_have_the_counts_of_their_steps() -> None:
    run, timer = SampledReplay(some_plan(), 30, seed=1), KnownTimer()
    run.measure(tiny(), timer)
    counts = run.ranks[0].counts[run.ranks[0].sample.chosen]
    assert len(timer.seen) == 30
    for inputs, row in zip(timer.seen, counts, strict=True):
        told = dict(zip(COUNTS, row.tolist(), strict=True))
        layout = inputs.layout
        assert layout.tokens == len(inputs.ids) == told["prefill_tokens"] + told["decode_requests"]
        assert len(inputs.sample_rows) == told["sampled_tokens"]
        assert tuple(inputs.counts) == tuple(row[: len(Batch._fields)])
        # A preempted request's last token is a decode that was lost: it is part of a chunk.
        lost = told["decode_requests"] - layout.decodes
        assert 0 <= lost <= len(layout.prefill_lens)
        if lost == 0:
            contexts = layout.decode_pages.lengths(16)
            assert int(contexts.sum()) == told["context_tokens"]
            assert len(layout.prefill_lens) == told["prefill_requests"]


def test_tiny_model_on_the_cpu_takes_time_for_every_chosen_step() -> None:
    run, heard = SampledReplay(some_plan(), 12, seed=2), []
    run.measure(tiny(), told=heard.append)
    log = run.log({"policy": "drawn"})
    assert heard == list(range(1, 13))
    assert int(log.is_timed.sum()) == 12
    assert (log.time("seconds") > 0).all()
    assert log.meta["estimate"]["seconds"] == pytest.approx(log.time("seconds").sum())
    ends = log.time("start") + log.time("seconds")
    assert log.time("start")[1:] == pytest.approx(ends[:-1])


def test_a_small_model_is_timed_on_one_thread_as_in_a_full_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On several busy cores its operators take ten times as long, which no full replay does."""
    seen: list[int] = []
    real = ExecutorTimer.seconds

    def seconds(self: ExecutorTimer, inputs: StepInputs) -> float:
        seen.append(torch.get_num_threads())
        return real(self, inputs)

    monkeypatch.setattr(ExecutorTimer, "seconds", seconds)
    SampledReplay(some_plan(), 10, seed=2).measure(tiny())
    assert seen == [1] * 10


@pytest.mark.parametrize("ranks", [1, 2])
def test_log_names_the_measured_steps_that_were_cut_in_halves(ranks: int) -> None:
    run = SampledReplay(some_plan(ranks), 40, seed=3)
    run.measure(tiny(), KnownTimer(least_halved=8))
    log = run.log({})
    right = log.is_timed & (log.count("decode_requests") >= 8)
    assert 0 < right.sum() < 40
    assert log.is_halved.tolist() == right.tolist()


def test_log_of_a_sample_is_held_against_the_full_one() -> None:
    job = some_plan()
    run = SampledReplay(job, 50, seed=3)
    run.measure(tiny(), KnownTimer())
    result = validate(full_log(job), run.log({}))
    assert result.strata[0].steps == 50
    assert result.strata[0].absolute_p90 == 0.0, "measured steps take the same in both"
    assert result.total.low < result.total.simulated < result.total.high
    assert result.is_whole


def test_as_many_as_there_are_is_a_full_replay() -> None:
    log = full_log(some_plan())
    assert log.is_timed.all()
    estimate = log.meta["estimate"]
    assert estimate["low"] == estimate["seconds"] == estimate["high"]
    assert estimate["degrees"] is None
    assert log.time("seconds") == pytest.approx(known_seconds(log.counts))


def test_every_rank_is_sampled_and_the_last_to_end_counts() -> None:
    job = some_plan(ranks=2)
    run = SampledReplay(job, 40, seed=4)
    run.measure(tiny(), KnownTimer())
    log = run.log({})
    assert set(log.replica[log.is_timed].tolist()) == {0, 1}
    ends = [log.time("seconds")[log.replica == rank].sum() for rank in (0, 1)]
    assert run.estimate()["seconds"] == pytest.approx(max(ends))
    with pytest.raises(InputError, match=r"--sampled 15 of .* give at least 16"):
        SampledReplay(job, 15)


def test_too_few_steps_are_refused_before_any_device_is_asked() -> None:
    with pytest.raises(InputError, match=r"--sampled 3 of .* steps .* give at least 8"):
        SampledReplay(some_plan(), 3)


def test_replay_that_breaks_off_keeps_what_it_measured() -> None:
    class Failing(KnownTimer):
        def seconds(self, inputs: StepInputs) -> float:
            if len(self.seen) == 5:
                raise RuntimeError("the device is gone")
            return super().seconds(inputs)

    run = SampledReplay(some_plan(), 20, seed=5)
    assert len(run.log({})) == 0
    with pytest.raises(RuntimeError, match="the device is gone"):
        run.measure(tiny(), Failing())
    log = run.log({})
    rows = run.ranks[0].sample.chosen[:5]
    assert log.meta[MEASURED_ROWS] == rows.tolist()
    assert "estimate" not in log.meta
    assert not log.meta["complete"]
    assert log.time("seconds")[rows] == pytest.approx(known_seconds(log.counts[rows]))
    assert (log.time("seconds") > 0).all()
    assert not validate(full_log(some_plan()), log).is_whole


def test_strata_hold_all_steps_and_all_measurements() -> None:
    run = SampledReplay(some_plan(), 60, seed=6)
    run.measure(tiny(), KnownTimer())
    rows = run.strata()
    assert sum(row["steps"] for row in rows) == len(run.ranks[0].counts)
    assert sum(row["measured"] for row in rows) == 60
    assert sum(row["seconds"] for row in rows) == pytest.approx(run.estimate()["seconds"])
    assert all(row["tokens_low"] <= row["tokens_high"] for row in rows)
    assert len(rows) == 10
    assert run.log({}).meta["strata"] == rows


def test_system_without_a_profile_is_sampled_without_prices() -> None:
    job = some_plan()
    gpu = replace(job.system.gpu, name="unheard-of")
    price = profile_price(replace(job.system, gpu=gpu), "table", IMPORTED, job.flavour)
    assert price(counts_of(job)) is None


@pytest.mark.parametrize("name", ["vllm", "nanoflow"])
def test_steps_cost_what_the_step_model_says_of_each(name: str) -> None:
    job, flavour = some_plan(), find_flavour(name)
    counts = counts_of(job)[::20]
    prices = profile_price(job.system, "table", IMPORTED, flavour)(counts)
    model = step_model(job.system, "table")
    told = [model.seconds(Batch(*row[: len(Batch._fields)].tolist())) for row in counts]
    assert prices is not None
    assert prices.tolist() == [t[2] if flavour.overlaps else t[0] + t[1] for t in told]
    costs = step_costs(model, flavour.overlaps, flavour.overlaps_network)
    assert np.array_equal(price_steps.py_func(costs, counts), prices)
