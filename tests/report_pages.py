"""Small simulated runs, and the pages that `blendsim report` makes of them."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from command_line import run

from blendsim.steplog import TIMES, read_steplog, write_steplog

REPOSITORY = Path(__file__).resolve().parents[1]


VOID = {"meta", "br", "hr", "img", "link"}


def runs_in(folder: Path) -> Path:
    """A trace, plans of it for one replica and for two, and their simulated logs."""
    rng = np.random.default_rng(5)
    rows = [f"{p},{d}" for p, d in zip(*rng.integers(1, 900, (2, 150)).tolist(), strict=True)]
    trace = folder / "t.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows) + "\n")
    for name, dp in (("one", 1), ("two", 2)):
        plan = folder / f"{name}-plan.parquet"
        run("plan", "--trace", trace, "--planner", "blend", "--dp", dp, "-o", plan)
        told = run("simulate", plan, "-o", folder / f"{name}.parquet", "--json")
        (folder / f"{name}.json").write_text(told)
    return folder


def changed(log: Path, place: Path, **meta: Any) -> Path:
    """A copy of the log with other metadata; None takes an entry away."""
    read = read_steplog(log)
    kept = {key: value for key, value in {**read.meta, **meta}.items() if value is not None}
    write_steplog(replace(read, meta=kept), place)
    return place


def page_of(log: Path, *options: object) -> str:
    """The page that `report` writes beside the log."""
    place = log.with_suffix(".html")
    assert run("report", log, *options, "-o", place) == f"page written to {place}\n"
    return place.read_text()


def figures_of(log: Path, *options: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("report", log, *options, "--json"))
    return told


def measured(home: Path, place: Path, device: str) -> Path:
    """The log as a machine might have written it: whole steps timed, a tenth longer."""
    log = read_steplog(home / "one.parquet")
    times = log.times * 1.1
    times[:, TIMES.index("compute_seconds") :] = 0.0
    meta = {**log.meta, "runtime": "blendrt", "machine": {"device": device}}
    write_steplog(replace(log, times=times, meta=meta), place)
    return place


class Page(HTMLParser):
    """Tags that stand open, all attributes' values, and the text; the tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.values: list[tuple[str, str]] = []
        self.text = ""
        self.source = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data
