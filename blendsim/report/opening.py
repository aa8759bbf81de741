"""The first sentences of a run's page: what was served and how long it took."""

from blendsim.report.gist import Gist, limit_asked
from blendsim.report.tables import number, share, span
from blendsim.report.timeline import FEW
from blendsim.steplog import MEASURED_ROWS, StepLog
from blendsim.wording import counted

WORTH = 0.02  # of the run: less time is not worth a word


def opening(log: StepLog, figures: Gist) -> str:
    """What was served, by which rules, and how sure the seconds are."""
    rules = f" Engine {figures.engine}" if figures.engine else ""
    if rules and figures.token_budget:
        rules += f", at most {figures.token_budget:,} tokens a step"
        if (limit := limit_asked(log, figures)) is not None:
            rules += f" and {limit:,} requests at a time"
    text = f"{_done(log, figures)}{rules}{'.' if rules else ''}"
    if (estimate := log.meta.get("estimate")) is not None:
        text += (
            f" {estimate['measured']:,} of the steps were measured, the others are estimates: the "
            f"run takes {span(estimate['low'], estimate['high'], seconds_text)} s, "
            f"{estimate['level']:.0%} sure."
        )
    return f"{text}{_few(figures)}"


def _few(figures: Gist) -> str:
    """For how long few requests ran, where that is worth a word."""
    few, tail, lone = figures.few_seconds, figures.tail_seconds, figures.lone_seconds
    if few is None or tail is None or lone is None or few <= WORTH * figures.seconds:
        return ""
    text = f" Fewer than {FEW} requests ran for {_part(few, figures)}"
    if few >= (1 - WORTH) * figures.seconds:
        text = f" Fewer than {FEW} requests ran all the time"
    elif tail >= (1 - WORTH) * few:
        text += ", all of it at the end"
    elif tail > WORTH * figures.seconds:
        text += f", {_part(tail, figures)} of it at the end"
    if lone >= (1 - WORTH) * few:
        return f"{text}; nearly always a single one."
    alone = lone > WORTH * figures.seconds
    return f"{text}; a single one for {_part(lone, figures)}." if alone else f"{text}."


def _part(seconds: float, figures: Gist) -> str:
    return f"{seconds_text(seconds)} s ({share(seconds / figures.seconds)})"


def _done(log: StepLog, figures: Gist) -> str:
    """What was served, in how many steps and how long; of a run that broke off, what of it was."""
    steps, requests = counted(figures.steps, "step"), counted(figures.requests, "request")
    taken, tokens = f"in {steps} and {duration(figures.seconds)}.", ""
    if figures.input_tokens is not None:
        outputs, noun = number(figures.output_tokens), "token"
        noun += "" if figures.output_tokens == 1 else "s"
        tokens = f"{figures.input_tokens:,} prompt and {outputs} output {noun}"
    if figures.is_complete:
        return f"{requests}{tokens and f' of {tokens}'} finished {taken}"
    if MEASURED_ROWS in log.meta:
        whole = f"{requests}{tokens and f' of {tokens}'}"
        return (
            f"{int(log.is_timed.sum()):,} of {steps} were measured; the whole, "
            f"{whole}, would take {duration(figures.seconds)} by a guess."
        )
    processed = tokens and f"; {tokens} processed"
    return f"{requests} finished{processed}, {taken}"


def duration(seconds: float) -> str:
    """Seconds, and minutes or hours where there are as many."""
    told = f"{seconds_text(seconds)} s"
    if seconds >= 3600:
        return f"{told} ({number(seconds / 3600, 2)} h)"
    return f"{told} ({number(seconds / 60, 1)} min)" if seconds >= 60 else told


def seconds_text(seconds: float) -> str:
    """A tenth of a second for runs of minutes, four digits for shorter ones."""
    return number(seconds, 1) if abs(seconds) >= 100 else f"{seconds:.4g}"
