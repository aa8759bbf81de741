"""What work of another kind takes beside a pool and alone: steps, as many as KV memory makes."""

import numpy as np
import pytest
from test_search_thinning import varied

from blendsim import search
from blendsim.perf.model import StepModel, step_model
from blendsim.report.advice import of_pool
from blendsim.report.optimum import Bounds, Work
from blendsim.report.pooling import (
    LONG_ANSWERS,
    LONG_PROMPTS,
    NO_LOAD,
    SHARE,
    WORTH,
    Load,
    Partner,
    best_mix,
    least_seconds,
    least_steps,
    load_of,
    load_of_one,
    room_of,
)
from blendsim.request import from_lengths
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

A100 = search.Settings(sample=1.0, planner="paced")


def model_of(name: str = "llama-3.1-8b", gpu: str = "a100-80g", tp: int = 1) -> StepModel:
    return step_model(System(find_model(name), find_gpu(gpu), tp), "table")


def pool_of(model: StepModel, compute: float, memory: float, context: int = 1_000) -> Bounds:
    """So many seconds of work, of answers that read contexts of so many tokens."""
    tokens = int(compute / model.best_layer_seconds_per_token)
    reads = int(memory / model.best_seconds_per_context_token)
    work = Work(tokens, tokens // 2, reads // context, 0, reads, 0, 0)
    seconds = max(compute, memory)
    return Bounds(seconds, seconds, compute, memory, 0.0, work)


def seconds(load: Load, model: StepModel, longest: int = 0) -> float:
    return least_seconds(load, model, least_steps(load, model, room_of(model), longest))


@pytest.mark.parametrize(
    ("partner", "work"), [(LONG_ANSWERS, (800.0, 90.0)), (LONG_PROMPTS, (40.0, 400.0))]
)
def test_mix_is_the_amount_past_which_another_request_would_save_less(
    partner: Partner, work: tuple[float, float]
) -> None:
    model = model_of()
    limits = pool_of(model, *work, context=20_000)
    mix = best_mix(limits, model, partner)
    pool, one = load_of(limits, model), load_of_one(partner, model)
    here, steady = seconds(pool, model), mix.steady / mix.requests

    def saved(n: int) -> float:
        return WORTH * n * steady - seconds(pool.beside(one, n), model, partner.output) + here

    assert saved(mix.requests) == pytest.approx(WORTH * mix.steady - mix.beside)
    fitting = SHARE * room_of(model) // (partner.prompt + partner.output)
    most = min(
        here / steady, fitting * max(1, least_steps(pool, model, room_of(model)) // partner.output)
    )
    best = max(saved(int(n)) for n in np.linspace(1, most, 99))
    assert saved(mix.requests) >= 0.99 * best > 0
    assert 0 < mix.beside <= WORTH * mix.steady


def test_no_more_is_offered_than_fits_half_of_the_memory_at_once() -> None:
    """Answers that start together are long together."""
    model = model_of()
    mix = best_mix(pool_of(model, 800.0, 90.0), model, LONG_ANSWERS)
    assert mix.requests == 13
    assert mix.requests * (128 + 16_384) <= room_of(model) / 2


@pytest.mark.parametrize("n", [1, 13])
def test_answers_alone_take_their_steps(n: int) -> None:
    """One of 16,384 tokens takes as many steps, of which each reads the weights; simulated, too."""
    model = model_of()
    load = NO_LOAD.beside(load_of_one(LONG_ANSWERS, model), n)
    told = seconds(load, model, LONG_ANSWERS.output)
    taken = search.choose(from_lengths([128] * n, [16_384] * n), A100).chosen.reported_seconds
    assert 0.9 * taken < told <= taken
    assert told > 16_384 * float(model.layer_seconds[1:].min())
    assert (
        told > 1.5 * n * seconds(NO_LOAD.beside(load_of_one(LONG_ANSWERS, model), 1e6), model) / 1e6
    )


def test_requests_that_do_not_fit_together_run_one_after_another() -> None:
    """Kimi-K2 in fp8 leaves eight H200s KV for three and a half answers of 16,384 tokens. 236 of
    them, which were said to take 538 s at best, take 13,175 s simulated.
    """
    model = model_of("kimi-k2", "h200", 8)
    one = load_of_one(LONG_ANSWERS, model)
    told = [seconds(NO_LOAD.beside(one, n), model, 16_384) for n in (118, 236)]
    assert told[1] == pytest.approx(2 * told[0], rel=1e-3)
    assert 8_000 < told[1] < 13_175


def test_a_pool_that_fills_the_memory_is_told_that_nothing_is_worth_pooling() -> None:
    """There 236 long answers would add 12,193 s to a run of 4,160, where 373 were said."""
    model = model_of("kimi-k2", "h200", 8)
    limits = pool_of(model, 440.0, 155.0)
    assert best_mix(limits, model, LONG_ANSWERS).requests == 0
    told = of_pool([], limits, model, 4_160.0)[1]
    assert told.startswith("Nothing is worth pooling with it: memory-heavy work would save time ")
    assert "the pool fills the KV memory by itself" in told


def test_what_is_said_of_a_partner_is_what_a_simulation_finds() -> None:
    """Of a pool of prompts on an A100, and 24 answers of 4,096 tokens beside it."""
    model = model_of()
    prompts, answers = ([2_000] * 1_500, [60] * 1_500), ([128] * 24, [4_096] * 24)
    both = [p + a for p, a in zip(prompts, answers, strict=True)]
    runs = [search.choose(from_lengths(*pool), A100) for pool in (prompts, answers, both)]
    pool, alone, mixed = (run.chosen.reported_seconds for run in runs)
    own, one = load_of(runs[0].bounds, model), load_of_one(Partner("", 128, 4_096), model)
    told_alone = seconds(NO_LOAD.beside(one, 24), model, 4_096)
    told_beside = seconds(own.beside(one, 24), model, 4_096) - seconds(own, model)
    assert told_alone == pytest.approx(alone, rel=0.1)
    assert told_beside <= mixed - pool < 0.75 * alone


def test_work_in_steps_is_never_less_than_at_best_rates() -> None:
    model = model_of("llama-3.1-70b", tp=4)
    for n in (1, 100, 10_000):
        load = NO_LOAD.beside(load_of_one(Partner("", 500, 300), model), n)
        assert seconds(load, model, 300) >= float((model.lines @ np.array(load[:3])).max())
    assert seconds(NO_LOAD, model) == 0.0


@pytest.mark.parametrize("partner", [LONG_ANSWERS, LONG_PROMPTS])
@pytest.mark.parametrize("name", ["llama-2-7b", "deepseek-67b"])
def test_partner_fits_a_model_of_short_context(name: str, partner: Partner) -> None:
    model = model_of(name, tp=4)
    mix = best_mix(pool_of(model, 50.0, 50.0), model, partner)
    assert mix.partner.prompt + mix.partner.output == model.system.longest_request
    assert min(mix.partner[1:]) >= 1


def test_partner_fits_a_kv_cache_of_one_block() -> None:
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), kv_bytes=16 << 17)
    model = step_model(system, "table")
    mix = best_mix(pool_of(model, 1.0, 1.0, context=8), model, LONG_PROMPTS)
    assert (mix.partner.prompt, mix.partner.output) == (8, 8)


def test_a_replicas_share_of_a_pool_is_its_part_of_all_work() -> None:
    model = varied().model
    work = Work(8_000, 6_000, 2_000, 100, 40_000, 0, 0)
    one = Bounds(1.0, 1.0, 4.0, 2.0, 0.0, work, 1, 0.0)
    whole, half = (load_of(limits, model) for limits in (one, one.over(2)))
    assert half == pytest.approx(tuple(part / 2 for part in whole))
