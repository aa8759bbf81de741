"""Tables of a run's kernels: which machine, whether answers are right, kernels beside others'
figures, and the step model's two rules beside what was measured.
"""

import json
from collections.abc import Iterator, Mapping

import numpy as np
from evidence_runs import ROWS, Run, bins_of, profile_of
from gpu_kernels import Verdict, compare, of_profile
from machine import row

from blendsim.arrays import Floats
from blendsim.perf.derive import OPERATORS
from blendsim.perf.grids import along
from blendsim.perf.kernels import prefill_seconds
from blendsim.perf.model import step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.profile import Profile
from blendsim.perf.records import MICRO, column, read_rows
from blendsim.perf.store import load_profile, read_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

FACTS = ("device", "driver_version", "cuda", "torch", "python", "power.limit", "clocks.max.sm")
_TOKEN_EDGES = (1, 128, 512, 1024, 2048, 4096, 1 << 20)
_KV_EDGES = (1, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 30)


def machine_table(runs: list[Run]) -> Iterator[str]:
    """Where and when each run was."""
    yield row("run", "date", "GPU", "driver", "CUDA", "torch", "Python", "W", "MHz at most", "by")
    yield row(*["---"] * 10)
    for run in runs:
        facts = {found["what"]: found["value"] for found in run.findings("build")}
        cells = [facts.get(name, "") for name in FACTS]
        meta = _meta_of(run)
        yield row(run.name, facts.get("date", meta["dates"]), *cells, meta["backend"])


def _meta_of(run: Run) -> Mapping[str, str]:
    """Of the profile that a run's replays are priced by; empty where it has neither."""
    if not run.has_profile and not run.replays:
        return {"dates": "", "backend": ""}
    place = run.profile if run.has_profile else profile_of(run.place, run.replays[0].log)
    return read_profile(place).meta


def correctness_table(runs: list[Run]) -> Iterator[str]:
    """Errors of attention and executors against float32."""
    yield row("run", "what", "error", "")
    yield row(*["---"] * 4)
    for run in runs:
        for stage in ("attention", "executors"):
            for found in run.findings(stage):
                if "error" in found["what"]:
                    judged = {True: "ok", False: "WRONG", None: "the measure"}[found["ok"]]
                    yield row(
                        run.name, found["what"].removesuffix(", error"), found["value"], judged
                    )


def launching_table(runs: list[Run]) -> Iterator[str]:
    """Steps of decodes alone, launched kernel by kernel and as graphs."""
    yield row("run", "what", "found")
    yield row(*["---"] * 3)
    for run in runs:
        for found in run.findings("graphs"):
            yield row(run.name, found["what"], found["value"])


def _imported(profile: Profile) -> Profile:
    return load_profile(find_gpu(profile.gpu), find_model(profile.model), profile.tp)


def verdict_table(runs: list[Run]) -> Iterator[str]:
    """Measured kernels over the imported profile's, and over rows of the same source."""
    yield row("run", "beside", "kernel", "sizes", "median ratio", "least", "most", "within 10 %")
    yield row(*["---"] * 8)
    for run in runs:
        mine = read_profile(run.profile)
        told = {"imported profile": compare(mine, of_profile(_imported(mine)))}
        path = run.place / ROWS
        if path.exists():
            rows = json.loads(path.read_text())["verdicts"]
            told["separate rows"] = [Verdict(**verdict) for verdict in rows]
        for beside, verdicts in told.items():
            for v in verdicts:
                ratios = (f"{x:.2f}" for x in v[2:])
                yield row(
                    run.name, beside, v.kernel, str(v.points), *ratios, "yes" if v.is_near else "no"
                )


def gemm_table(run: Run) -> Iterator[str]:
    """GEMMs by size: measured over imported, and how much of the chip's peak they reach."""
    mine = read_profile(run.profile)
    theirs, gpu, model = _imported(mine), find_gpu(mine.gpu), find_model(mine.model)
    shapes = _flops_a_token(model.hidden, mine.shape)
    yield row("tokens", "sizes", *OPERATORS, "peak reached, measured", "peak reached, imported")
    yield row(*["---"] * 9)
    known = mine.tokens.astype(np.float64)
    other = np.column_stack([along(theirs.tokens, c, known) for c in theirs.gemm.T])
    for name, is_here in bins_of(mine.tokens, _TOKEN_EDGES):
        ratio = np.median(mine.gemm[is_here] / other[is_here], axis=0)
        work = known[is_here] * sum(shapes[:4])
        reached = [work / g[is_here, :4].sum(axis=1) / gpu.flops for g in (mine.gemm, other)]
        yield row(
            name,
            str(int(is_here.sum())),
            *(f"{x:.2f}" for x in ratio),
            *(f"{np.median(x):.0%}" for x in reached),
        )


