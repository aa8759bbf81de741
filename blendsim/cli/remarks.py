"""What commands that plan or run a plan note beside its figures, and Python is not told
(search/caveats.py has the rest): which given lengths planning looked at, what servers take.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blendsim.cli import options as o
from blendsim.cli.remedies import SIZES
from blendsim.formats import BF16, FP8
from blendsim.wording import BETTER, Lacking, counted

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.plan import Plan
    from blendsim.report.metrics import Row
    from blendsim.request import Workload
    from blendsim.settings import Settings
    from blendsim.steplog import StepLog

VLLM = "vllm"
RUN_BATCH_URL = "/v1/chat/completions"  # of requests that generate text, all it takes
SCARCE = 0.1  # of a replica's memory: less for KV is told whatever the engine
#: Seconds that our own host needs for a step: with 32 decodes or fewer of a model of 16 layers they
#: began 4.3 ms apart on an H200's machine, where the GPU took 2.3 (docs/validation.md).
HOST_STEP = 4e-3
LONG_READ = 20.0  # seconds of reading prompts after which keeping them is worth a word


def fed_in_order(plan: "Plan") -> list[str]:
    """A note where the lines of `plan`, which is taken from both ends, are written in one order."""
    from blendsim.search.caveats import has_two_ends

    if not has_two_ends(plan):
        return []
    return [
        "the plan is taken from both ends: fed in this order an engine that schedules by itself, "
        "as vLLM and SGLang do, may be slower than in prefix order; export a plan of "
        "--planner dfs for it"
    ]


def beyond_run_batch(settings: "Settings", urls: Sequence[str]) -> list[str]:
    """A note for vLLM where some of the lines that are written go to `urls` that its `run-batch`
    does not take (0.20.2, run_batch.py: a URL that is not in its list gets an error for an answer,
    if its body can be read at all).
    """
    from blendsim.serving.flavour import VLLM_PLANNED

    others = [url for url in urls if url != RUN_BATCH_URL]
    if not others or settings.engine not in (VLLM, VLLM_PLANNED):
        return []
    named = " or ".join(sorted({url or "no url at all" for url in others}))
    return [
        f"`vllm run-batch` (as of 0.20.2) takes lines for {RUN_BATCH_URL} alone, and of "
        f"{counted(len(urls), 'line')} {len(others):,} {'is' if len(others) == 1 else 'are'} for "
        f"{named}: start `vllm serve` and send it all of them, or write prompts as chats before "
        "planning"
    ]


def guessed_once(asked: o.Asked, pool: "Workload", notes: Sequence[str]) -> list[str]:
    """The notes with a single one on lengths that the trace does not have, whose order and times
    were guessed when the plan was made. Reading and estimating say so a trace and once more.
    """
    lacking = int((~pool.has_output).sum())
    if not lacking:
        return list(notes)
    kept = [note for note in notes if not isinstance(note, Lacking)]
    better = "" if asked.read.lengths else f"; in `plan` {BETTER}"
    have, whose = ("has", "its") if lacking == 1 else ("have", "their")
    return [
        *kept,
        f"{lacking:,} of {counted(len(pool), 'request')} {have} no output length, so that "
        f"{whose} order and times are the plan's guess{better}",
    ]


def memory_told(settings: "Settings") -> list[str]:
    """A note on a replica's memory for engines that people run, which tell theirs at their start,
    and for all where little is left of it.
    """
    system = settings.system
    tokens = system.kv_blocks * system.block_tokens
    has = (
        f"a replica has {system.kv_capacity_bytes / 1e9:,.1f} GB of KV memory, {tokens:,} tokens, "
        f"beside {system.weight_bytes / 1e9:,.1f} GB of weights"
    )
    if system.model.delta_heads:
        held = system.window_blocks * system.block_tokens
        has += f", a running request's states as much as {held:,} tokens"
    memory = system.gpu.memory_bytes * system.gpus
    is_scarce = settings.kv_bytes is None and system.kv_capacity_bytes < SCARCE * memory
    if is_scarce:
        has += ", so that few requests run at once; use a --gpu with more memory"
        if system.tp < SIZES[-1]:
            has += ", or a larger --tp"
        if system.model.kv == BF16 and system.gpu.fp8_flops:
            has += f", or --kv-cache-dtype {FP8}"
    if not settings.flavour().overlaps:
        return [
            f"{has}; where the server says otherwise at its start, give its bytes as kv_bytes in "
            "--config's [settings]"
        ]
    return [has] if is_scarce else []


def hurried(log: "StepLog") -> list[str]:
    """A note where most of a run's seconds are steps so short that a host may not have the next one
    ready in time, which kernels do not tell.
    """
    seconds = log.time("seconds")
    short = float(seconds[seconds < HOST_STEP].sum() / max(seconds.sum(), 1e-12))
    if short < 0.5:
        return []
    return [
        f"{short:.0%} of the predicted time goes to steps of less than {1e3 * HOST_STEP:.0f} ms. "
        "Our own runtime’s host takes that long to prepare one (docs/validation.md), and kernels "
        "do not tell it, so that a run may take longer than predicted: `blendsim profile "
        "calibrate` finds by how much in the log of a run of yours"
    ]


def not_yours(settings: "Settings") -> list[str]:
    """A note where seconds are of an engine that overlaps, which those that people run do not."""
    if not settings.flavour().overlaps:
        return []
    return [
        f"these are times of {settings.engine}, which runs compute beside memory reads; vLLM and "
        "SGLang do not and take longer: --engine vllm or --engine sglang plans for them"
    ]


def best_served(rows: "Sequence[Row]", best: "Row") -> list[str]:
    """A note where the best of several systems overlaps, which those that people run do not: which
    of the others is best.
    """
    from blendsim.serving.flavour import find_flavour

    others = [row for row in rows if not find_flavour(row.engine).overlaps]
    if best in others or not others:
        return []
    own = max(others, key=lambda row: row.tokens_per_second_per_gpu)
    times = best.tokens_per_second_per_gpu / own.tokens_per_second_per_gpu
    return [
        f"{best.engine} runs compute beside memory reads, which vLLM and SGLang do not; of systems "
        f"without that {own.policy} is the best, and {best.policy} is {times:.2f} times as fast as "
        "it"
    ]


def saving_told(asked: o.Asked, seconds: float) -> str | None:
    """How not to make tokens again, where reading took long for them."""
    if asked.read.tokenizer is None or seconds < LONG_READ:
        return None
    trace = asked.traces[0] if len(asked.traces) == 1 else "FILE"
    return (
        f"making tokens of prompts took {seconds:,.0f} s; `blendsim trace save {trace} --tokenizer "
        f"{asked.read.tokenizer} -o pool.parquet` keeps them for --trace pool.parquet"
    )


def unseen(asked: o.Asked, pool: "Workload", plan: "Plan | None") -> list[str]:
    """A note where an earlier run's lengths are given: how many planning looked at."""
    if asked.read.lengths is None:
        return []
    given = int((pool.has_output & ~pool.is_known).sum())
    if asked.read.rest and not given:  # reading tells of those that are answered
        return []
    again = ""
    if given < len(pool) and len(asked.traces) == 1 and not asked.read.rest:
        again = (
            f"; {given:,} requests that are answered are planned again, like the others: --rest "
            "plans what is left"
        )
    if asked.settings.sample == 1.0:
        return [
            f"with --lengths planning looks at all {given:,} output lengths that are given, those "
            f"of other traces too; --sample SHARE hides those that are not sampled{again}"
        ]
    if plan is None:
        return []
    import numpy as np

    seen = np.zeros(len(pool), np.bool_)
    seen[plan.order] = plan.is_visible
    looked = int((pool.has_output & ~pool.is_known & seen).sum())
    if looked == given:
        return []
    return [
        f"of the {given:,} output lengths that are given planning looked at {looked:,}, as if the "
        "others were still to be answered; --sample 1 plans by all of them"
    ]
