"""The built-in sources: names, sizes, seeds and what they are for."""

import numpy as np
import pytest

from blendsim.errors import InputError, UnknownName
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load, load_pool
from blendsim.traces.demo import DEMOS

# Closed form for Llama-3.1-8B on an A100 at peak: 2·(p + d)·P / FLOPs and (p·d + d²/2) · KV bytes
# a token / bandwidth.
_COMPUTE = 2 * 8.03e9 / 312e12
_MEMORY = 4 * 1024 * 32 / 2.039e12


def density(workload: Workload) -> float:
    p, d = workload.prompt_len.astype(float), workload.output_len.astype(float)
    saved = shareable_tokens(workload, sort_prompts(workload))
    return float(_COMPUTE * ((p + d).sum() - saved) / (_MEMORY * (p * d + d * d / 2).sum()))


def columns(workload: Workload) -> list[list[object]]:
    prompts = workload.prompts
    arrays = (workload.ids, workload.prompt_len, workload.output_len, workload.arrival)
    return [array.tolist() for array in (*arrays, prompts.offsets, prompts.units)]


@pytest.mark.parametrize("name", DEMOS)
def test_the_same_seed_gives_the_same_requests(name: str) -> None:
    first = load(f"demo:{name}?n=300", ReadOptions(seed=3))
    assert columns(first) == columns(load(f"demo:{name}?n=300", ReadOptions(seed=3)))
    assert columns(first) != columns(load(f"demo:{name}?n=300", ReadOptions(seed=4)))


@pytest.mark.parametrize("n", [1, 2, 7, 300])
@pytest.mark.parametrize("name", DEMOS)
def test_a_source_has_as_many_requests_as_asked(name: str, n: int) -> None:
    workload = load(f"demo:{name}?n={n}")
    workload.check()
    assert len(workload) == n
    assert workload.origin == (f"demo:{name}?n={n}",)


@pytest.mark.parametrize("name", DEMOS)
def test_every_source_has_its_own_size_and_a_description(name: str) -> None:
    assert DEMOS[name].about
    assert len(load(f"demo:{name}")) == DEMOS[name].requests


def test_sources_pooled_under_one_seed_are_independent() -> None:
    pooled = load_pool(["demo:openvid?n=2000", "demo:burstgpt?n=2000"])
    rank = np.argsort(np.argsort(pooled.prompt_len[:2000]))
    other = np.argsort(np.argsort(pooled.prompt_len[2000:]))
    assert abs(np.corrcoef(rank, other)[0, 1]) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_mixed_pool_is_balanced_and_shares_a_third(seed: int) -> None:
    workload = load("demo:mixed", ReadOptions(seed=seed))
    assert 1.0 < density(workload) < 1.4
    sharing = shareable_tokens(workload, sort_prompts(workload)) / workload.prompt_len.sum()
    assert 0.30 < sharing < 0.40


def test_each_part_of_the_mixed_pool_is_of_one_kind() -> None:
    assert density(load("demo:azure-code")) > 20
    assert density(load("demo:mmlu")) > 40
    assert density(load("demo:clips")) < 0.3
    assert load("demo:mixed").source_names == ("azure-code", "clips", "mmlu")


def test_video_lengths_are_known_whole_frames_and_fit_the_context() -> None:
    for name in ("openvid", "clips"):
        workload = load(f"demo:{name}?n=20000")
        assert workload.is_known.all()
        assert (workload.output_len % 256 == 0).all()
        assert (workload.prompt_len + workload.output_len).max() <= 131072


def test_two_or_three_of_the_chats_answers_are_very_long() -> None:
    # The public trace has 6 above 2,500 tokens in 58,774 rows.
    samples = [load("demo:sharegpt", ReadOptions(seed=seed)) for seed in range(20)]
    found = np.mean([int((sample.output_len > 2_500).sum()) for sample in samples])
    assert 1.5 < found < 2.7


def test_modelled_sources_say_that_they_are_no_data() -> None:
    for name in ("burstgpt", "wildchat", "openvid", "clips"):
        assert any("synthetic, not data" in note for note in load(f"demo:{name}?n=5").notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmlu?n=0", "n must lie between 1 and"),
        ("mmlu?n=99999999999", "n must lie between 1 and"),
        ("mmlu?n=-5", r"only \?n=REQUESTS may follow"),
        ("mmlu?size=5", r"only \?n=REQUESTS may follow"),
        ("mmlu?n=", r"only \?n=REQUESTS may follow"),
    ],
)
def test_a_bad_size_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"demo:{name}")


def test_an_unknown_source_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="azure-code"):
        load("demo:azure-cod")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed -1 is negative"):
        load("demo:mmlu", ReadOptions(seed=-1))
