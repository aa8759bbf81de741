"""What every baseline is worth on the paper's four workloads, at full size.

    python bench/engines.py [DIRECTORY with real traces]

400,000 requests each, Llama-3.1-8B on one A100, 1 % of the output lengths sampled. Prints a row a
baseline that colocates prefill and decode: tokens/s on the true lengths, at the common 2,048 tokens
a step and at the budget that is best for it by prediction. Then what the paper found about their
order, and whether it is so here. bench/cluster.py has pools of prefill and decode.
"""

import sys
from pathlib import Path

from machine import machine, peak_gigabytes, row, timed, today

from blendsim import search
from blendsim.baselines import BASELINES
from blendsim.report.metrics import Row
from blendsim.report.tables import limits_told
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES
from blendsim.topology import COLOCATED


def findings(trace: str, common: dict[str, Row]) -> list[str]:
    """The paper's findings on one workload, as sentences with our figures."""

    def over(a: str, b: str) -> float:
        rates = [common[name].tokens_per_second_per_gpu for name in (a, b)]
        return rates[0] / rates[1]

    high = RECIPES[trace].sharing > 0.2
    first, second = ("NanoFlow-DFS", "NanoFlow-Balance")
    if not high:
        first, second = second, first
    pairs = [
        ("NanoFlow-DFS", "vLLM-DFS"),
        ("NanoFlow-DFS", "SGLang-DFS"),
        (first, second),
        ("BlendServe", "NanoFlow-DFS"),
    ]
    verdict = {True: "holds", False: "does not hold"}
    return [f"{trace}: {a} over {b} {over(a, b):.3f}: {verdict[over(a, b) > 1]}" for a, b in pairs]


def main() -> None:
    """Measure and print the table."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    settings = search.Settings()
    baselines = [baseline for baseline in BASELINES if baseline.topology == COLOCATED.name]
    print(f"{machine()}; {today()}")
    print(row("workload", "baseline", "at 2,048", "best", "budget", "of optimum", "sharing kept"))
    print(row(*["---"] * 7))
    told: list[str] = []
    seconds = 0.0
    for trace, recipe in RECIPES.items():
        pool = blend(recipe, settings.system, data).workload
        done, took = timed(lambda pool=pool: search.compare(pool, settings, baselines))
        seconds += took
        for best, common in zip(done.rows, done.common, strict=True):
            print(
                row(
                    trace,
                    best.policy,
                    f"{common.tokens_per_second_per_gpu:,.0f}",
                    f"{best.tokens_per_second_per_gpu:,.0f}",
                    f"{best.token_budget:,}",
                    f"{best.share_of_optimum:.1%}",
                    f"{best.sharing_ratio / best.sharing_optimum:.1%}",
                ),
                flush=True,
            )
        told += [f"{trace}: {each}" for each in limits_told(done.rows, done.common)]
        told += findings(trace, {row.policy: row for row in done.common})
    print("", *told, "", sep="\n")
    print(f"compared in {seconds:.0f} s, peak memory {peak_gigabytes():.1f} GB")


if __name__ == "__main__":
    main()
