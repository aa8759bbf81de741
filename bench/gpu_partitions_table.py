"""The table of gpu_partitions.py, from what it wrote: rates relative to the whole chip's.

python bench/gpu_partitions_table.py gpu-partitions.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from machine import row

Found = list[dict[str, Any]]
_TERA = 1e12


def table(found: Found, chip: int) -> list[str]:
    """Markdown tables, one after another."""
    return [*_gemms(found, chip), "", *_decodes(found), "", *_skewed(found), "", *_pairs(found)]


def _of(found: Found, what: str) -> Found:
    return [f for f in found if f["what"] == what]


def _gemms(found: Found, chip: int) -> list[str]:
    """A layer's four GEMMs, cuBLAS on the whole chip as 1."""
    gemms = _of(found, "gemm")
    ways = list(dict.fromkeys(f["by"] for f in gemms))
    lines = [row("GEMM tokens", "SMs", "of the chip", *ways), row(*["---"] * (3 + len(ways)))]
    for tokens in dict.fromkeys(f["tokens"] for f in gemms):
        whole = _sum(gemms, tokens, chip, "cuBLAS")
        for sms in sorted({f["sms"] for f in gemms}, reverse=True):
            times = [_sum(gemms, tokens, sms, by) for by in ways]
            rates = [f"{whole / t:.2f}" if t else "" for t in times]
            lines.append(row(f"{tokens:,}", str(sms), f"{sms / chip:.2f}", *rates))
    return lines


def _sum(gemms: Found, tokens: int, sms: int, by: str) -> float:
    chosen = (f for f in gemms if (f["tokens"], f["sms"], f["by"]) == (tokens, sms, by))
    return float(sum(f["seconds"] for f in chosen))


def _decodes(found: Found) -> list[str]:
    """Decode attention, the whole chip as 1."""
    decodes = _of(found, "decode")
    sizes = list(dict.fromkeys((f["batch"], f["context"]) for f in decodes))
    head = [f"{batch} decodes at {context:,}" for batch, context in sizes]
    lines = [row("attention's SMs", *head), row(*["---"] * (1 + len(sizes)))]
    times = {(f["batch"], f["context"], f["sms"]): f["seconds"] for f in decodes}
    chip = max(f["sms"] for f in decodes)
    for sms in sorted({f["sms"] for f in decodes}):
        rates = [f"{times[*size, chip] / times[*size, sms]:.2f}" for size in sizes]
        lines.append(row(str(sms), *rates))
    return lines


def _skewed(found: Found) -> list[str]:
    """Bytes of KV a second, by how contexts are cut."""
    worlds = _of(found, "skewed")
    chunks = list(dict.fromkeys(f["chunk"] for f in worlds))
    names = {chunk: f"{chunk:,} tokens" for chunk in chunks if chunk}
    names |= {0: "FlashInfer's own", None: "ours"}
    head = [names[chunk] for chunk in chunks]
    lines = [row("TB/s, contexts cut by", *head), row(*["---"] * (1 + len(chunks)))]
    for world in dict.fromkeys(f["world"] for f in worlds):
        rates = {
            f["chunk"]: f["bytes"] / f["seconds"] / _TERA for f in worlds if f["world"] == world
        }
        lines.append(row(world, *(f"{rates[chunk]:.2f}" for chunk in chunks)))
    return lines


def _pairs(found: Found) -> list[str]:
    """What running both together buys, over one after the other."""
    pairs = _of(found, "pair")
    ways = list(dict.fromkeys(f["by"] for f in pairs))
    head = [
        "tokens",
        "decodes",
        "memory/compute",
        "attention's SMs",
        *(f"{by}, gain" for by in ways),
    ]
    lines = [row(*head), row(*["---"] * len(head))]
    gains: dict[tuple[Any, ...], dict[str, float]] = {}
    for f in pairs:
        ratio = f"{f['memory'] / f['compute']:.2f}"
        size = (f"{f['tokens']:,}", f"{f['batch']} at {f['context']:,}", ratio, f["share"])
        gain = (f["compute"] + f["memory"]) / f["seconds"]
        gains.setdefault(size, {})[f["by"]] = gain
    for (*size, share), by in gains.items():
        told = [f"{by[way]:.3f}" if way in by else "" for way in ways]
        lines.append(row(*size, str(share) if share else "two plain streams", *told))
    return lines


if __name__ == "__main__":
    results: Found = json.loads(Path(sys.argv[1]).read_text())
    print(*table(results, max(f["sms"] for f in results if f["what"] == "decode")), sep="\n")
