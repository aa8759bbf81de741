"""Who is served when in a plan's simulated run, as a table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.files import replacing
from blendsim.plan import Plan, require_same_replicas, require_same_workload
from blendsim.printable import printable
from blendsim.request import Workload
from blendsim.search.problem import prepare
from blendsim.search.trial import find_engine, log_in
from blendsim.settings import Settings
from blendsim.sim.served import Served, request_times
from blendsim.steplog import write_parquet
from blendsim.wording import Say

SCHEMA, SCHEMA_VERSION = "served", 1
ENDINGS = (".jsonl", ".csv", ".parquet")


class Serving(NamedTuple):
    """A plan's run, request by request."""

    workload: Workload
    output_len: Ints  # (n,) that they were run with: true ones where the trace has them, else drawn
    served: Served
    notes: list[str]  # what was guessed or left out

    @property
    def order(self) -> Ints:
        """(n,) rows of the workload, by replica and by when they entered."""
        return np.lexsort((self.served.place, self.served.rank))

    def by_replica(self) -> list[Ints]:
        """Rows of the workload of each replica that has any, in its order; replicas ascending."""
        order = self.order
        return np.split(order, np.flatnonzero(np.diff(self.served.rank[order])) + 1)


def require_apart(settings: Settings) -> None:
    """InputError where a request is not served by one replica from its beginning to its end."""
    for is_asked, what in (
        (settings.cluster.is_disaggregated, f"topology {settings.topology}"),
        (settings.steals, "stealing between ranks"),
    ):
        if is_asked:
            raise InputError(f"export has no {what}, where requests change replicas; plan without")


def require_ending(path: Path) -> None:
    """InputError for a file name that does not say what is wanted."""
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: the name says what is written; end it in {', '.join(ENDINGS)}")


def serve(
    workload: Workload, plan: Plan, settings: Settings, progress: Say = lambda _: None
) -> Serving:
    """Simulate the plan on the true lengths, where the trace has them, and note who is served when.
    Raises PlanMismatch if it is for another workload or another number of replicas.
    """
    require_apart(settings)
    require_same_replicas(plan, settings.dp)
    require_same_workload(plan, workload)
    problem = prepare(workload, settings, progress)
    flavour, outputs = find_engine(problem, settings.engine), problem.true_lengths
    progress(f"simulating {plan.policy}")
    log = log_in(problem, plan, flavour, outputs)
    progress("going through the run request by request")
    served = request_times(
        plan,
        workload,
        outputs,
        problem.prompts,
        problem.model.system,
        flavour,
        log,
        settings.host,
    )
    return Serving(workload, outputs, served, problem.notes)


def served_table(done: Serving) -> pa.Table:
    """A row a request, by replica and by when they entered.

    Seconds are counted from the run's beginning: a request enters when the first step that computes
    some of it begins, and has a token when the step that samples it ends.
    """
    workload, served, order = done.workload, done.served, done.order
    columns: dict[str, Any] = {
        "source": np.array([printable(one) for one in workload.source_names])[workload.source],
        "replica": served.rank,
        "place": served.place,
        "prompt_tokens": workload.prompt_len,
        "output_tokens": done.output_len,
        "hit_tokens": served.hit_tokens,
        "entered": served.entered,
        "first_token": served.first_token,
        "ended": served.ended,
        "was_preempted": served.was_preempted,
    }
    if served.is_left is not None:
        columns["end"] = np.where(served.is_left, "compute", "memory")
    ids = [printable(one) for one in workload.ids[order].tolist()]
    return pa.table({"id": ids} | {name: column[order] for name, column in columns.items()})


def write_served(table: pa.Table, path: Path, meta: Mapping[str, Any]) -> None:
    """As Parquet, with `meta` in its schema's metadata, or as CSV, by the file's ending; nothing
    half-written is left.
    """
    if path.suffix == ".csv":
        with replacing(path) as temporary, temporary.open("wb") as file:
            pacsv.write_csv(table, file)
        return
    told = {"schema": SCHEMA, "version": SCHEMA_VERSION, **meta}
    kept = {b"blendsim": json.dumps(told, sort_keys=True).encode()}
    write_parquet(table.replace_schema_metadata(kept), path)
