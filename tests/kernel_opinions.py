"""Second opinions on the A100 and H200 profiles: Vidur's measured kernels, the paper's Table 1, the
source package's own answers. Figures lie beside the checkout and are not part of it.

`python tests/kernel_opinions.py` prints the tables of docs/profiles.md.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.perf.derive import OPERATORS
from blendsim.perf.grids import along
from blendsim.perf.kernels import dense_seconds, memory_seconds
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.store import load_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

KERNELS = Path(__file__).resolve().parents[1].parent / "shared" / "kernels"
_GEMMS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
_SMALL = ("input_layernorm", "attn_rope", "post_attention_layernorm", "mlp_act", "add")
#: Table 1 of the paper (A100, Llama-3.1-8B), measured ms a layer: batch, GEMM, and decode attention
#: at a context of 1,024.
TABLE_1 = ((512, 1.087, 1.317), (768, 1.537, 1.913), (1024, 2.005, 2.515))
REDUCE_FILES = (
    ("a100-80g", "a100_dgx_all_reduce.csv.gz"),
    ("h100", "h100_dgx_all_reduce.csv.gz"),
)
SIZES = ((1, 64), (128, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 32768))


class Errors(NamedTuple):
    """Relative errors of one group of points, ours / theirs − 1."""

    name: str
    values: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(np.abs(self.values)))

    @property
    def largest(self) -> float:
        return float(np.max(np.abs(self.values)))

    @property
    def bias(self) -> float:
        return float(np.median(self.values))


def model_of(name: str, gpu: str, tp: int = 1) -> StepModel:
    return step_model(System(find_model(name), find_gpu(gpu), tp), "table")


def vidur_layers(size: str, tp: int) -> dict[int, tuple[float, float]]:
    """Tokens → ms a layer of (GEMMs, small operators), medians of Vidur's A100 rows."""
    rows: dict[int, list[tuple[float, float]]] = {}
    path = KERNELS / "vidur" / f"a100_Meta-Llama-3-{size}_mlp.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["num_tensor_parallel_workers"]) == tp:
                sums = [
                    sum(float(row[f"time_stats.{name}.median"] or 0) for name in group)
                    for group in (_GEMMS, _SMALL)
                ]
                rows.setdefault(int(row["num_tokens"]), []).append((sums[0], sums[1]))
    return {n: tuple(np.median(values, axis=0).tolist()) for n, values in sorted(rows.items())}


def layer_errors(size: str, tp: int) -> list[Errors]:
    """GEMMs with small operators against Vidur, by ranges of tokens a step."""
    model = model_of(f"llama-3.1-{size.lower()}", "a100-80g", tp)
    layers = model.system.model.layers
    ours = {
        n: dense_seconds(model.layer_seconds, n) / layers * 1e3
        for n in vidur_layers(size, tp)
        if n < len(model.layer_seconds)
    }
    theirs = vidur_layers(size, tp)
    groups = []
    for first, last in SIZES:
        values = [ours[n] / sum(theirs[n]) - 1 for n in ours if first <= n <= last]
        groups.append(Errors(f"{first:,}" if first == last else f"{first:,}–{last:,}", values))
    return [Errors(name, np.array(values)) for name, values in groups]


def attention_errors() -> list[Errors]:
    """Decode attention against Vidur's 43 rows (FlashInfer): small reads, large ones, all."""
    model = model_of("llama-3.1-8b", "a100-80g")
    path = KERNELS / "vidur" / "a100_Llama-3-8B_decode_attention_anchors.csv"
    rows = [line.split(",") for line in path.read_text().splitlines() if line[0].isdigit()]
    values, size = [], []
    for batch, context, ms in rows:
        tokens = int(batch) * int(context)
        ours = memory_seconds(model.tables, int(batch), tokens) / model.system.model.layers
        values.append(ours * 1e3 / float(ms) - 1)
        size.append(tokens * 4096)
    error, read = np.array(values), np.array(size)
    return [
        Errors("below 50 MB", error[read < 50e6]),
        Errors("50–200 MB", error[(read >= 50e6) & (read < 200e6)]),
        Errors("above 200 MB", error[read >= 200e6]),
        Errors("all 43", error),
    ]


def table_1_errors() -> Iterator[tuple[int, float, float]]:
    """(batch, GEMM with small operators, attention) errors against the paper's measurements."""
    model = model_of("llama-3.1-8b", "a100-80g")
    layers = model.system.model.layers
    for batch, gemm, attention in TABLE_1:
        ours = model.layer_seconds[batch] / layers * 1e3
        read = memory_seconds(model.tables, batch, batch * 1024) / layers * 1e3
        yield batch, float(ours / gemm - 1), float(read / attention - 1)


