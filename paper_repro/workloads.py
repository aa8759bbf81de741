"""The four workloads: density and sharing wanted and reached, and the sources drawn from."""

from dataclasses import replace

from blendsim.settings import Settings
from blendsim.synth.blend import blend
from blendsim.synth.recipes import recipe
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.runs import traces
from paper_repro.table import Table


def measure(lab: Lab) -> dict[str, Table]:
    """`targets`: a row a workload; `sources`: a row a workload and source."""
    targets, sources = [], []
    for trace in traces(lab):
        wanted = replace(recipe(trace), seed=lab.seed)
        made = blend(wanted, Settings().system, lab.data)
        targets.append(
            {
                "trace": trace,
                "requests": len(made.workload),
                "density_wanted": wanted.density,
                "density": made.reached.density,
                "sharing_wanted": wanted.sharing,
                "sharing": made.reached.sharing,
                "error": made.reached.error(wanted),
            }
        )
        sources += [{"trace": trace, **row._asdict()} for row in made.rows]
    return {"targets": Table.of(targets), "sources": Table.of(sources)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Both targets within 1 % and 400,000 requests each."""
    targets = tables["targets"]
    error, least = max(targets.column("error")), min(targets.column("requests"))
    return [
        sign(
            "workloads",
            error <= 0.01 and least >= 400_000,
            f"{least:,} requests or more, targets missed by {error:.2%} at most",
        )
    ]
