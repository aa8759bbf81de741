"""Comparing systems: each at the token budget that suits it, all beside the same bounds."""

from dataclasses import replace

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.baselines import BASELINES, Baseline, find_baselines
from blendsim.errors import InputError, UnknownName
from blendsim.report.metrics import Outside, outside_of_all
from blendsim.request import Prompts, from_lengths
from blendsim.search.budgets import BUDGETS, SMALLER_BUDGETS
from blendsim.search.comparison import COMMON_BUDGET
from blendsim.serving.flavour import find_flavour
from blendsim.serving.knobs import Knobs
from blendsim.traces import load_pool

POOL = mixed_pool(np.random.default_rng(3), 150)
DFS, BLEND = Baseline("DFS", "dfs", "nanoflow"), Baseline("Blend", "blend", "nanoflow")


def test_every_baseline_runs_at_its_best_budget_by_prediction() -> None:
    done = search.compare(POOL, search.Settings(), [DFS, BLEND])
    for row, baseline in zip(done.rows, (DFS, BLEND), strict=True):
        tried = [
            search.compare(POOL, search.Settings(token_budget=n), [baseline]).rows[0]
            for n in BUDGETS
        ]
        assert row.predicted_seconds == min(other.predicted_seconds for other in tried)
        assert row.token_budget in BUDGETS
    assert {row.token_budget for row in done.common} == {COMMON_BUDGET}


def test_where_the_least_budget_is_best_smaller_ones_are_compared() -> None:
    """Few requests, and one of them as long as the run: its steps are to be short."""
    pool = from_lengths([400] * 200 + [50], [2] * 200 + [3_000])
    asked = search.Settings(sample=1.0)
    row = search.compare(pool, asked, [BLEND]).rows[0]
    seconds = {
        n: search.compare(pool, replace(asked, token_budget=n), [BLEND]).rows[0].predicted_seconds
        for n in (*SMALLER_BUDGETS, *BUDGETS)
    }
    assert min(BUDGETS, key=seconds.__getitem__) == BUDGETS[0], "or none of them is tried"
    assert min(SMALLER_BUDGETS, key=seconds.__getitem__) == row.token_budget
    assert row.predicted_seconds == seconds[row.token_budget] < seconds[BUDGETS[0]]


