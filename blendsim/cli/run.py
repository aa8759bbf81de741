"""`blendsim run BATCH`: answer an OpenAI batch file with a model, in the order that is planned."""

from pathlib import Path
from typing import Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.machine import Engine
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.progress import Progress
from blendsim.cli.status import INCOMPLETE


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
        from blendsim.cli.answerer import find_answerer
        from blendsim.cli.answering import Files, answer_batch

        files = Files(batch, output, log, config, resume, strict)
        files.check()
        asked = {
            "trace": [str(batch)],
            "model": model,
            "planner": planner,
            "sample": sample,
            "token_budget": token_budget,
            "seed": seed,
            "config": config,
        }
        found = find_answerer(o.resolve(asked).settings, model, gpu, engine, plain)
        result = answer_batch(files, found, say)
    if json:
        print_json(result)
    else:
        from blendsim.report.tables import paragraphs

        print_lines(paragraphs(_sentences(result), width()))
    if result["refused"]:
        raise typer.Exit(INCOMPLETE)


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
