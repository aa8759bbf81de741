"""The page of a run: what ran, its key figures, its steps over time, where the seconds went, the
steps that stand out, its ranks, and a second log beside it.
"""

from dataclasses import dataclass
from pathlib import Path

from blendsim.files import write_text
from blendsim.perf.pricing import StepWork
from blendsim.report import html
from blendsim.report.account import account_parts, picture
from blendsim.report.contrast import Contrast
from blendsim.report.gist import Gist, Hindsight, device, heading
from blendsim.report.opening import duration, opening, seconds_text
from blendsim.report.plots import run as plots
from blendsim.report.second_log import Beside, contrast_parts, validated_parts
from blendsim.report.tables import Column, number, share
from blendsim.report.timeline import durations, longest_steps, ranks, timeline
from blendsim.steplog import NOT_COUNTED, StepLog


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A run and all that was found out about it."""

    name: str  # of the log's file
    log: StepLog
    figures: Gist
    capacity_blocks: int | None  # of a replica
    work: StepWork | None
    hindsight: Hindsight | None  # where the pool that was served could be read
    notes: list[str]  # what is left out and why, one sentence each
    against: Beside | Contrast | None = None


def write_report(report: Report, path: Path) -> None:
    """The page as one file."""
    write_text(path, run_page(report))


def run_page(report: Report) -> str:
    """The page as HTML. The log has at least one step."""
    log = report.log
    panels = plots.over_time(timeline(log, report.work), report.capacity_blocks)
    advice = report.hindsight.advice if report.hindsight else []
    ran = [("Log", report.name), *heading(log, report.figures)]
    against, first, validated = report.against, [], []
    if isinstance(against, Contrast):
        first = contrast_parts(against)
    elif against is not None:
        validated = validated_parts(report.name, report.figures, against)
    parts = [
        *([html.paragraph(against.told)] if isinstance(against, Contrast) else []),
        html.paragraph(opening(report.log, report.figures)),
        html.tiles(_tiles(report.figures)),
        *(html.paragraph(f"Note: {note}", "note") for note in report.notes),
        html.section("Against the other run", *first),
        html.section("Over time", html.beside(map(picture, panels))),
        html.section("Where the seconds go", *account_parts(report.hindsight)),
        html.section("Steps", _steps(report)),
        html.section("Ranks", *_ranks(report)),
        html.section("Against a second log", *validated),
        html.section("What follows", *map(html.paragraph, advice)),
        html.section("What ran", html.facts(ran)),
    ]
    return html.page(_title(report), parts)


def _title(report: Report) -> str:
    told = dict(heading(report.log, report.figures))
    kind = "Measured run" if report.figures.is_measured else "Simulated run"
    where = device(report.log) or told.get("Planned for")
    parts = [told.get("Policy"), told.get("Model"), where]
    return ": ".join(filter(None, [kind, ", ".join(filter(None, parts))]))


def _tiles(figures: Gist) -> list[html.Tile]:
    """What is known of the key figures, most important first."""
    rate, per = figures.tokens_per_second, "input and output"
    if rate is None:
        rate, per = figures.computed_tokens_per_second, "computed"
    shown = [html.Tile("Time", *_split(duration(figures.seconds)))]
    shown.append(html.Tile("Tokens a second", number(rate), per))
    if figures.gpu_hours is not None and figures.gpus is not None:
        gpus = f"on {figures.gpus:,} GPU{'s' if figures.gpus > 1 else ''}"
        shown.append(html.Tile("GPU-hours", f"{figures.gpu_hours:,.3g}", gpus))
    for what, part, seconds in (
        ("Of reachable bound", figures.share_of_reachable, figures.reachable_seconds),
        ("Of practical optimum", figures.share_of_optimum, figures.optimum_seconds),
    ):
        if part is not None and seconds is not None:
            shown.append(html.Tile(what, share(part), f"that is {seconds_text(seconds)} s"))
    if figures.sharing_ratio is not None:
        shown.append(
            html.Tile("Prompt tokens shared", share(figures.sharing_ratio), _kept(figures))
        )
    if figures.recomputed_tokens is not None:
        shown.append(html.Tile("Tokens recomputed", number(figures.recomputed_tokens)))
    if figures.kv_use is not None:
        most = f"at most {share(figures.kv_most)}"
        shown.append(html.Tile("KV use, mean", share(figures.kv_use), most))
    if figures.mfu is not None and figures.mbu is not None:
        shown.append(html.Tile("MFU", share(figures.mfu), "of peak FLOP/s"))
        shown.append(html.Tile("MBU", share(figures.mbu), "of peak memory bandwidth"))
    return shown


def _split(text: str) -> tuple[str, str]:
    """“1,415.2 s (23.6 min)” as the figure and what stands below."""
    first, _, rest = text.partition(" (")
    return first, rest.rstrip(")")


def _kept(figures: Gist) -> str:
    if not figures.sharing_optimum or figures.sharing_ratio is None:
        return ""
    kept = figures.sharing_ratio / figures.sharing_optimum
    return f"{share(kept)} of what can be shared"


def _steps(report: Report) -> str:
    log, found = report.log, durations(report.log)
    told = [
        *((f"P{100 * at:g}" if at != 0.5 else "median", s) for at, s in found.quantiles.items()),
        ("longest", found.longest),
    ]
    spread = [
        Column("steps", [name for name, _ in told], is_text=True),
        Column("milliseconds", [number(1e3 * seconds, 2) for _, seconds in told]),
    ]
    rows, unknown = longest_steps(log), log.meta.get(NOT_COUNTED, [])
    within = [int((log.replica[:row] == log.replica[row]).sum()) for row in rows]
    of_rank = [Column("rank", [str(each) for each in log.replica[rows]])]
    shown = [
        *(of_rank if len(set(log.replica.tolist())) > 1 else []),
        Column("step", [number(at) for at in within]),
        Column("at, s", [seconds_text(at) for at in log.time("start")[rows]]),
        Column("ms", [number(1e3 * at, 2) for at in log.time("seconds")[rows]]),
        *(
            Column(title, [number(value) for value in log.count(name)[rows]])
            for title, name in (
                ("prefill tokens", "prefill_tokens"),
                ("decodes", "decode_requests"),
                ("context read", "context_tokens"),
                ("admitted", "admitted"),
                ("preempted", "preempted"),
                ("running", "running"),
            )
            if name not in unknown
        ),
    ]
    longest = "The longest step" if len(rows) == 1 else f"The {len(rows)} longest steps"
    which = "" if found.steps == len(log) else f" Of the {found.steps:,} that were measured."
    return "\n".join(
        [
            html.beside([picture(plots.durations_panel(found)), html.table(spread)]),
            html.paragraph(f"{longest}.{which}"),
            html.table(shown),
        ]
    )


def _ranks(report: Report) -> list[str]:
    each = ranks(report.log)
    if len(each) < 2:
        return []
    kinds = report.log.meta.get("pools") or []
    last, first = (pick(each, key=lambda rank: rank.ends) for pick in (max, min))
    computed = {"prefill_tokens", "decode_requests"}
    pools = [_kind(kinds, rank.replica) for rank in each]
    columns = [
        Column("rank", [str(rank.replica) for rank in each]),
        *([Column("pool", pools, is_text=True)] if kinds else []),
        Column("ends at, s", [seconds_text(rank.ends) for rank in each]),
        Column("busy", [share(rank.busy / last.ends) for rank in each]),
        Column("steps", [number(rank.steps) for rank in each]),
        *(
            Column(title, [number(value) for value in values])
            for title, needed, values in (
                ("finished", {"finished"}, [rank.finished for rank in each]),
                ("computed tokens", computed, [rank.tokens for rank in each]),
                ("found in KV cache", {"hit_tokens"}, [rank.hit_tokens for rank in each]),
                (
                    "lost when thrown out",
                    {"preempted_tokens"},
                    [rank.preempted_tokens for rank in each],
                ),
            )
            if needed.isdisjoint(report.log.meta.get(NOT_COUNTED, []))
        ),
    ]
    text = (
        f"Rank {last.replica} finishes last, at {seconds_text(last.ends)} s; rank {first.replica} "
        f"first, {seconds_text(last.ends - first.ends)} s before."
    )
    return [html.paragraph(text), html.table(columns)]


def _kind(kinds: object, replica: int) -> str:
    return str(kinds[replica]) if isinstance(kinds, list) and replica < len(kinds) else ""
