"""Tables for a terminal: plain text, right-aligned figures, as many columns as the width holds."""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from blendsim.wording import counted

if TYPE_CHECKING:  # laying out a table must not load the performance model
    from blendsim.report.metrics import Row

MOST_DIGITS = 6  # of seconds behind the point: a step takes thousands of microseconds
#: What stands under a table of baselines.
BUDGETS = (
    "Each at the token budget that is best for it by prediction, pools of prefill and decode "
    "replicas of their engine's own and 2,048; on the true lengths another may be faster."
)


class Column(NamedTuple):
    """A column: its title, its cells as text, and how soon it goes when the table is too wide."""

    title: str
    cells: Sequence[str]
    dispensable: int = 0  # 0 stays; the highest goes first
    is_text: bool = False  # text stands left, figures right


def lay_out(columns: Sequence[Column], width: int) -> list[str]:
    """Title line, rule, a line a row. Dispensable columns go until the table fits `width`."""
    shown = list(columns)
    while _total(shown) > width and any(column.dispensable for column in shown):
        shown.remove(max(shown, key=lambda column: column.dispensable))
    widths = [_widest(column) for column in shown]
    titles = _line(shown, [column.title for column in shown], widths)
    rows = zip(*(column.cells for column in shown), strict=True)
    return [titles, "─" * len(titles), *(_line(shown, row, widths) for row in rows)]


def policy_table(rows: "Sequence[Row]", chosen: "Row | None", width: int) -> list[str]:
    """A line a row, the chosen one marked. Seconds are on true lengths, predicted ones on what
    planning may see.
    """
    marks = ["*" if row is chosen else " " for row in rows]
    names = [f"{mark} {name}" for mark, name in zip(marks, policy_labels(rows), strict=True)]
    kept = [_kept(row) for row in rows]
    columns = [
        Column("policy", names, is_text=True),
        Column("seconds", seconds_cells([row.seconds for row in rows])),
        Column("predicted", seconds_cells([row.predicted_seconds for row in rows])),
        Column("tokens/s", [number(row.tokens_per_second) for row in rows]),
        Column("of optimum", [share(row.share_of_optimum) for row in rows]),
        Column("of reachable", [share(row.share_of_reachable) for row in rows], dispensable=1),
        Column("sharing kept", [share(part) for part in kept]),
        Column("recomputed", [number(row.recomputed_tokens) for row in rows], dispensable=2),
        Column("KV use", [share(row.kv_use) for row in rows], dispensable=3),
        Column("steps", [number(row.steps) for row in rows], dispensable=4),
    ]
    return lay_out(columns, width)


def policy_labels(rows: "Sequence[Row]") -> list[str]:
    """The rows' policies; of several rows of one policy the later ones with what of token budget
    and running limit the first has otherwise, the budget where nothing is.
    """
    first: dict[str, Row] = {}
    labels = []
    for row in rows:
        own = first.setdefault(row.policy, row)
        limit = row.lower_limit(own)
        is_told = own is not row and (limit is None or row.token_budget != own.token_budget)
        labels.append(policy_at(row.policy, row.token_budget if is_told else None, limit))
    return labels


def policy_at(policy: str, token_budget: int | None, limit: int | None) -> str:
    """A policy, briefly, with its token budget and its running limit where they are given."""
    budget = "" if token_budget is None else f", {token_budget:,}"
    return f"{policy}{budget}{'' if limit is None else f', {limit:,} at a time'}"


def at_limits(token_budget: int | None, limit: int | None) -> str:
    """The same in words that follow the policy's name."""
    budget = "" if token_budget is None else f" at {token_budget:,} tokens a step"
    return f"{budget}{'' if limit is None else f' with at most {limit:,} requests at a time'}"


def limits_told(rows: "Sequence[Row]", common: "Sequence[Row]") -> list[str]:
    """A sentence on the baselines whose running limits are lower than they are at the common token
    budget, their engines' own.
    """
    found: dict[int, list[str]] = {}
    for row, own in zip(rows, common, strict=True):
        if (limit := row.lower_limit(own)) is not None:
            found.setdefault(limit, []).append(row.policy)
    each = [f"{', '.join(names)} at most {limit:,}" for limit, names in sorted(found.items())]
    if not each:
        return []
    return [f"Fewer requests at a time than their engines’ own limit: {'; '.join(each)}."]


