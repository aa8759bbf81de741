"""Figure 8: prefill and decode on GPUs of their own, by tokens/s a GPU, at 2,048 tokens a step."""

from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.runs import COMMON, compared, joined, traces
from paper_repro.systems import POOLS, VLLM
from paper_repro.table import Table


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a trace and system."""
    names = (VLLM, *(POOLS[:3] if lab.quick else POOLS))
    return {
        "runs": joined([compared(lab, t, names, own_best=False) for t in traces(lab, 1)]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Below vLLM per GPU in all ratios, and lower with more prefill than with more decode GPUs."""
    runs = tables["runs"]
    rate = {
        (row["trace"], row["system"]): row["tokens_per_second"] / row["gpus"]
        for row in runs.records(at=COMMON)
    }
    names = list(dict.fromkeys(trace for trace, _ in rate))
    beside = {key: value / rate[key[0], VLLM] for key, value in rate.items() if key[1] != VLLM}
    ahead = [f"{system} on {trace}" for (trace, system), ratio in beside.items() if ratio >= 1]
    prefill, decode = "DistServe-2P1D", "DistServe-1P2D"
    worse = [trace for trace in names if rate[trace, prefill] < rate[trace, decode]]
    ratios = ", ".join(f"{t} {rate[t, prefill] / rate[t, decode]:.2f}×" for t in names)
    return [
        sign(
            "fig08-below",
            not ahead,
            f"{min(beside.values()):.2f} … {max(beside.values()):.2f} of vLLM",
            f"not below: {', '.join(ahead)}" if ahead else "below in all",
        ),
        sign(
            "fig08-prefill",
            len(worse) == len(names),
            f"2P1D over 1P2D: {ratios}",
            f"so on {len(worse)} of {len(names)} workloads",
        ),
    ]
