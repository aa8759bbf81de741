"""The rule `shrunk`: subtrees, parents and prompt length, each as far as the sample supports it."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import was_cut
from strategies import workloads
from test_planner_lengths import two_sources

from blendsim.arrays import Ints
from blendsim.errors import UnknownName
from blendsim.planner import shrunk as shrunk_module
from blendsim.planner.evidence import evidence, is_unlearned
from blendsim.planner.lengths import (
    SHRUNK,
    Lengths,
    choose_sample,
    draw,
    estimate,
    expect_lengths,
)
from blendsim.planner.shrunk import Beliefs, shrunk
from blendsim.planner.tree import PoolTree, pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.settings import Settings


def world_of(
    workload: Workload, share: float, seed: int = 0, least: int = 32
) -> tuple[PoolTree, Lengths, Ints]:
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(seed)
    lengths = expect_lengths(workload, tree, share, rng, least, SHRUNK)
    return tree, lengths, draw(workload, tree, lengths, rng, SHRUNK)


def beliefs_of(workload: Workload, share: float) -> Beliefs:
    tree, lengths, _ = world_of(workload, share)
    return shrunk(workload, tree, lengths.is_visible)


def by_prompt(n: int = 4_000) -> Workload:
    """Long prompts are answered in 20 tokens or so, short ones in 800."""
    rng = np.random.default_rng(1)
    prompt = rng.integers(10, 2_000, n)
    return from_lengths(prompt, np.where(prompt > 1_000, 20, 800) + rng.integers(0, 10, n))


def beside_prompt(n: int = 4_000) -> Workload:
    """Prompt lengths that say nothing of the answers."""
    rng = np.random.default_rng(1)
    output = rng.lognormal(4, 1.2, n).astype(np.int64) + 1
    return from_lengths(rng.integers(10, 2_000, n), output)


def families(sizes: list[int], outputs: list[np.ndarray]) -> Workload:
    """Requests of one source; those of one family share 50 tokens and nothing with the others."""
    heads = [np.full(size * 50, k, np.int32) for k, size in enumerate(sizes)]
    n = sum(sizes)
    prompts = Prompts(
        np.arange(n + 1) * 50,
        np.concatenate(heads),
        np.zeros(n, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths([60] * n, np.concatenate(outputs), prompts=prompts)


def test_prompt_length_decides_where_it_says_much() -> None:
    workload = by_prompt()
    _, lengths, drawn = world_of(workload, 0.1)
    hidden = ~lengths.is_visible & (abs(workload.prompt_len - 1_000) > 250)
    assert np.abs(lengths.expected - workload.output_len)[hidden].mean() < 40
    assert np.abs(drawn - workload.output_len)[hidden].mean() < 40


def test_prompt_length_is_left_out_where_it_says_nothing() -> None:
    workload = beside_prompt()
    found = beliefs_of(workload, 0.1)
    assert len(found.rules[0].edges) == 0
    _, lengths, _ = world_of(workload, 0.1)
    assert len(set(lengths.expected[~lengths.is_visible].tolist())) == 1


def test_prompt_length_is_seldom_believed_by_chance() -> None:
    workload = beside_prompt(2_000)
    tree = pool_tree(workload, sort_prompts(workload))
    believed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        visible = choose_sample(workload, tree.group, 0.1, rng)
        rules = shrunk(workload, tree, visible).rules
        believed += len(rules[0].edges) > 0
    assert believed <= 12


def test_alike_subtrees_are_expected_alike() -> None:
    rng = np.random.default_rng(2)
    answers = [rng.lognormal(4, 1, 40).astype(np.int64) + 1 for _ in range(30)]
    workload = families([40] * 30, answers)
    _, lengths, _ = world_of(workload, 0.1)
    tree = pool_tree(workload, sort_prompts(workload))
    hidden = ~lengths.is_visible
    paper = estimate(workload, tree, lengths.is_visible).expected
    error, base = (np.square(e - workload.output_len)[hidden] for e in (lengths.expected, paper))
    assert error.mean() < 0.95 * base.mean()


def test_subtrees_that_differ_keep_their_means() -> None:
    answers = [np.full(20, 10 * k + 1) for k in range(30)]
    workload = families([20] * 30, answers)
    _, lengths, drawn = world_of(workload, 0.3)
    visible = np.bincount(np.repeat(np.arange(30), 20), lengths.is_visible) > 0
    rows = np.repeat(visible, 20)
    assert np.array_equal(lengths.expected[rows], workload.output_len[rows])
    assert np.array_equal(drawn[rows], workload.output_len[rows])


def test_each_source_is_estimated_from_its_own_sample() -> None:
    workload = two_sources(200, 200)
    _, lengths, drawn = world_of(workload, 0.2)
    assert np.array_equal(lengths.expected, workload.output_len)
    assert np.array_equal(drawn, workload.output_len)


def test_nothing_is_said_of_a_source_without_a_sample() -> None:
    workload = two_sources(3, 3)
    tree = pool_tree(workload, sort_prompts(workload))
    found = shrunk(workload, tree, workload.source == 1)
    told = np.where(workload.source[tree.order] == 1, 1_000.0, np.nan)
    np.testing.assert_array_equal(found.means(), told)
    drawn = np.append(found.groups.value, np.nan)[found.draws(np.full(6, 0.5), np.ones(3))]
    np.testing.assert_array_equal(drawn, told)


def test_a_layer_is_the_nodes_of_one_source_with_equally_many_ancestors() -> None:
    """Three generations of source 0, two of source 1, one each of sources 2 and 3."""
    parent = np.array([-1, 0, 1, 0, -1, 4, -1, -1])
    source = np.array([0, 0, 0, 0, 1, 1, 2, 3])
    groups = shrunk_module._groups(parent, source, np.zeros(0, np.int64), np.zeros(0))
    assert groups.layer.tolist() == [0, 1, 2, 1, 3, 4, 5, 6]
    assert groups.above.tolist() == [-1, 0, 1, -1, 3, -1, -1]


@pytest.mark.parametrize(("sampled", "bins"), [(9, 1), (10, 2)])
def test_each_bin_of_prompt_lengths_has_five_samples_at_least(sampled: int, bins: int) -> None:
    short = np.arange(40) % 2 == 0
    workload = from_lengths(np.where(short, 10, 1_000), np.where(short, 800, 20))
    tree = pool_tree(workload, sort_prompts(workload))
    assert len(shrunk(workload, tree, np.arange(40) < sampled).rules[0].edges) == bins - 1


@pytest.mark.parametrize(
    ("plain", "mixed", "binned", "rule"),
    [
        (1.0, 3.0, 2.0, (True, 0)),
        (2.0, 3.0, 1.0, (False, 1)),
        (3.0, 1.0, 2.0, (False, 0)),
        (3.0, 2.0, 1.0, (False, 1)),
    ],
)
def test_a_source_takes_the_rule_of_the_least_error(
    plain: float,
    mixed: float,
    binned: float,
    rule: tuple[bool, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bins have to be better than plain means where those are better than mixed ones."""
    monkeypatch.setattr(
        shrunk_module,
        "_held_out",
        lambda groups, bins, fold, is_plain: np.full(
            len(fold), plain if is_plain else binned if bins.any() else mixed
        ),
    )
    found = beliefs_of(from_lengths(np.arange(1, 11), [5] * 10), 1.0).rules[0]
    assert (found.is_plain, len(found.edges)) == rule


