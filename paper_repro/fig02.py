"""Figure 2, prompt and output lengths of the six traces: their distribution functions.

Lengths are those the pools are blended from: of the real files where there are any, with the
paper's normalisations, else of generators fitted to published figures.
"""

import numpy as np

from blendsim.request import Workload
from blendsim.synth.sources import NAMES
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.table import Table

REQUESTS = 50_000
QUICK_REQUESTS = 10_000
LEVELS = tuple(round(0.01 * k, 2) for k in range(1, 100))


def measure(lab: Lab) -> dict[str, Table]:
    """`quantiles`: tokens at each level, prompts and outputs apart; `traces`: their means."""
    requests = QUICK_REQUESTS if lab.quick else REQUESTS
    origin = lab.sources()
    pools = {name: lab.source(name, requests) for name in NAMES}
    rows = [row for name, pool in pools.items() for row in _quantiles(name, pool)]
    means = [_means(name, pool, origin[name]) for name, pool in pools.items()]
    return {"quantiles": Table.of(rows), "traces": Table.of(means)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """The traces' mean outputs span three decades and more, and only OpenVid writes mostly."""
    traces = {row["trace"]: row for row in tables["traces"].records()}
    outputs = [row["output_mean"] for row in traces.values()]
    writers = [name for name, r in traces.items() if r["output_mean"] > 2 * r["prompt_mean"]]
    shown = (
        f"mean outputs {min(outputs):,.0f} (MMLU) to {max(outputs):,.0f} tokens (OpenVid), mean "
        f"prompts {min(r['prompt_mean'] for r in traces.values()):,.0f} to "
        f"{max(r['prompt_mean'] for r in traces.values()):,.0f}"
    )
    holds = max(outputs) > 1000 * min(outputs) and "openvid" in writers and "mmlu" not in writers
    return [sign("fig02", holds, shown)]


def _quantiles(name: str, pool: Workload) -> list[dict[str, float | str]]:
    kinds = {"prompt": pool.prompt_len, "output": pool.output_len}
    return [
        {"trace": name, "kind": kind, "level": level, "tokens": tokens}
        for kind, lengths in kinds.items()
        for level, tokens in zip(LEVELS, np.quantile(lengths, LEVELS).tolist(), strict=True)
    ]


def _means(name: str, pool: Workload, origin: str) -> dict[str, float | str]:
    return {
        "trace": name,
        "prompt_mean": float(pool.prompt_len.mean()),
        "prompt_longest": int(pool.prompt_len.max()),
        "output_mean": float(pool.output_len.mean()),
        "output_longest": int(pool.output_len.max()),
        "requests": len(pool),
        "origin": origin,
    }