def comparison_table(
    rows: "Sequence[Row]", common: "Sequence[Row]", best: str, width: int
) -> list[str]:
    """A line a baseline, at its best token budget; the last columns at the common one."""
    budget = f"at {common[0].token_budget:,}"
    ahead = max(row.tokens_per_second_per_gpu for row in rows)
    columns = [
        Column("baseline", [_marked(row, best) for row in rows], is_text=True),
        Column("GPUs", [number(row.gpus) for row in rows], dispensable=2),
        Column("budget", [number(row.token_budget) for row in rows]),
        Column("seconds", seconds_cells([row.reported_seconds for row in rows])),
        Column("tokens/s/GPU", [number(row.tokens_per_second_per_gpu) for row in rows]),
        Column("of best", [share(row.tokens_per_second_per_gpu / ahead) for row in rows]),
        Column("of optimum", [share(row.share_of_optimum) for row in rows], dispensable=1),
        Column("sharing kept", [share(_kept(row)) for row in rows], dispensable=1),
        Column("recomputed", [number(row.recomputed_tokens) for row in rows], dispensable=3),
        Column(budget, seconds_cells([row.reported_seconds for row in common])),
    ]
    return lay_out(columns, width)


class Ranked(Protocol):
    """A schedule of a search's leaderboard."""

    @property
    def seconds(self) -> float: ...
    @property
    def is_fixed(self) -> bool: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


class Leaderboard(NamedTuple):
    """A table of schedules, and how many of those it was given it has a line of."""

    lines: list[str]
    schedules: int


def leaderboard_table(
    entries: Sequence[tuple[int, Ranked]], width: int, is_typical: bool = False
) -> Leaderboard:
    """A line a schedule with its rank; `fixed` marks the policies as `plan` runs them. What all
    have in common takes no column; where there is no room for all that differs, the columns that
    tell most rows apart stay, and of rows that look alike the first. Seconds are predicted ones, or
    typical ones of several worlds.
    """
    title = "typical" if is_typical else "predicted"
    found: dict[str, set[Any]] = {}
    for _, entry in entries:
        for name, value in entry.values.items():
            found.setdefault(name, set()).add(value)
    names = [name for name, values in found.items() if len(values) > 1 or name == "policy"]
    cells = {
        name: [_value(entry.values[name]) if name in entry.values else "" for _, entry in entries]
        for name in names
    }
    shared = [
        Column("rank", [number(rank) for rank, _ in entries]),
        Column(title, seconds_cells([entry.seconds for _, entry in entries])),
        Column("", ["fixed" if entry.is_fixed else "" for _, entry in entries], is_text=True),
    ]
    varied = [
        Column(name, cells[name], 0 if name == "policy" else 1, not _has_figures(cells[name]))
        for name in names
    ]
    shown = _telling_apart(shared, varied, width)
    rows = list(zip(*(column.cells for column in [*shared[1:], *shown]), strict=True))
    firsts = [k for k, row in enumerate(rows) if row not in rows[:k]]
    table = [
        column._replace(cells=[column.cells[k] for k in firsts]) for column in [*shared, *shown]
    ]
    hidden = [column.title for column in varied if column not in shown]
    words = f"Also varied, and in --json: {', '.join(hidden)}."
    lines = [*lay_out(table, width), *(paragraphs([words], width) if hidden else [])]
    return Leaderboard(lines, len(firsts))


def _telling_apart(
    shared: Sequence[Column], varied: Sequence[Column], width: int
) -> Sequence[Column]:
    """Those of `varied` that there is room for beside `shared`, whose first is the rank: as many
    rows as possible are to differ in something else.
    """

    def distinct(left: Sequence[Column]) -> int:
        return len(set(zip(*(column.cells for column in [*shared[1:], *left]), strict=True)))

    shown = list(varied)
    while _total([*shared, *shown]) > width and any(column.dispensable for column in shown):
        without = [
            [each for each in shown if each is not column] for column in shown if column.dispensable
        ]
        shown = max(without, key=distinct)
    return shown


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _has_figures(cells: Sequence[str]) -> bool:
    return any(cell[:1].isdigit() for cell in cells)


def pool_line(row: "Row", where: str) -> str:
    """One sentence: what the pool is and what it runs on."""
    outputs = "unknown" if row.output_tokens is None else number(row.output_tokens)
    tokens = "token" if row.output_tokens == 1 else "tokens"
    requests = counted(row.requests, "request")
    return (
        f"{requests}, {row.input_tokens:,} prompt and {outputs} output {tokens}; "
        f"density {number(row.density, 2)} (closed form), {number(row.density_profile, 2)} "
        f"(profile); {share(row.sharing_optimum)} of prompt tokens can be shared. {where}."
    )


