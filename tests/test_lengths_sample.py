"""`--sample auto`: as many requests run first as pay, by what a first few of them show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import workloads
from test_planner_lengths import two_sources, without_outputs

from blendsim.cli.options import resolve
from blendsim.errors import InputError
from blendsim.planner.lengths import Lengths, expect_lengths
from blendsim.planner.sample import AUTO, MEAN_ERROR, MOST_SHARE, sizes_that_pay
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, from_lengths, pool
from blendsim.settings import Settings

SYSTEM = Settings().system


def expect(workload: Workload, seed: int = 0, least: int | None = None) -> Lengths:
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(seed)
    return expect_lengths(workload, tree, AUTO, rng, least, system=SYSTEM)


def test_sources_that_do_not_vary_are_sampled_no_further() -> None:
    assert expect(two_sources(10_000, 10_000)).is_sampled.sum() == 16


def test_a_source_that_varies_is_sampled_more() -> None:
    rng = np.random.default_rng(0)
    varied = rng.lognormal(8, 1, 10_000).astype(np.int64) + 1
    workload = pool(
        [
            from_lengths([50] * 10_000, [10] * 10_000, source="same"),
            from_lengths([50] * 10_000, varied, source="varied"),
        ]
    )
    number = np.bincount(workload.source[expect(workload).is_sampled])
    assert number[0] == 8
    assert 100 < number[1] < MOST_SHARE * 10_000


def test_no_more_than_a_tenth_is_sampled_beyond_the_first_few() -> None:
    rng = np.random.default_rng(0)
    workload = from_lengths([50] * 500, rng.lognormal(8, 2, 500).astype(np.int64) + 1)
    assert expect(workload).is_sampled.sum() == 50


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(0.001, 100.0), st.floats(0.001, 100.0)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_no_other_sizes_cost_less(groups: list[tuple[int, float, float]], seed: int) -> None:
    sizes, spread, price = (np.array(column) for column in zip(*groups, strict=True))

    def cost(wanted: np.ndarray) -> float:
        error = MEAN_ERROR * np.sqrt(((sizes * spread) ** 2 / wanted).sum())
        return float(error + (price * wanted).sum())

    best = sizes_that_pay(sizes, spread, price)
    other = best * np.random.default_rng(seed).uniform(0.5, 2.0, len(best))
    assert cost(best) <= cost(other) * (1 + 1e-12)


def test_what_is_free_is_sampled_without_end() -> None:
    wanted = sizes_that_pay(np.array([9, 9]), np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    assert np.isinf(wanted[0])
    assert 0 < wanted[1] < np.inf


@given(workloads(), st.integers(0, 3))
def test_lengths_that_are_not_sampled_do_not_change_the_sample(
    workload: Workload, seed: int
) -> None:
    found = expect(workload, seed, least=2)
    hidden = workload.has_output & ~found.is_visible
    other = replace(workload, output_len=np.where(hidden, 77_777, workload.output_len))
    for one, two in zip(found, expect(other, seed, least=2), strict=True):
        assert np.array_equal(one, two)


def test_known_requests_are_seen_without_being_sampled() -> None:
    unknown = from_lengths([5] * 40, [2] * 40, source="chat")
    known = from_lengths([5] * 40, [2] * 40, source="video", is_known=True)
    found = expect(pool([known, unknown]))
    assert not found.is_sampled[:40].any()
    assert found.is_visible[:40].all()
    assert np.array_equal(found.is_visible[40:], found.is_sampled[40:])


def test_a_pool_without_lengths_has_no_sample() -> None:
    assert not expect(without_outputs(two_sources(9, 9), np.ones(18, np.bool_))).is_sampled.any()


def test_a_sample_is_a_share_or_auto() -> None:
    assert Settings(sample=AUTO).sample == AUTO
    for wrong in ("much", "0.5", 0.0, 1.5):
        with pytest.raises(InputError, match="at most 1, or auto"):
            Settings(sample=wrong)
    with pytest.raises(InputError, match="sample = nan is not finite; give a number"):
        Settings(sample=float("nan"))


def test_the_command_line_takes_a_share_or_auto(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[settings]\nsample = "auto"\nlength_rule = "shrunk"\n')
    asked = {"trace": ["demo:mixed"], "config": config, "sample": None}
    of_file = resolve(asked).settings
    assert (of_file.sample, of_file.length_rule) == (AUTO, "shrunk")
    assert resolve(asked | {"sample": "0.25"}).settings.sample == 0.25
    assert resolve(asked | {"sample": "auto"}).settings.sample == AUTO
