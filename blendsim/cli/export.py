"""`blendsim export PLAN`: a plan's requests in the order in which they are served, for engines that
take them as they come, and when each is served, for whoever looks at single requests.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_places
from blendsim.cli.planned import read_planned
from blendsim.cli.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from blendsim.traces.seam import ReadOptions

LINES = ".jsonl"


def export(
    plan: Annotated[Path, typer.Argument(help="A plan that `blendsim plan -o` wrote.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write here: .jsonl the batch file's own lines in order, .csv or .parquet when "
            "each request is served.",
        ),
    ],
    workload: Annotated[
        Path | None,
        typer.Option(help="The workload, if not the traces that the plan remembers."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Write a plan's requests in the order in which they are served."""
    with Progress(is_whole_run=True) as say:
        from blendsim.search import simulate_plan
        from blendsim.search.served import (
            lines_in_order,
            require_apart,
            require_ending,
            served_table,
            write_served,
        )

        made, asked = read_planned(plan, workload)
        require_ending(output)
        require_apart(asked.settings)
        replicas = sorted(set(made.rank.tolist()))
        places = [output]
        if output.suffix == LINES:
            _require_batches(asked.traces, asked.read)
            places = _places(output, replicas)
        require_places(places, [plan, *asked.traces])
        say("reading traces")
        pool = asked.load()
        log = simulate_plan(pool, made, asked.settings, say).log
        say("going through the run request by request")
        table = served_table(pool, made, asked.settings, log)
        if output.suffix == LINES:
            say("writing lines")
            files = [Path(trace) for trace in asked.traces]
            for replica, place in zip(replicas, places, strict=True):
                lines_in_order(table, replica, files, pool.source_names, place)
        else:
            write_served(table, output)
    if json:
        print_json({"requests": len(pool), "files": [str(place) for place in places]})
        return
    print_lines(_told(table, places))


def _places(output: Path, replicas: Sequence[int]) -> list[Path]:
    """A file a replica: the name that is asked for, with the replica's number if there are more."""
    if len(replicas) < 2:
        return [output]
    return [output.with_name(f"{output.stem}-{replica}{output.suffix}") for replica in replicas]


def _require_batches(traces: Sequence[str], read: "ReadOptions") -> None:
    """InputError unless all traces are OpenAI batch files, whose lines are requests."""
    from blendsim.errors import InputError
    from blendsim.traces.load import DEMO_PREFIX, format_of
    from blendsim.traces.openai_batch import OPENAI_BATCH

    for trace in traces:
        if trace.startswith(DEMO_PREFIX) or format_of(Path(trace), read.format) != OPENAI_BATCH:
            raise InputError(
                f"{trace}: is no OpenAI batch file, so there are no lines to put in order; name "
                "the output .csv or .parquet for a table of requests"
            )


def _told(table: "pa.Table", places: Sequence[Path]) -> Iterator[str]:
    """What was written, and how long requests were under way."""
    from blendsim.report.tables import paragraphs

    stay: Any = table["ended"].to_numpy() - table["entered"].to_numpy()
    wrote = ", ".join(str(place) for place in places)
    yield from paragraphs(
        [
            f"{table.num_rows:,} requests in the order in which they are served, written to "
            f"{wrote}. In the simulated run one takes {stay.mean():,.1f} s from entering to its "
            f"last token in the mean, {stay.max(initial=0.0):,.1f} s at most; all are done after "
            f"{table['ended'].to_numpy().max(initial=0.0):,.1f} s."
        ],
        width(),
    )
