"""What the rule that estimates output lengths is worth: errors, predictions and seconds.

    python bench/lengths.py DIRECTORY [--pools "trace1;sharegpt"] [--seeds 3] [--sample 0.01|auto]
    python bench/lengths.py DIRECTORY --again 0.1    plan again when so many requests have ended

DIRECTORY holds public length files; a source without one comes from its generator. No length is
known beforehand but the sample's. Seconds are simulated, Llama-3.1-8B on one A100, at the engine's
own budget; means over seeds of the sample.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from machine import machine, row, timed, today

from blendsim import search
from blendsim.arrays import Ints
from blendsim.planner.lengths import RULES
from blendsim.planner.sample import AUTO
from blendsim.request import Workload
from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine
from blendsim.sim.timing import time_plan
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES, Recipe
from blendsim.synth.sources import open_source
from blendsim.traces.limits import without_oversize
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions

POLICIES = ("dfs", "blend", "paced")
REQUESTS = 100_000  # of each of the paper's workloads
MIXED, ALONE = 40_000, 20_000  # of a chat source with others, and alone
SETTINGS = search.Settings()


def _that_fit(pool: Workload) -> Workload:
    return without_oversize(pool, SETTINGS.system.longest_request, skip=True)


def _recipe(wanted: Recipe) -> Callable[[Path], Workload]:
    return lambda data: _that_fit(blend(wanted, SETTINGS.system, data).workload)


def _mixed(source: str) -> Callable[[Path], Workload]:
    return _recipe(Recipe(1.0, 0.25, MIXED, (source, "mmlu", "openvid")))


def _alone(source: str) -> Callable[[Path], Workload]:
    return lambda data: _that_fit(open_source(source, data, 0, 5).requests(ALONE, 0))


def _file(name: str) -> Callable[[Path], Workload]:
    return lambda data: _that_fit(load_pool([str(data / name)], ReadOptions()))


POOLS: dict[str, Callable[[Path], Workload]] = {
    **{name: _recipe(replace(r, requests=REQUESTS)) for name, r in RECIPES.items()},
    "sharegpt": _alone("sharegpt"),
    "wildchat": _alone("wildchat"),
    "azure conversations": _file("AzureLLMInferenceTrace_conv.csv.gz"),
    "mooncake": _file("mooncake_synthetic_trace.jsonl.gz"),
    "sharegpt, mmlu, openvid": _mixed("sharegpt"),
    "wildchat, mmlu, openvid": _mixed("wildchat"),
}


class Errors(NamedTuple):
    """Of requests whose length is not visible."""

    absolute: float  # mean, tokens
    squared: float  # root of the mean, tokens
    totals: float  # mean over sources of |expected / true − 1| of their output tokens


class Done(NamedTuple):
    """One seed of one rule."""

    sampled: float  # share of the requests
    errors: Errors
    predicted: dict[str, float]
    seconds: dict[str, float]


def errors_of(problem: search.Problem) -> Errors:
    """How far the expected lengths are off."""
    hidden = np.flatnonzero(~problem.lengths.is_visible)
    if not len(hidden):
        return Errors(0.0, 0.0, 0.0)
    true = problem.workload.output_len[hidden].astype(np.float64)
    error = problem.lengths.expected[hidden] - true
    source = problem.workload.source[hidden]
    total, missed = np.bincount(source, true), np.bincount(source, error)
    share = np.abs(missed[total > 0] / total[total > 0])
    return Errors(
        float(np.abs(error).mean()), float(np.sqrt((error**2).mean())), float(share.mean())
    )


def seconds_of(problem: search.Problem, policy: str, outputs: Ints) -> float:
    """The policy's run with these outputs."""
    plan, engine = plan_policy(problem, policy), find_engine(problem, "nanoflow")
    pool = (plan, problem.workload, outputs, problem.prompts, problem.model, engine)
    return time_plan(*pool, problem.settings.cluster, problem.settings.host).seconds


