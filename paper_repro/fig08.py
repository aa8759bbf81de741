"""Figure 8: prefill and decode on GPUs of their own, by tokens/s a GPU, at 2,048 tokens a step."""

from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.runs import COMMON, compared, traces
from paper_repro.systems import POOLS, VLLM
from paper_repro.table import Table


def parts(lab: Lab) -> list[Part]:
    """A part a trace and topology, that of the first with vLLM's run."""
    topologies = POOLS[:3] if lab.quick else POOLS
    groups = [(VLLM, topologies[0]), *((name,) for name in topologies[1:])]
    return [Part("fig08", (trace, *group)) for trace in traces(lab, 1) for group in groups]


def part(lab: Lab, trace: str, *names: str) -> Table:
    """A row a system."""
    return compared(lab, trace, names, own_best=False)


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a trace and system."""
    return {"runs": take_all(lab, parts(lab))}


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
