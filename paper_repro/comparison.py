"""The written comparison: the paper's claims beside ours, read from result tables."""

from collections.abc import Sequence
from pathlib import Path

from paper_repro import runner
from paper_repro.claims import Claim, Verdict, modules, read_claims
from paper_repro.table import read_facts, tables_of

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
_SAID = {True: "holds", False: "**misses**", None: "–"}


def lines(names: Sequence[str], out: Path) -> list[str]:
    """A Markdown table of the claims of these modules."""
    claims = [claim for claim in read_claims().values() if claim.module in names]
    found = {v.claim: v for name in modules(claims) for v in runner.verdicts(name, out)}
    head = [
        "| claim | in the paper | paper | ours | verdict | measured in |",
        "|---|---|---|---|---|---|",
    ]
    return head + [_line(claim, found.get(claim.id), out) for claim in claims]


def short_lines(names: Sequence[str], out: Path) -> list[str]:
    """The same in four columns, without what it hangs on: for the project's README."""
    head = ["| claim | in the paper | paper | here |", "|---|---|---|---|"]
    found = {v.claim: v for name in names for v in runner.verdicts(name, out)}
    claims = [claim for claim in read_claims().values() if claim.id in found]
    return head + [
        f"| {claim.title} | {claim.where} | {claim.paper} | {found[claim.id].ours} |"
        for claim in claims
    ]


def write_readme(out: Path) -> None:
    """Put the table of all claims into the README."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(out)}{END}{after}", encoding="utf-8")


def table(out: Path) -> str:
    """The table of all claims, as it stands in the README."""
    return "\n".join(lines([*modules(read_claims().values())], out)) + "\n"


def _line(claim: Claim, verdict: Verdict | None, out: Path) -> str:
    verdict = verdict or Verdict(claim.id, "–", None, "")
    said = _SAID[verdict.holds]
    words = verdict.words if verdict.words not in ("", "holds", "does not hold") else ""
    seconds = [read_facts(path)["measured_in_seconds"] for path in tables_of(claim.module, out)]
    took = f"{seconds[0]:.0f} s" if seconds else "–"
    paper = claim.paper if claim.tolerance is None else f"{claim.paper} (± {claim.tolerance:g})"
    title = f"{claim.title}; {claim.note}" if claim.note else claim.title
    said = f"{said}: {words}" if words else said
    return (
        f"| {title} | {claim.where} | {paper} | {verdict.ours} | {said} | {claim.module}, {took} |"
    )
