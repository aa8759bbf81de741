"""Models in fp8 and with experts: what each policy takes of them.

    python bench/formats.py [--trace demo:mixed] [--gpus a100-80g h100 h200 b200] [--models NAME …]
    python bench/formats.py --ranks [--trace 'demo:mixed?n=64000'] [--gpus h200 b200]

One pool, 1 % of its unknown lengths sampled, each policy on the engine's own token budget and the
true lengths: in bf16, with fp8 weights and with fp8 KV too; NanoFlow's engine, which overlaps, and
vLLM in prefix order. Systems that were not measured or do not hold the pool are left out. With
--ranks instead eight GPUs as one replica, and as eight that share experts (`--ep 8`).
"""

import argparse
from dataclasses import replace
from itertools import product

from machine import machine, row, timed, today

from blendsim.errors import BlendsimError
from blendsim.perf.measured import IMPORTED
from blendsim.request import Workload
from blendsim.search import Settings, plan_policy, prepare, simulate_plan
from blendsim.sim.lock_step import ALONE, LONGEST
from blendsim.traces.limits import without_oversize
from blendsim.traces.load import load

FORMATS = (("none", "bf16"), ("fp8", "bf16"), ("fp8", "fp8"), ("nvfp4", "fp8"))
AS_PUBLISHED = (("auto", "bf16"), ("auto", "fp8"))
BLOCKS = (("none", "bf16"), ("fp8-block", "fp8"))
MODELS = (  # GPUs a replica, whether experts are whole on them, and formats
    ("llama-3.1-8b", 1, False, FORMATS),
    ("llama-3.1-70b", 2, False, FORMATS),
    ("mixtral-8x7b", 2, False, FORMATS),
    ("qwen3-30b-a3b", 1, False, FORMATS),
    ("gpt-oss-20b", 1, False, AS_PUBLISHED),
    ("gpt-oss-120b", 1, False, AS_PUBLISHED),
    ("minimax-m2", 4, False, AS_PUBLISHED),
    ("minimax-m2", 8, True, AS_PUBLISHED),
    ("qwen3-235b-a22b", 4, False, (("fp8-block", "bf16"),)),
    ("qwen3-235b-a22b", 8, True, (("fp8-block", "bf16"),)),
    ("deepseek-v3", 8, False, AS_PUBLISHED),
    ("deepseek-v3", 8, True, AS_PUBLISHED),
    ("kimi-k2", 8, False, AS_PUBLISHED),
    ("kimi-k2-thinking", 8, False, AS_PUBLISHED),
    ("kimi-k2-thinking", 8, True, AS_PUBLISHED),
    ("qwen3.5-35b-a3b", 1, False, BLOCKS),
    ("qwen3.5-9b", 1, False, BLOCKS),
    ("qwen3.5-27b", 1, False, BLOCKS),
    ("qwen3.5-122b-a10b", 4, False, BLOCKS),
    ("qwen3.5-397b-a17b", 8, False, BLOCKS),
)
POLICIES = ("dfs", "blend", "paced")
ON_EIGHT = (  # experts of one replica cut or whole, and of eight replicas
    ("deepseek-v3", "auto", ({"tp": 8}, {"tp": 8, "ep": 8}, {"dp": 8, "ep": 8})),
    ("qwen3-235b-a22b", "fp8-block", ({"tp": 8, "ep": 8}, {"dp": 8, "ep": 8})),
)


def seconds_of(pool: Workload, settings: Settings) -> tuple[dict[str, float], float]:
    """Seconds of the three orders, and of vLLM in prefix order; InputError or ProfileError where
    the system cannot run the pool.
    """
    problem = prepare(pool, settings)
    taken = {}
    for policy in POLICIES:
        done = simulate_plan(pool, plan_policy(problem, policy), settings)[0]
        taken[policy] = float(done.seconds or 0.0)
    asked = settings.for_engine("vllm")
    plan = plan_policy(prepare(pool, asked), "dfs")
    return taken, float(simulate_plan(pool, plan, asked)[0].seconds or 0.0)


def told(pool: Workload, settings: Settings) -> str | None:
    """A row of the table; None where the system cannot run the pool."""
    try:
        held = without_oversize(pool, settings.system.longest_request, skip=False)
        taken, vllm = seconds_of(held, settings)
    except BlendsimError:
        return None
    spec = settings.spec
    return row(
        settings.model,
        f"{settings.tp} × {settings.gpu}{', whole' if spec.expert_parallel else ''}",
        spec.weights,
        spec.kv,
        *(f"{taken[policy]:,.0f}" for policy in POLICIES),
        f"{taken['dfs'] / min(taken.values()):.3f}",
        f"{taken['paced'] / taken['blend']:.3f}",
        f"{vllm:,.0f}",
    )


def told_on_eight(pool: Workload, settings: Settings) -> str:
    """A row of the table of --ranks."""
    taken, vllm = seconds_of(pool, settings)
    asked = settings.for_engine("vllm")
    others = ["", ""]
    if settings.system.is_joined:
        log = simulate_plan(pool, plan_policy(prepare(pool, asked), "dfs"), asked).log
        others = [f"{log.meta[name]:,.0f}" for name in (ALONE, LONGEST)]
    kind = "" if settings.ep is None else ", whole"
    return row(
        settings.model,
        f"{settings.dp} × {settings.tp} × {settings.gpu}{kind}",
        f"{settings.dp * settings.system.kv_blocks * settings.system.block_tokens:,}",
        *(f"{taken[policy]:,.0f}" for policy in POLICIES),
        f"{vllm:,.0f}",
        *others,
    )


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trace")
    options.add_argument("--gpus", nargs="+")
    options.add_argument("--ranks", action="store_true")
    named = list(dict.fromkeys(model for model, *_ in MODELS))
    options.add_argument("--models", nargs="+", default=named, choices=named)
    given = options.parse_args()
    trace = given.trace or ("demo:mixed?n=64000" if given.ranks else "demo:mixed")
    gpus = given.gpus or (["h200", "b200"] if given.ranks else ["a100-80g", "h100", "h200", "b200"])
    pool = load(trace)
    print(f"{machine()}; {today()}; {trace}\n")
    _, seconds = timed(lambda: (on_eight if given.ranks else in_formats)(pool, gpus, given.models))
    print(f"\n{seconds:,.0f} s in all")


def on_eight(pool: Workload, gpus: list[str], models: list[str]) -> None:
    """Print the table of --ranks."""
    others = "vllm, none waits", "all as the longest"
    print(row("model", "gpus", "KV tokens in all", *POLICIES, "vllm, dfs", *others))
    print(row(*["---"] * 9))
    for (model, weights, spread), gpu in product(ON_EIGHT, gpus):
        for each in spread if model in models else ():
            asked = Settings(model=model, gpu=gpu, quantization=weights, profile=IMPORTED, **each)
            print(told_on_eight(pool, asked), flush=True)


def in_formats(pool: Workload, gpus: list[str], models: list[str]) -> None:
    """Print the table of formats."""
    ratios = "dfs over best", "paced over blend"
    print(row("model", "gpus", "weights", "KV", *POLICIES, *ratios, "vllm, dfs"))
    print(row(*["---"] * 10))

    rows = [kind for kind in MODELS if kind[0] in models]
    for (model, tp, is_whole, formats), gpu in product(rows, gpus):
        asked = Settings(model=model, gpu=gpu, tp=tp, expert_parallel=is_whole, profile=IMPORTED)
        for weights, kv in formats:
            line = told(pool, replace(asked, quantization=weights, kv_cache_dtype=kv))
            if line is not None:
                print(line, flush=True)


if __name__ == "__main__":
    main()