def test_draws_have_the_estimates_as_their_means() -> None:
    rng = np.random.default_rng(3)
    answers = [(rng.gamma(2, 20 * (1 + k % 4), 60) + 1).astype(np.int64) for k in range(8)]
    workload = families([60] * 8, answers)
    tree, lengths, _ = world_of(workload, 0.2)
    found = shrunk(workload, tree, lengths.is_visible)
    even = np.ones(len(found.groups.value))
    value = found.groups.value
    mean = np.mean(
        [value[found.draws(np.random.default_rng(k).random(480), even)] for k in range(800)], axis=0
    )
    assert 0 < found.belief.weight[1] < 1
    error = abs(mean - found.means()) / workload.output_len.std()
    assert error.max() < 5 / np.sqrt(800)


def test_the_held_out_error_of_the_chosen_rule_is_the_least() -> None:
    """Of plain means, mixed ones and bins, a source takes none that its sample shows to be worse
    than plain means.
    """
    for workload in (by_prompt(), beside_prompt(), families([9] * 40, [np.arange(9) + 1] * 40)):
        tree, lengths, _ = world_of(workload, 0.2)
        found = shrunk(workload, tree, lengths.is_visible)
        at = np.zeros(len(found.groups.home), np.int64)
        fold = np.arange(len(at)) % shrunk_module.FOLDS
        rows = np.flatnonzero(evidence(workload, tree, lengths.is_visible))
        prompt = workload.prompt_len[tree.order[rows]].astype(np.float64)
        bins = shrunk_module._bins(prompt, at, found.rules)
        chosen = shrunk_module._held_out(found.groups, bins, fold, found.rules[0].is_plain)
        plain = shrunk_module._held_out(found.groups, at, fold, True)
        assert chosen.mean() <= plain.mean()


