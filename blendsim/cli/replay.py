"""`blendsim replay PLAN`: run a plan's steps on a real runtime and time them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim import __version__
from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_tables
from blendsim.cli.planned import naming_files, read_planned
from blendsim.cli.progress import Progress
from blendsim.live.engine import Engine
from blendsim.live.replaying import Executor, ReadyReplay, Wish, prepare

if TYPE_CHECKING:
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.steplog import StepLog


def replay(
    plan: Annotated[Path, typer.Argument(help="A plan that `blendsim plan -o` wrote.")] = Path(
        "plan.parquet"
    ),
    workload: Annotated[
        Path | None,
        typer.Option(help="The workload, if not the traces that the plan remembers."),
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Run on this machine's GPU, else on the CPU.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(case_sensitive=False, help="What runs the steps.")
    ] = Engine.BLENDRT,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|tiny", help="A Hugging Face directory, or a small random model for a CPU."
        ),
    ] = None,
    sampled: Annotated[
        int | None, typer.Option(metavar="N", help="Measure N of the steps, estimate the others.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Run every step, as by itself.")] = False,
    executor: Annotated[
        Executor | None,
        typer.Option(help="By itself what the plan's engine does on a GPU, else sequential."),
    ] = None,
    plain: o.Plain = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the step log here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Run a plan on a GPU, or its schedule on the CPU with a tiny model, and time its steps."""
    with Progress(is_whole_run=True) as say:
        from blendsim.errors import InputError
        from blendsim.files import sha256
        from blendsim.plan import require_same_workload
        from blendsim.settings import model_kept

        made, asked = read_planned(plan, workload)
        if full and sampled is not None:
            raise InputError("--full runs every step, --sampled some; give one of the two")
        wish = Wish(gpu, engine, model, sampled, executor, plain)
        wish.check()
        require_tables([output], [plan, *asked.inputs])
        say(asked.reading)
        pool = asked.load(say)
        with naming_files(asked):
            require_same_workload(made, pool)
        ready = prepare(made, pool, asked.settings, wish, say)
        settings = {"plan_sha256": sha256(plan), "settings": asdict(asked.settings)}
        meta = {"policy": made.policy, **ready.facts, **settings, "source": asked.source}
        meta |= model_kept(asked.settings, asked.settings.spec) | {"blendsim": __version__}
        log = _measure(ready, meta, output)
    result = _result(made, pool, ready, log)
    if json:
        print_json(result | {"log": output})
        return
    from blendsim.report.tables import paragraphs
    from blendsim.wording import counted

    steps = counted(len(log), "step")
    kept = f"{steps} written to {output}" if output else "-o steps.parquet keeps the log"
    print_lines([*paragraphs(_sentences(result), width()), kept])


def _measure(ready: ReadyReplay, meta: Mapping[str, Any], output: Path | None) -> "StepLog":
    """Run it and write its log; if it fails, that of the steps so far."""
    from blendsim.steplog import write_steplog

    try:
        ready.measure()
    finally:
        log = ready.log(meta)
        if output is not None and len(log):
            write_steplog(log, output)
    return log


def _result(made: "Plan", pool: "Workload", ready: ReadyReplay, log: "StepLog") -> dict[str, Any]:
    """The keys of --json, those of a simulated run where they mean the same."""

    tokens, seconds = int(pool.prompt_len.sum()), log.end
    return {
        "requests": len(pool),
        "input_tokens": tokens,
        "output_tokens": ready.output_tokens,
        "policy": made.policy,
        "seconds": seconds,
        "predicted_seconds": made.meta.get("predicted_seconds"),
        "tokens_per_second": (tokens + ready.output_tokens) / seconds,
        "sharing_ratio": int(log.count("hit_tokens").sum()) / tokens,
        "preempted_tokens": int(log.count("preempted_tokens").sum()),
        "steps": len(log),
        "estimate": log.meta.get("estimate"),
        "strata": log.meta.get("strata"),
        **ready.facts,
        "notes": [*pool.notes, *ready.notes],
    }


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """The result for a reader."""
    from blendsim.report.tables import span
    from blendsim.wording import counted

    machine = result["machine"]["device"]
    how = result.get("executor", result["runtime"])
    lines = [
        f"{counted(result['requests'], 'request')} of a {result['policy']} plan ran in "
        f"{counted(result['steps'], 'step')} and {result['seconds']:.4g} s "
        f"({result['tokens_per_second']:,.0f} tokens/s) on {result['model']}, {machine}, {how}"
    ]
    if (estimate := result["estimate"]) is not None:
        lines.append(
            f"{estimate['measured']:,} of the steps were measured: the run takes "
            f"{span(estimate['low'], estimate['high'], '{:.4g}'.format)} s, "
            f"{estimate['level']:.0%} sure"
        )
    if (predicted := result["predicted_seconds"]) is not None:
        lines.append(f"the plan predicted {predicted:.4g} s")
    return [*lines, *(f"Note: {note}" for note in result["notes"])]
