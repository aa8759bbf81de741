"""The written comparison: the paper's claims beside ours, read from result tables."""

from collections.abc import Sequence
from pathlib import Path

from paper_repro import runner, whole_run
from paper_repro.claims import Claim, Verdict, modules, read_claims
from paper_repro.reading import percent
from paper_repro.table import Table, read_facts, read_table, tables_of

README = Path(__file__).with_name("README.md")
#: Modules of the paper's evaluation section, where systems run.
EVALUATION = (
    *(f"fig{number:02}" for number in range(7, 16)),
    *("seeds", "table3", "sec54_sampling", "sec65"),
)
_SAID = {True: "holds", False: "**misses**", None: "–"}


def lines(names: Sequence[str], out: Path) -> list[str]:
    """A Markdown table of the claims of these modules."""
    claims = [claim for claim in read_claims().values() if claim.module in names]
    found = {v.claim: v for name in modules(claims) for v in runner.verdicts(name, out)}
    head = [
        "| claim | in the paper | paper | here | verdict | measured in |",
        "|---|---|---|---|---|---|",
    ]
    return head + [_line(claim, found.get(claim.id), out) for claim in claims]


def short_lines(names: Sequence[str], out: Path) -> list[str]:
    """The same without what it hangs on, those that were measured: for the project's README."""
    head = ["| claim | in the paper | paper | here | verdict |", "|---|---|---|---|---|"]
    found = {v.claim: v for name in names for v in runner.verdicts(name, out)}
    claims = [claim for claim in read_claims().values() if claim.id in found]
    return head + [
        f"| {claim.title} | {claim.where} | {claim.paper} | {found[claim.id].ours} "
        f"| {_SAID[found[claim.id].holds]} |"
        for claim in claims
    ]


def write_readme(out: Path) -> None:
    """Put what was measured into the README, between its marks."""
    text = README.read_text(encoding="utf-8")
    for name, shown in shown_parts(out).items():
        before, after = text.split(mark(name))[0], text.split(end_mark(name))[1]
        text = f"{before}{mark(name)}\n{shown}{end_mark(name)}{after}"
    README.write_text(text, encoding="utf-8")


def shown_parts(out: Path) -> dict[str, str]:
    """The parts of the README that are made of results, by the name of their mark."""
    names = [*modules(read_claims().values())]
    parts = {"count": [_count(names, out)], "claims": lines(names, out), "whatif": changes(out)}
    parts["run"] = [whole_run.told(out)]
    return {name: "".join(f"{line}\n" for line in part) for name, part in parts.items()}


def mark(name: str) -> str:
    """Where a generated part of the README begins."""
    return f"<!-- {name} -->"


def end_mark(name: str) -> str:
    """Where it ends."""
    return f"<!-- /{name} -->"


def changes(out: Path) -> list[str]:
    """A Markdown table of the what-ifs: blended over prefix order, both orders' shares of the
    optimum, and paced steps over prefix order, on each workload.
    """
    path = out / "whatif_changes.csv"
    if not path.exists():
        return ["Not measured yet."]
    rows = read_table(path)
    scenes = list(dict.fromkeys((r["model"], r["trace"]) for r in rows.records()))
    titles = [f"{model.removeprefix('llama-3.1-')}, #{trace[-1]}" for model, trace in scenes]
    head = [f"| change | {' | '.join(titles)} |", f"|---|{'---|' * len(scenes)}"]
    return head + [
        f"| {change} | {' | '.join(_change(rows, change, *scene) for scene in scenes)} |"
        for change in dict.fromkeys(rows.column("change"))
    ]


def _change(rows: Table, change: str, model: str, trace: str) -> str:
    found = {r["system"]: r for r in rows.records(model=model, trace=trace, change=change)}
    if not found:
        return ""
    dfs, blend = found["dfs"]["share_of_optimum"], found["blend"]["share_of_optimum"]
    shown = f"{percent(found['blend']['over_dfs'])} ({blend:.1%}, {dfs:.1%})"
    if "paced" in found:
        shown += f"; paced {percent(found['paced']['over_dfs'])}"
    return shown


def _count(names: Sequence[str], out: Path) -> str:
    """How many claims were judged and how many hold, all of them and those of the evaluation."""
    claims = read_claims()
    found = [v for name in names for v in runner.verdicts(name, out) if v.holds is not None]
    judged = [v for v in found if not claims[v.claim].is_made]
    main = [v for v in judged if claims[v.claim].module in EVALUATION]
    text = (
        f"{_held(judged)} of the {len(judged)} claims that were judged hold, the others miss; of "
        f"the {len(main)} of the paper's evaluation (Figures 7 to 15, Table 3, §5.4, §6.5) "
        f"{_held(main)} do."
    )
    if made := len(found) - len(judged):
        text += f" {made} more are not counted, as our pools are made to have what they say."
    return text


def _held(verdicts: Sequence[Verdict]) -> int:
    return sum(bool(verdict.holds) for verdict in verdicts)


def _line(claim: Claim, verdict: Verdict | None, out: Path) -> str:
    verdict = verdict or Verdict(claim.id, "–", None, "")
    said = "by construction" if claim.is_made and verdict.holds else _SAID[verdict.holds]
    words = verdict.words if verdict.words not in ("", "holds", "does not hold") else ""
    seconds = [read_facts(path)["measured_in_seconds"] for path in tables_of(claim.module, out)]
    took = f"{seconds[0]:.0f} s" if seconds else "–"
    paper = claim.paper
    if claim.tolerance is not None:
        in_points = "%" in claim.paper and claim.tolerance < 1
        wide = f"{100 * claim.tolerance:g} points" if in_points else f"{claim.tolerance:g}"
        paper += f" (± {wide})"
    title = f"{claim.title}; {claim.note}" if claim.note else claim.title
    said = f"{said}: {words}" if words else said
    return (
        f"| {title} | {claim.where} | {paper} | {verdict.ours} | {said} | {claim.module}, {took} |"
    )
