"""Built-in sources, `demo:NAME` or `demo:NAME?n=REQUESTS`: seeded generators that need no download.

Five are drawn from summary statistics of public traces, four from lognormal models that were solved
to published densities (synthetic parameters, no data); `mixed` pools three sources so that the
order of requests matters.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from blendsim.errors import InputError, UnknownName
from blendsim.request import Workload, from_lengths, pool
from blendsim.traces import demo_tables as tables
from blendsim.traces.demo_prefixes import mmlu_prompts, mooncake_prompts
from blendsim.traces.length_table import LengthTable, Lognormal

_SOLVED = "lengths are a lognormal model solved to a published density: synthetic, not data"
_MOST_REQUESTS = 10_000_000

# Medians and deviations solved to BlendServe's Table 4 (doi 10.1145/3779212.3790133).
BURSTGPT = Lognormal(158, 1.0, (1, 8192), 15.4, 1.3142, (1, 4096))
WILDCHAT = Lognormal(57, 1.65, (1, 8192), 152.0, 1.0281, (1, 4096))
# A video's tokens are frames × 256. The clip leaves room for the prompt in 128 Ki of context.
OPENVID = Lognormal(130, 0.35, (16, 512), 11531.93, 0.8473, (256, 130560), output_step=256)
# The same with a quarter of the frames, so that a pool of ordinary size holds many of them.
CLIPS = Lognormal(130, 0.35, (16, 512), 11531.93 / 4, 0.8473, (256, 32512), output_step=256)

Maker = Callable[[int, np.random.Generator], Workload]


class DemoSource(NamedTuple):
    """One built-in source."""

    requests: int  # unless the name says `?n=`
    about: str
    make: Maker


def demo(name: str, seed: int) -> Workload:
    """The source `name` (without `demo:`) with its default or asked number of requests."""
    source_name, _, query = name.partition("?")
    if source_name not in DEMOS:
        raise UnknownName("demo source", source_name, DEMOS)
    if seed < 0:
        raise InputError(f"demo:{name}: seed {seed} is negative; give 0 or more")
    source = DEMOS[source_name]
    requests = _requests(name, query) if query else source.requests
    # The name is part of the seed, so that sources pooled under one seed are independent.
    rng = np.random.default_rng([seed, crc32(source_name.encode())])
    return replace(source.make(requests, rng), origin=(f"demo:{name}",))


def _requests(name: str, query: str) -> int:
    key, _, value = query.partition("=")
    if key != "n" or not value.isascii() or not value.isdigit():
        raise InputError(
            f"demo:{name}: only ?n=REQUESTS may follow the name, as in demo:mmlu?n=500"
        )
    if not 1 <= int(value) <= _MOST_REQUESTS:
        raise InputError(f"demo:{name}: n must lie between 1 and {_MOST_REQUESTS:,}")
    return int(value)


def _of_table(name: str, table: LengthTable, rate: float | None) -> Maker:
    """Requests of a length table that share nothing, arriving evenly spread at `rate` a second."""

    def make(n: int, rng: np.random.Generator) -> Workload:
        lengths = table.sample(n, rng)
        arrival = np.zeros(n) if rate is None else np.sort(rng.random(n)) * (n / rate)
        return from_lengths(
            lengths.prompt, lengths.output, source=name, arrival=arrival - arrival.min()
        )

    return make


def _of_model(name: str, model: Lognormal, is_known: bool = False) -> Maker:
    def make(n: int, rng: np.random.Generator) -> Workload:
        lengths = model.sample(n, rng)
        return from_lengths(
            lengths.prompt,
            lengths.output,
            source=name,
            is_known=is_known,
            notes=(f"demo:{name}: {_SOLVED}",),
        )

    return make


def _mooncake(n: int, rng: np.random.Generator) -> Workload:
    lengths = tables.MOONCAKE.sample(n, rng)
    prompts = mooncake_prompts(lengths.prompt, lengths.level, rng)
    return from_lengths(lengths.prompt, lengths.output, source="mooncake", prompts=prompts)


def _mmlu(n: int, rng: np.random.Generator) -> Workload:
    prompts = mmlu_prompts(n, rng)
    lengths = np.diff(prompts.offsets)
    return from_lengths(lengths, np.full(n, 2, np.int64), source="mmlu", prompts=prompts)


def _mixed(n: int, rng: np.random.Generator) -> Workload:
    """Compute-heavy code completion, memory-heavy clips and prefix-sharing questions."""
    code, clips = round(n * 0.324), round(n * 0.036)
    makers = (
        (_of_table("azure-code", tables.AZURE_CODE, None), code),
        (_of_model("clips", CLIPS, is_known=True), clips),
        (_mmlu, n - code - clips),
    )
    streams = rng.spawn(len(makers))
    parts = zip(makers, streams, strict=True)
    return pool([make(share, stream) for (make, share), stream in parts if share])


DEMOS: dict[str, DemoSource] = {
    "mixed": DemoSource(
        16000, "azure-code, clips and mmlu in one pool: where order matters", _mixed
    ),
    "azure-code": DemoSource(
        8819,
        "code completion, compute-heavy; fitted to Azure 2023",
        _of_table("azure-code", tables.AZURE_CODE, 2.567),
    ),
    "azure-conv": DemoSource(
        19366,
        "conversation; fitted to Azure 2023",
        _of_table("azure-conv", tables.AZURE_CONV, 5.53),
    ),
    "sharegpt": DemoSource(
        20000,
        "short prompts, long answers; fitted to ShareGPT first turns",
        _of_table("sharegpt", tables.SHAREGPT, None),
    ),
    "mooncake": DemoSource(
        3993,
        "long prompts as 512-token block hashes; fitted to Mooncake's synthetic trace",
        _mooncake,
    ),
    "mmlu": DemoSource(
        14042,
        "5-shot questions as tokens, 57 shared prefixes, 2 output tokens; fitted to MMLU",
        _mmlu,
    ),
    "burstgpt": DemoSource(
        20000,
        "compute-heavy chat and API calls; model",
        _of_model("burstgpt", BURSTGPT),
    ),
    "wildchat": DemoSource(20000, "chat with long answers; model", _of_model("wildchat", WILDCHAT)),
    "openvid": DemoSource(
        1000,
        "video generation, known lengths, memory-heavy; model",
        _of_model("openvid", OPENVID, is_known=True),
    ),
    "clips": DemoSource(
        1000,
        "openvid with a quarter of the frames; model",
        _of_model("clips", CLIPS, is_known=True),
    ),
}