def reduce_errors(gpu: str, file: str) -> list[Errors]:
    """All-reduce on 8 GPUs against Vidur's rows (NCCL), by message size."""
    times: dict[int, list[float]] = {}
    with gzip.open(KERNELS / "vidur" / file, "rt", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["num_workers"] == "8" and row["devices_per_node"] == "8":
                size = int(float(row["size"]))
                times.setdefault(size, []).append(float(row["time_stats.all_reduce.median"]))
    profile = load_profile(find_gpu(gpu), find_model("llama-3.1-70b"), 8)
    assert profile.reduce is not None
    groups = []
    for name, low, high in (("below 1 MiB", 0, 20), ("1–8 MiB", 20, 23), ("8–64 MiB", 23, 26)):
        sizes = np.array(sorted(s for s in times if 1 << low <= s <= 1 << high), np.float64)
        theirs = np.array([np.median(times[int(s)]) for s in sizes])
        ours = along(profile.reduce.sizes, profile.reduce.seconds, sizes) * 1e3
        groups.append(Errors(name, ours / theirs - 1))
    return groups


def package_errors(device: str, gpu: str) -> Iterator[tuple[str, bool, float]]:
    """(kernel, is measured, error) of every GEMM and decode-attention answer of the source package
    for Llama-3.1-8B, vLLM backend.
    """
    model = model_of("llama-3.1-8b", gpu)
    profile = load_profile(model.system.gpu, model.system.model)
    with (KERNELS / "aic_llama31_8b_kernels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["device"] != device or row["backend"] != "vllm":
                continue
            if row["kind"] == "gemm":
                name = "head" if row["op"] == "lm_head" else row["op"]
                column = profile.gemm[:, OPERATORS.index(name)]
                ours = float(along(profile.tokens, column, np.array([int(row["m"])]))[0])
            elif row["kind"] == "decode_attention":
                name, batch = "decode attention", int(row["batch"])
                read = memory_seconds(model.tables, batch, batch * int(row["ctx"]))
                ours = read / model.system.model.layers
            else:
                continue
            theirs = float(row["raw_us"] or row["latency_us"])
            yield name, bool(row["raw_us"]), ours * 1e6 / theirs - 1


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _share(value: float) -> str:
    return f"{100 * value:+.1f} %"


def tables() -> str:
    """The Markdown tables of docs/profiles.md."""
    lines = ["**One layer, GEMMs and small operators, against Vidur (A100).**", ""]
    lines += [_line("tokens a step", "model", "points", "median error", "largest", "bias")]
    lines += [_line(*["---"] * 6)]
    for size, tp in (("8B", 1), ("70B", 8)):
        for e in layer_errors(size, tp):
            lines.append(
                _line(
                    e.name,
                    f"{size} TP{tp}",
                    len(e.values),
                    f"{100 * e.median:.1f} %",
                    f"{100 * e.largest:.1f} %",
                    _share(e.bias),
                )
            )
    lines += ["", "**Decode attention, one layer of 8B, against Vidur's rows (A100, FlashInfer).**"]
    lines += ["", _line("KV read", "rows", "median error", "largest", "bias"), _line(*["---"] * 5)]
    for e in attention_errors():
        median, largest = f"{100 * e.median:.1f} %", f"{100 * e.largest:.1f} %"
        lines.append(_line(e.name, len(e.values), median, largest, _share(e.bias)))
    lines += ["", "**The paper's Table 1 (A100, Llama-3.1-8B, its measurements).**", ""]
    lines += [_line("batch", "GEMM with small operators", "decode attention at 1,024")]
    lines += [_line(*["---"] * 3)]
    lines += [_line(f"{b:,}", _share(g), _share(a)) for b, g, a in table_1_errors()]
    lines += ["", "**All-reduce on 8 GPUs against Vidur (NCCL).**", ""]
    lines += [_line("GPU", "message", "points", "median error", "largest", "bias")]
    lines += [_line(*["---"] * 6)]
    for gpu, file in REDUCE_FILES:
        for e in reduce_errors(gpu, file):
            median, largest = f"{100 * e.median:.1f} %", f"{100 * e.largest:.1f} %"
            lines.append(_line(gpu, e.name, len(e.values), median, largest, _share(e.bias)))
    lines += ["", "**The source package's own answers, Llama-3.1-8B.**", ""]
    lines += [_line("GPU", "kernel", "its answer", "rows", "median difference", "largest")]
    lines += [_line(*["---"] * 6)]
    for device, gpu in (("a100_sxm", "a100-80g"), ("h200_sxm", "h200")):
        groups: dict[tuple[str, bool], list[float]] = {}
        for name, is_measured, error in package_errors(device, gpu):
            groups.setdefault((name, is_measured), []).append(error)
        for (name, is_measured), values in sorted(groups.items()):
            e = Errors(name, np.array(values))
            how = "measured" if is_measured else "interpolated"
            median, largest = f"{100 * e.median:.1f} %", f"{100 * e.largest:.1f} %"
            lines.append(_line(gpu, name, how, len(values), median, largest))
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