def _flops_a_token(hidden: int, shape: object) -> list[float]:
    sizes = dict(shape)  # type: ignore[call-overload]
    width, kv = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    wide = sizes["intermediate"]
    counts = (width + 2 * kv, width, 2 * wide, wide, sizes["vocab"])
    return [2.0 * hidden * count for count in counts]


def decode_table(run: Run) -> Iterator[str]:
    """Decode attention by KV read: measured over imported, and the memory's speed it reaches."""
    mine = read_profile(run.profile)
    theirs = _imported(mine)
    token_bytes = 4 * mine.shape["kv_heads"] * mine.shape["head_dim"]
    points: list[tuple[float, float, float]] = []
    for batch, times in zip(mine.decode.batches, mine.decode.seconds, strict=True):
        for context, seconds in zip(mine.decode.lengths, times, strict=True):
            if np.isfinite(seconds):
                points.append((batch * context, seconds, _at(theirs, batch, context)))
    tokens, own, other = (np.array(values) for values in zip(*points, strict=True))
    yield row("KV tokens read", "sizes", "both", "median ratio", "TB/s, measured")
    yield row(*["---"] * 5)
    for name, is_here in bins_of(tokens, _KV_EDGES):
        ratio = (own / other)[is_here]
        speed = np.median((tokens * token_bytes / own)[is_here]) / 1e12
        both = int(np.isfinite(ratio).sum())
        told = f"{np.nanmedian(ratio):.2f}" if both else ""
        yield row(name, str(int(is_here.sum())), str(both), told, f"{speed:.2f}")


def _at(profile: Profile, batch: float, context: float) -> float:
    """What a profile measured at that very point, else NaN."""
    grid = profile.decode
    i, j = np.flatnonzero(grid.batches == batch), np.flatnonzero(grid.lengths == context)
    return float(grid.seconds[i[0], j[0]]) if len(i) and len(j) else float("nan")


def skew_table(runs: list[Run]) -> Iterator[str]:
    """Decodes of lognormal contexts, which the step model takes at their mean."""
    yield row("run", "requests", "mean context", "longest", "alike, µs", "skewed, µs", "ratio")
    yield row(*["---"] * 7)
    for run in runs:
        for line in _small(run, "decode_skewed.csv"):
            sizes = [f"{x:,.0f}" for x in line[:3]]
            times = [f"{x:.0f}" for x in line[3:5]]
            yield row(run.name, *sizes, *times, f"{line[4] / line[3]:.2f}")


def chunk_table(runs: list[Run]) -> Iterator[str]:
    """Prefill chunks behind computed tokens: the step model's rule beside the measured time."""
    yield row("run", "tokens", "computed before", "measured, µs", "by the rule, µs", "error")
    yield row(*["---"] * 6)
    for run in runs:
        mine = read_profile(run.profile)
        model = find_model(mine.model)
        tables = step_model(System(model, find_gpu(mine.gpu)), SUM, mine).tables
        for tokens, computed, measured in _small(run, "prefill_chunks.csv"):
            pairs = int(tokens * computed + tokens * (tokens + 1) // 2)
            ruled = prefill_seconds(tables, int(tokens), 1, pairs) / model.layers / MICRO
            cells = (f"{tokens:,.0f}", f"{computed:,.0f}", f"{measured:.0f}", f"{ruled:.0f}")
            yield row(run.name, *cells, f"{ruled / measured - 1.0:+.0%}")


def _small(run: Run, name: str) -> Floats:
    """A small table of the measured profile, empty where it was not measured."""
    path = run.profile / name
    if not path.exists():
        return np.empty((0, 5))
    header, rows = read_rows(path, [])
    return np.column_stack([column(path, rows, i) for i in range(len(header))])