@given(workloads(), st.sampled_from((0.0, 0.3, 0.9, 1.0)), st.integers(0, 3))
def test_lengths_that_are_not_visible_change_nothing(
    workload: Workload, share: float, seed: int
) -> None:
    tree, lengths, drawn = world_of(workload, share, seed, least=2)
    hidden = workload.has_output & ~lengths.is_visible
    other = replace(workload, output_len=np.where(hidden, 77_777, workload.output_len))
    _, again, redrawn = world_of(other, share, seed, least=2)
    for one, two in zip(lengths, again, strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(drawn, redrawn)
    with mock.patch("blendsim.planner.lengths._redraw_peaks"):
        drawn = world_of(workload, share, seed, least=2)[2]
    seen = workload.output_len[tree.order[evidence(workload, tree, lengths.is_visible)]]
    is_blind = is_unlearned(workload, tree, lengths.is_visible)
    learned = drawn[~lengths.is_visible & (workload.output_limit == 0) & ~is_blind]
    if not was_cut(workload):  # who was cut goes on (tests/test_lengths_cut.py)
        assert set(learned.tolist()) <= set(seen.tolist())


def test_the_same_seed_gives_the_same_world() -> None:
    one, two = (world_of(by_prompt(), 0.05)[2] for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_a_random_number_stays_below_one() -> None:
    below = 1.0 - 2.0**-53
    assert shrunk_module._left(below, 0.9999) < 1.0
    assert shrunk_module._left.py_func(0.75, 0.5) == 0.5
    z = 0.25 - 2.0**-54
    assert (below - z) / (1.0 - z) == 1.0, "rounding would reach it"
    assert shrunk_module._left(below, z) == shrunk_module._left.py_func(below, z) == below


@given(workloads(least=3), st.integers(0, 3))
def test_the_plain_twin_draws_the_same(workload: Workload, seed: int) -> None:
    tree, lengths, _ = world_of(workload, 0.5, seed, least=1)
    found = shrunk(workload, tree, lengths.is_visible)
    luck = np.random.default_rng(seed).random(len(workload))
    likely = np.random.default_rng(seed).exponential(size=len(found.groups.value))
    compiled = found.draws(luck, likely)
    kernel, levels = shrunk_module._draws, shrunk_module._levels
    try:
        shrunk_module._draws, shrunk_module._levels = kernel.py_func, levels.py_func
        again = shrunk(workload, tree, lengths.is_visible).draws(luck, likely)
    finally:
        shrunk_module._draws, shrunk_module._levels = kernel, levels
    np.testing.assert_array_equal(compiled, again)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownName, match="median"):
        Settings(length_rule="median")
    workload = two_sources(5, 5)
    tree = pool_tree(workload, sort_prompts(workload))
    with pytest.raises(UnknownName, match="median"):
        estimate(workload, tree, np.ones(10, np.bool_), "median")