def measure(pool: Workload, settings: search.Settings) -> Done:
    """Errors, predictions and true seconds of one sample."""
    problem = search.prepare(pool, settings)
    return Done(
        float(problem.lengths.is_sampled.mean()),
        errors_of(problem),
        {policy: seconds_of(problem, policy, problem.drawn) for policy in POLICIES},
        {policy: seconds_of(problem, policy, problem.true_lengths) for policy in POLICIES},
    )


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):,.0f}" + (f" ± {stdev(values):,.0f}" if len(values) > 1 else "")


def compare_rules(name: str, pool: Workload, seeds: int, share: float | str) -> None:
    """A row a rule, and one with lengths known."""
    cases = {"known": [measure(pool, replace(SETTINGS, sample=1.0))]}
    for rule in RULES:
        wanted = replace(SETTINGS, sample=share, length_rule=rule)
        cases[rule] = [measure(pool, replace(wanted, seed=seed)) for seed in range(seeds)]
    for rule, done in cases.items():
        errors = Errors(*np.mean([one.errors for one in done], axis=0).tolist())
        off = [one.predicted["paced"] / one.seconds["paced"] - 1.0 for one in done]
        cells = (f"{errors.absolute:,.1f}", f"{errors.squared:,.1f}", f"{errors.totals:.1%}")
        runs = [spread([one.seconds[policy] for one in done]) for policy in POLICIES]
        off_by = f"{mean(map(abs, off)):.1%}"
        gain = mean(one.seconds["dfs"] for one in done) / mean(one.seconds["paced"] for one in done)
        sampled = f"{mean(one.sampled for one in done):.1%}"
        print(row(name, rule, sampled, *cells, off_by, *runs, f"{gain:.3f}"), flush=True)


def plan_again(name: str, pool: Workload, seeds: int, share: float | str, ended: float) -> None:
    """What a second plan would gain, made with `ended` of the requests seen instead of `share`.

    The second plan is made for the whole pool, with the lengths of a random part visible: what
    planning anew knows, without what it costs to stop and without the bias that short ones end
    first. So it bounds the gain from above.
    """
    for rule in RULES:
        first, second = [], []
        for seed in range(seeds):
            wanted = replace(SETTINGS, sample=share, length_rule=rule, seed=seed)
            one = search.prepare(pool, wanted)
            more = search.prepare(pool, replace(wanted, sample=ended))
            sure = more._replace(lengths=more.lengths._replace(is_sampled=one.lengths.is_sampled))
            first.append(seconds_of(one, "paced", one.true_lengths))
            second.append(seconds_of(sure, "paced", sure.true_lengths))
        gain = mean(first) / mean(second) - 1.0
        print(row(name, rule, spread(first), spread(second), f"{gain:+.1%}"), flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--pools", default=";".join(POOLS), help="names between semicolons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sample", default="0.01")
    parser.add_argument("--again", type=float)
    asked = parser.parse_args()
    share = asked.sample if asked.sample == AUTO else float(asked.sample)
    print(f"{machine()}; {today()}; --sample {asked.sample}, {asked.seeds} seeds\n")
    if asked.again is None:
        head = ("pool", "rule", "sampled", "MAE", "RMSE", "source totals off", "prediction off")
        print(row(*head, "dfs, s", "blend, s", "paced, s", "dfs / paced"))
        print(row(*["---"] * 11))
    else:
        print(row("pool", "rule", "paced, s", f"{asked.again:.0%} seen, s", "gain"))
        print(row(*["---"] * 5))
    for name in asked.pools.split(";"):
        made = POOLS[name](asked.data)
        pool = replace(made, is_known=np.zeros(len(made), np.bool_))
        if asked.again is None:
            compare_rules(name, pool, asked.seeds, share)
        else:
            plan_again(name, pool, asked.seeds, share, asked.again)


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