def summary_lines(told: Mapping[str, Any], system: str, width: int) -> list[str]:
    """What `traces.summary` and the density say of a pool, a line a source and one for all."""
    parts = dict(told["sources"])
    if len(parts) > 1:
        parts["all"] = told
    lengths = {
        f"{kind} {name}": [number((part[kind] or {}).get(name)) for part in parts.values()]
        for kind in ("prompt", "output")
        for name in ("mean", "p50", "p90", "p99", "max")
    }
    columns = [
        Column("source", list(parts), is_text=True),
        Column("requests", [number(part["requests"]) for part in parts.values()]),
        *(
            Column(title, cells, 0 if title.endswith("mean") else 1 + i % 5)
            for i, (title, cells) in enumerate(lengths.items())
        ),
    ]
    lacking = told["requests"] - told["with_output"]
    density = "unknown, as not all output lengths are given"
    if told["density"] is not None:
        density = f"{number(told['density'], 2)} (closed form)"
        if told["density_profile"] is not None:
            density += f", {number(told['density_profile'], 2)} (profile)"
        density += f", compute over memory time for {system}"
    sentences = [
        f"Sharing: {share(told['sharing_ratio'])} of prompt tokens by token, "
        f"{share(told['sharing_ratio_blocks'])} in blocks of {told['block_tokens']}.",
        f"Density: {density}.",
        f"Known lengths: {told['known']:,}; without output length: {lacking:,}.",
        *(f"Note: {note}" for note in told["notes"]),
    ]
    return [*lay_out(columns, width), "", *paragraphs(sentences, width)]


def paragraphs(texts: Iterable[str], width: int) -> list[str]:
    """Each text wrapped to the width, its further lines indented; a figure keeps its unit, and
    words with a hyphen, such as GPU-hours and options, stay whole.
    """
    lines = []
    for text in texts:
        held = re.sub(r"(?<=\d) (?=%|s\b)", "\xa0", text)
        lines += textwrap.wrap(held, width, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _kept(row: "Row") -> float | None:
    return row.sharing_ratio / row.sharing_optimum if row.sharing_optimum else None


def _marked(row: "Row", best: str) -> str:
    """A baseline with the engine that serves it, where its name does not begin with that."""
    is_named = row.policy.casefold().startswith(row.engine)
    served = "" if is_named else f" ({row.engine})"
    return f"{'*' if row.policy == best else ' '} {row.policy}{served}"


def number(value: float | None, digits: int = 0) -> str:
    """A figure with thousands separators, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return _positive_zero(f"{value:,.{digits}f}")


def signed(value: float, digits: int = 0) -> str:
    """The same with its sign; what comes out as 0 has none."""
    told = number(value, digits)
    return f"+{told}" if value > 0 and any(digit in told for digit in "123456789") else told


def seconds(value: float) -> str:
    """Seconds of a run in tenths; of less than ten three digits that count."""
    return number(value, _digits(value))


def span(low: float, high: float, told: Callable[[float], str] = seconds) -> str:
    """“2.95 to 2.98”, or one figure where both are told alike."""
    ends = told(low), told(high)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def seconds_cells(values: Sequence[float | None]) -> list[str]:
    """A column of seconds, with as many digits as the least of them needs."""
    digits = max((_digits(value) for value in values if value is not None), default=1)
    return [number(value, digits) for value in values]


def _digits(value: float) -> int:
    if not 0 < abs(value) < 10:  # NOTE: nor a not-a-number
        return 1
    return min(2 - math.floor(math.log10(abs(value))), MOST_DIGITS)


def share(value: float | None) -> str:
    """A ratio in per cent, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{number(100 * value, 1)} %"


def _positive_zero(told: str) -> str:
    """A figure that rounding leaves nothing of has no sign."""
    return told if any(digit in told for digit in "123456789") else told.removeprefix("-")


def _widest(column: Column) -> int:
    return max(map(len, (column.title, *column.cells)))


def _total(columns: Sequence[Column]) -> int:
    return sum(map(_widest, columns)) + 2 * (len(columns) - 1)


def _line(columns: Iterable[Column], cells: Iterable[str], widths: Iterable[int]) -> str:
    parts = (
        cell.ljust(width) if column.is_text else cell.rjust(width)
        for column, cell, width in zip(columns, cells, widths, strict=True)
    )
    return "  ".join(parts).rstrip()