def test_sharing_and_density_are_of_an_engines_own_blocks() -> None:
    """Of equal prompts the last token is computed again, in blocks of 16 the last 16 here."""
    prompts = Prompts(
        offsets=np.arange(9) * 64,
        units=np.tile(np.arange(64, dtype=np.int32), 8),
        space=np.zeros(8, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    pool = from_lengths([64] * 8, [40] * 8, prompts=prompts)
    named = {row.name: row for row in BASELINES}
    blocks, tokens = named["vLLM-DFS"], named["SGLang-DFS"]
    asked = search.Settings(sample=1.0, token_budget=2_048)
    done = search.compare(pool, asked, [blocks, tokens])
    optimum = [row.sharing_optimum for row in done.rows]
    assert optimum == [7 * 48 / (8 * 64), 7 * 63 / (8 * 64)]
    # NOTE: SGLang lets all of them in at once, before the cache has any's prompt.
    assert [row.sharing_ratio for row in done.rows] == [optimum[0], 0.0]
    assert done.rows[0].density_profile > done.rows[1].density_profile


def test_rows_on_equally_many_gpus_stand_beside_the_same_bounds() -> None:
    done = search.compare(POOL, search.Settings(), BASELINES)
    rows = [*done.rows, *done.common]
    places = {row.gpus for row in rows}
    assert places == {1, 2, 3, 4}
    bounds = {(row.gpus, row.optimum_seconds, row.reachable_seconds) for row in rows}
    assert len(bounds) == len(places)
    assert max(row.share_of_reachable for row in rows) <= 1


def test_pools_of_prefill_and_decode_are_compared_a_gpu() -> None:
    """The paper's Figure 8: below colocated engines whatever the ratio."""
    done = search.compare(POOL, search.Settings(dp=2, token_budget=2_048), BASELINES)
    rates = {row.policy: row.tokens_per_second_per_gpu for row in done.rows}
    pools = {name: rate for name, rate in rates.items() if name.startswith("DistServe")}
    assert len(pools) == 4
    assert max(pools.values()) < rates["vLLM-DFS"]


def test_pools_run_at_the_better_of_their_engines_own_budget_and_the_common_one() -> None:
    """By prediction; others are not tried, since pools take long to simulate."""
    pools = [row for row in BASELINES if row.name.startswith("DistServe")]
    done = search.compare(POOL, search.Settings(), pools)
    own = {row.name: find_flavour(row.engine).token_budget for row in pools}
    asked = {
        n: search.compare(POOL, search.Settings(token_budget=n), pools).rows
        for n in {*own.values(), COMMON_BUDGET}
    }
    assert len(asked) > 1
    for k, row in enumerate(done.rows):
        tried = [asked[n][k] for n in (own[row.policy], COMMON_BUDGET)]
        assert row.predicted_seconds == min(other.predicted_seconds for other in tried)
    assert {row.token_budget for row in done.common} == {COMMON_BUDGET}


def test_no_budget_is_below_the_requests_that_run_at_once() -> None:
    settings = search.Settings(engine="vllm", knobs=Knobs(max_num_active_seqs=600))
    done = search.compare(POOL, settings, find_baselines(["vllm"]))
    assert len(done.rows) == len(find_baselines(["vllm"]))
    assert min(row.token_budget for row in done.rows) >= 1_024


def test_an_asked_budget_is_the_only_one() -> None:
    done = search.compare(POOL, search.Settings(token_budget=1_024), [DFS])
    assert done.rows == done.common
    assert done.rows[0].token_budget == 1_024


def test_rate_of_a_gpu_counts_all_of_them() -> None:
    settings = search.Settings(dp=2, sample=1.0)
    row = search.compare(POOL, replace(settings, token_budget=2_048), [DFS]).rows[0]
    assert row.gpus == 2
    assert row.tokens_per_second_per_gpu == pytest.approx(row.tokens_per_second / 2)


def test_what_cannot_run_as_asked_is_left_out_and_said() -> None:
    done = search.compare(POOL, search.Settings(eviction="plan", token_budget=2_048), BASELINES)
    assert {row.engine for row in done.rows} == {"nanoflow"}
    said = [note for note in done.notes if "left out" in note]
    assert any("vLLM-DFS" in note and ": vllm evicts by last use" in note for note in said)
    names = [name for note in said for name in note.split(" left out: ")[0].split(", ")]
    assert len(names) == len(BASELINES) - len(done.rows)
    assert len(said) < len(names)  # a reason that several have is told once
    with pytest.raises(InputError, match="no baseline can run as asked; SGLang-DFS"):
        search.compare(POOL, search.Settings(eviction="plan"), find_baselines(["sglang"]))


def test_topology_of_the_settings_is_not_the_baselines() -> None:
    settings = search.Settings(topology="1P1D", token_budget=2_048)
    assert search.compare(POOL, settings, [DFS]).rows[0].gpus == 1


def test_engines_choose_rows() -> None:
    assert find_baselines([]) == BASELINES
    assert {row.engine for row in find_baselines(["vllm"])} == {"vllm"}
    names = [row.name for row in find_baselines(["sequential"])]
    assert names == ["sequential-dfs", "sequential-blend"]
    with pytest.raises(UnknownName, match="engine 'vlm'"):
        find_baselines(["vlm"])


def test_what_several_rows_were_extrapolated_in_is_one_note() -> None:
    """Answers of 40,000 tokens: contexts are longer than any that was measured, in each row."""
    pool = from_lengths([100, 3_000], [40_000, 10])
    done = search.compare(pool, search.Settings(token_budget=2_048), find_baselines(["vllm"]))
    beyond = [note for note in done.notes if "kernel profile was measured at" in note]
    assert len(done.rows) == 3
    assert len(beyond) == 1
    assert beyond[0].startswith("all rows: up to ")
    assert " of the time has more tokens of mean context than " in beyond[0]


def test_notes_on_some_rows_name_them() -> None:
    runs = {
        "a": [Outside("tokens of prompt", 0.02, 3.0)],
        "b": [Outside("tokens of prompt", 0.03, 2.0), Outside("prompts a step", 0.0004, 1.5)],
        "c": [],
    }
    assert [note.partition(" than the kernel ")[0] for note in outside_of_all(runs)] == [
        "a, b: up to 3.0% of the time has more tokens of prompt",
        "b: less than 0.1% of the time has more prompts a step",
    ]
    assert "(up to 3.0 times)" in outside_of_all(runs)[0]


def test_baselines_without_windows_are_left_out_together() -> None:
    asked = search.Settings(model="gpt-oss-20b", gpu="h100", token_budget=2_048)
    said = search.compare(POOL, asked, BASELINES).notes
    sglang = [note for note in said if "engine sglang is not modelled for gpt-oss-20b" in note]
    assert len(sglang) == 1
    assert " are left out: " in sglang[0]


def test_several_ranks_are_cut_by_the_runs_of_each_rows_engine() -> None:
    """As `plan` for that engine cuts them."""
    pool = load_pool(["demo:sharegpt?n=1000"])
    settings = search.Settings(dp=4, sample=1.0, token_budget=2_048)
    rows = search.compare(pool, settings, find_baselines(["vllm", "nanoflow"])).rows
    took = {(row.engine, row.policy): row.seconds for row in rows}
    for name, engine, policy in (("vLLM-DFS", "vllm", "dfs"), ("NanoFlow-DFS", "nanoflow", "dfs")):
        asked = replace(settings, engine=engine, planner=policy)
        assert took[engine, name] == search.choose(pool, asked).chosen.seconds
