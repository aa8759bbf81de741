"""What the paper claims (claims.toml), and what becomes of a claim when it is measured.

A claim is the paper's figure, where it stands, how far ours may be from it and what measures it.
Our value is never in that file: a module's `verdicts` reads it from result tables.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CLAIMS = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of claims.toml."""

    id: str
    title: str
    where: str  # figure, table or section of the paper
    paper: str  # the paper's figure as a reader would write it
    module: str  # of paper_repro, which measures it
    minutes: float  # a full run of the module takes about so long on one core
    command: str
    value: float | None = None  # the paper's figure as a number, where there is one to come near to
    tolerance: float | None = None  # largest |ours − value| that counts as reproduced
    note: str = ""  # what a reader must know to compare the two
    is_made: bool = False  # pools or generators are made to have it: it can hardly miss


class Verdict(NamedTuple):
    """What became of a claim."""

    claim: str  # id
    ours: str  # our value, as a reader would write it
    holds: bool | None  # None: not measured
    words: str  # why, in plain words


def read_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """All claims by id, in the order of the file."""
    with path.open("rb") as file:
        rows = tomllib.load(file)["claim"]
    claims = {row["id"]: Claim(**row) for row in rows}
    assert len(claims) == len(rows), "two claims have one id"
    return claims


def modules(claims: Iterable[Claim]) -> dict[str, float]:
    """Modules that measure these claims and the minutes each takes, in the order of the file."""
    found: dict[str, float] = {}
    for claim in claims:
        found[claim.module] = max(claim.minutes, found.get(claim.module, 0.0))
    return found


def near(claim_id: str, ours: float, shown: str) -> Verdict:
    """The verdict on a claim with a number: is ours within the tolerance of the paper's?"""
    claim = read_claims()[claim_id]
    assert claim.value is not None, f"{claim_id} has no number"
    assert claim.tolerance is not None, f"{claim_id} has no tolerance"
    off = ours - claim.value
    if abs(off) <= claim.tolerance:
        return Verdict(claim_id, shown, True, "within the tolerance")
    side = "above" if off > 0 else "below"
    return Verdict(claim_id, shown, False, f"{side} the paper's by more than the tolerance")


def sign(claim_id: str, holds: bool, shown: str, words: str = "") -> Verdict:
    """The verdict on a claim about who is ahead of whom."""
    return Verdict(claim_id, shown, holds, words or ("holds" if holds else "does not hold"))
