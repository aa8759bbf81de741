"""`blendsim run BATCH`: answer an OpenAI batch file with a model, in the order that is planned."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, tell, width
from blendsim.cli.places import require_parquet, require_places
from blendsim.cli.progress import Progress
from blendsim.cli.status import INCOMPLETE
from blendsim.live.engine import Engine

if TYPE_CHECKING:
    from blendsim.live.answerer import Answerer
    from blendsim.live.answering import Answered


def run(
    batch: Annotated[Path, typer.Argument(help="An OpenAI batch file: one request a line.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Answers go here, one a line, as they end.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR|tiny",
            help="A Hugging Face directory: weights and tokenizer; or, to try it without, a small "
            "random model on the CPU.",
        ),
    ],
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Run on this machine's GPU, else on the CPU.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(case_sensitive=False, help="What answers.")
    ] = Engine.BLENDRT,
    plain: o.Plain = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run into the same file broke off.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Answer nothing if some request cannot be answered; else it gets an error line.",
        ),
    ] = False,
    planner: o.Planner = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share answered first to learn output lengths."),
    ] = None,
    token_budget: o.TokenBudget = None,
    max_running: o.MaxRunning = None,
    seed: Annotated[
        int | None, typer.Option(help="Of requests that give none, and of the sample.")
    ] = None,
    config: o.Config = None,
    log: Annotated[Path | None, typer.Option(help="Write the step log here.")] = None,
    json: o.Json = False,
) -> None:
    """Answer an OpenAI batch file: a sample first, then the rest in the order that its answers'
    lengths plan.
    """
    with Progress(is_whole_run=True) as say:
        from blendsim.live.answerer import find_answerer
        from blendsim.live.answering import Files, answer_batch

        require_files(batch, output, log, config)
        asked = {
            "trace": [str(batch)],
            "model": model,
            "planner": planner,
            "sample": sample,
            "token_budget": token_budget,
            "max_running": max_running,
            "seed": seed,
            "config": config,
        }
        found = find_answerer(o.resolve(asked).settings, model, gpu, engine, plain)
        files = Files(batch, output, log, resume, strict)
        result = _result(answer_batch(files, found, say, tell), output, found)
    if json:
        print_json(result)
    else:
        from blendsim.report.tables import paragraphs

        print_lines(paragraphs(_sentences(result), width()))
    if result["refused"]:
        raise typer.Exit(INCOMPLETE)


def require_files(batch: Path, output: Path, log: Path | None, config: Path | None) -> None:
    """InputError unless they can be read and written, and are different files."""
    from blendsim.errors import InputError

    if output.suffix == ".gz":
        raise InputError(f"{output}: results are plain JSON lines, one added at a time; name it so")
    # Results may be a link: answers are added to its file.
    for path in (Path(os.path.realpath(output)), log):
        require_places([path], [config])
    real = [os.path.realpath(path) for path in (batch, output, log) if path is not None]
    if len(set(real)) < len(real):
        raise InputError("the batch, -o and --log are to be different files; rename one")
    require_parquet(log)
    if _is_shown(output):
        raise InputError(
            f"{output}: what the command says is written there, too; write to another file"
        )


def _is_shown(path: Path) -> bool:
    """Whether what the command prints goes to the file."""
    try:
        found = os.stat(path)
        return any(os.path.samestat(found, os.fstat(stream)) for stream in (1, 2))
    except OSError:  # there is no such file yet, or the stream is closed
        return False


def _result(answered: "Answered", output: Path, found: "Answerer") -> dict[str, Any]:
    """The keys of --json: of this run's work, not of what was answered before."""
    course, stages = answered.course, answered.stages
    now = course.answered & ~course.answered_before
    told = [f"the model is {found.signature}: its answers mean nothing"] * bool(found.signature)
    workload = course.file.workload
    prompts, outputs = int(workload.prompt_len[now].sum()), int(course.lengths[now].sum())
    first = [stage for stage in stages if stage.planned.predicted_seconds is None]
    rest = [stage for stage in stages if stage.planned.predicted_seconds is not None]
    planned = rest[0].planned if rest else None
    notes = [*told, *([] if planned else workload.notes)]
    notes += [note for stage in stages for note in stage.planned.notes]
    seconds = sum(stage.log.end for stage in stages)
    total = {
        name: sum(int(stage.log.count(name).sum()) for stage in stages)
        for name in ("hit_tokens", "preempted_tokens")
    }
    return {
        "requests": len(course.file),
        "answered": course.answers,
        "answered_before": course.answers_before,
        "refused": len(course.reasons),
        "first_refused": course.reasons[0] if course.reasons else None,
        "results": output,
        "input_tokens": prompts,
        "output_tokens": outputs,
        "seconds": seconds,
        "tokens_per_second": (prompts + outputs) / seconds if seconds else None,
        "steps": sum(len(stage.log) for stage in stages),
        **total,
        "policy": planned.plan.policy if planned else None,
        "predicted_seconds": planned.predicted_seconds
        if planned and found.is_planned_for_it
        else None,
        "planned_for": found.settings.gpu,
        "is_planned_for_it": found.is_planned_for_it,
        "first": sum(len(stage.planned.plan) for stage in first),
        "first_seconds": sum(stage.log.end for stage in first),
        "rest_seconds": sum(stage.log.end for stage in rest),
        "model": found.signature or found.settings.model,
        "runtime": found.engine.value,
        "machine": found.machine,
        "notes": list(dict.fromkeys(notes)),
        "wall_seconds": answered.wall_seconds,
    }


def _sentences(result: dict[str, Any]) -> list[str]:
    """The result for a reader."""
    from blendsim.wording import counted

    before = f", {result['answered_before']:,} of them before" if result["answered_before"] else ""
    lines = [
        f"{result['results']} has answers to {result['answered']:,} of "
        f"{counted(result['requests'], 'request')}{before}"
    ]
    if result["refused"]:
        lines.append(
            f"{result['refused']:,} cannot be answered; their lines say why, the first: "
            f"{result['first_refused']}"
        )
    if result["steps"]:
        lines.append(
            f"{result['input_tokens']:,} prompt and "
            f"{counted(result['output_tokens'], 'output token')} in "
            f"{counted(result['steps'], 'step')} and {result['seconds']:.4g} s "
            f"({result['tokens_per_second']:,.0f} tokens/s) on {result['machine']['device']}, "
            f"{result['runtime']}; with loading and planning {result['wall_seconds']:.4g} s"
        )
    if result["first"]:
        were = "was" if result["first"] == 1 else "were"
        seconds = f"{result['first_seconds']:.4g} s"
        lines.append(f"{result['first']:,} {were} answered first, in {seconds}")
    if result["policy"]:
        predicted = ""
        if result["predicted_seconds"] is not None:
            predicted = f", predicted to take {result['predicted_seconds']:.4g} s"
        lines.append(
            f"The rest was planned as {result['policy']}{predicted}, and took "
            f"{result['rest_seconds']:.4g} s"
        )
    return [*lines, *(f"Note: {note}" for note in result["notes"])]
