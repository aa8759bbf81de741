"""How far `auto` is from the best of all orders: brute force over every order of seven requests.

    python bench/orders.py [pools]

Small pools under tight memory (57 KV blocks), lengths known, Llama-3.1-8B on an A100. Every one of
the 5,040 orders is served in order; `auto` may also scan from both ends. Prints the gap of `auto`
and of each policy to the best order.
"""

import sys
from dataclasses import replace
from itertools import permutations

import numpy as np
from machine import machine, row, today

from blendsim import search
from blendsim.plan import IN_ORDER, Plan
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate

REQUESTS = 7
KV_BYTES = 120_000_000


def small_pool(rng: np.random.Generator) -> Workload:
    """Seven requests in two families of shared prefixes, prompts of 20–300 and outputs of 1–200
    tokens.
    """
    prompt = rng.integers(20, 300, REQUESTS)
    shared = np.minimum(rng.integers(0, 150, REQUESTS), prompt)
    family = rng.integers(0, 2, REQUESTS)
    units = np.concatenate([1_000 * f + np.arange(k) for f, k in zip(family, shared, strict=True)])
    prompts = Prompts(
        np.concatenate(([0], np.cumsum(shared))),
        units.astype(np.int32),
        np.zeros(REQUESTS, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(prompt, rng.integers(1, 200, REQUESTS), prompts=prompts)


def served_in(plan: Plan, order: tuple[int, ...]) -> Plan:
    """`plan` served in `order`."""
    expected = np.empty(len(plan), np.int64)
    expected[plan.order] = plan.expected_output
    rows = np.array(order)
    return replace(plan, admission=IN_ORDER, order=rows, expected_output=expected[rows])


def main() -> None:
    """Measure and print the table."""
    pools = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    flavour = find_flavour(search.Settings().engine)
    # Orders are compared, so that auto keeps the budget that all of them run at.
    settings = search.Settings(sample=1.0, kv_bytes=KV_BYTES, token_budget=flavour.token_budget)
    gaps: dict[str, list[float]] = {}
    for seed in range(pools):
        workload = small_pool(np.random.default_rng(seed))
        choice = search.choose(workload, settings)
        setting = search.prepare(workload, settings)
        best = min(
            simulate(
                served_in(choice.plan, order),
                workload,
                workload.output_len,
                setting.prompts,
                setting.model,
                flavour,
            ).end
            for order in permutations(range(REQUESTS))
        )
        for found in (*choice.rows, replace(choice.chosen, policy="auto")):
            gaps.setdefault(found.policy, []).append(found.predicted_seconds / best - 1)
    print(f"{machine()}; {today()}; {pools} pools of {REQUESTS} requests")
    print(row("policy", "mean gap", "worst gap"))
    print(row("---", "---", "---"))
    for policy, found_gaps in gaps.items():
        print(row(policy, f"{np.mean(found_gaps):+.1%}", f"{max(found_gaps):+.1%}"))


if __name__ == "__main__":
    main()
