"""Who is served when in a simulated run, as a table, and as the lines of batch files in that
order.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from blendsim.errors import InputError
from blendsim.files import replacing
from blendsim.plan import Plan
from blendsim.request import Workload
from blendsim.search.problem import prepare
from blendsim.settings import Settings
from blendsim.sim.served import request_times
from blendsim.steplog import StepLog
from blendsim.traces.content import text_lines
from blendsim.traces.jsonl import json_object

ENDINGS = (".jsonl", ".csv", ".parquet")


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


def served_table(workload: Workload, plan: Plan, settings: Settings, log: StepLog) -> pa.Table:
    """A row a request of the simulated run that `log` is of, by replica and by when they entered.

    Seconds are counted from the run's beginning: a request enters when the first step that computes
    some of it begins, and has a token when the step that samples it ends. Output tokens are those
    that it was run with: true ones where the trace has them, else drawn.
    """
    require_apart(settings)
    problem = prepare(workload, settings)
    outputs = problem.true_lengths
    served = request_times(
        plan,
        workload,
        outputs,
        problem.prompts,
        problem.model.system,
        settings.flavour(),
        log,
        settings.host,
    )
    columns = {
        "id": workload.ids,
        "source": np.array(workload.source_names, np.str_)[workload.source],
        "replica": served.rank,
        "place": served.place,
        "prompt_tokens": workload.prompt_len,
        "output_tokens": outputs,
        "hit_tokens": served.hit_tokens,
        "entered": served.entered,
        "first_token": served.first_token,
        "ended": served.ended,
        "was_preempted": served.was_preempted,
    }
    if served.is_left is not None:
        columns["end"] = np.where(served.is_left, "compute", "memory")
    order = np.lexsort((served.place, served.rank))
    return pa.table({name: column[order] for name, column in columns.items()})


def write_served(table: pa.Table, path: Path) -> None:
    """As Parquet or CSV, by the file's ending; nothing half-written is left."""
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            pacsv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)


def lines_in_order(
    table: pa.Table, replica: int, files: Sequence[Path], names: Sequence[str], path: Path
) -> None:
    """Write to `path` the lines of OpenAI batch `files` that the replica serves, as they stand
    there, in its order. `names` are the files' in the pool, whose ids begin with them where there
    are several.
    """
    lines: dict[str, str] = {}
    for file, name in zip(files, names, strict=True):
        prefix = f"{name}/" if len(files) > 1 else ""
        with text_lines(file) as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    row = json_object(line, f"{file}, line {number}")
                    lines[f"{prefix}{row['custom_id']}"] = line.rstrip("\r\n")
    ids = table.filter(pc.equal(table["replica"], replica))["id"].to_pylist()
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for one in ids:
            out.write(lines[one] + "\n")
