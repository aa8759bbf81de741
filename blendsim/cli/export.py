"""`blendsim export PLAN`: a plan's requests in the order in which they are served, for engines that
take them as they come, and when each is served, for whoever looks at single requests.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blendsim import __version__
from blendsim.cli import options as o
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.places import require_places
from blendsim.cli.planned import naming_files, read_planned
from blendsim.cli.progress import Progress
from blendsim.cli.remarks import beyond_run_batch, fed_in_order, guessed_once
from blendsim.cli.servers import flags_assumed, server_json
from blendsim.cli.stopping import ends_at_once

if TYPE_CHECKING:
    from blendsim.search.served import Serving
    from blendsim.traces.raw_lines import LineFile
    from blendsim.traces.seam import ReadOptions

LINES = ".jsonl"


def export(
    plan: Annotated[Path, typer.Argument(help="A plan that `blendsim plan -o` wrote.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write here: .jsonl the traces' own lines in order, .csv or .parquet when "
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
        from blendsim.files import sha256
        from blendsim.search import served as by_request
        from blendsim.traces.raw_lines import raw_lines, write_lines

        made, asked = read_planned(plan, workload)
        by_request.require_ending(output)
        by_request.require_apart(asked.settings)
        replicas = sorted(set(made.rank.tolist()))
        places, files = [output], []
        if output.suffix == LINES:
            say("looking for the traces' lines")
            asked.require_there(*asked.traces)
            files = _line_files(asked.traces, asked.read)
            places = _places(output, replicas, asked.settings.dp)
        require_places(places, [plan, *asked.inputs, *(file.path for file in files)])
        say(asked.reading)
        with ends_at_once():
            pool, lines = asked.load(say), {}
            if output.suffix == LINES:
                say("reading the traces' lines")
                lines = raw_lines(files, pool.source_names)
            with naming_files(asked):
                done = by_request.serve(pool, made, asked.settings, say)
        done = done._replace(notes=guessed_once(asked, done.workload, done.notes))
        counts = [len(done.workload)]
        if output.suffix == LINES:
            say("writing lines")
            parts = done.by_replica()
            counts = [len(rows) for rows in parts]
            ids = [done.workload.ids[rows].tolist() for rows in parts]
            write_lines(lines, dict(zip(places, ids, strict=True)))
            urls = [lines[one].url for one in done.workload.ids.tolist()]
            told = [*fed_in_order(made), *beyond_run_batch(asked.settings, urls)]
            done = done._replace(notes=[*done.notes, *told])
        else:
            meta = {"plan_sha256": sha256(plan), "settings": asdict(asked.settings)}
            meta |= {"source": asked.source, "blendsim": __version__}
            by_request.write_served(by_request.served_table(done), output, meta)
        done = done._replace(notes=[*done.notes, *flags_assumed(asked.settings)])
    if json:
        written = {"requests": len(done.workload), "files": places, "file_requests": counts}
        server = server_json(asked.settings)
        print_json({**written, **_seconds(done), "server": server, "notes": done.notes})
        return
    print_lines(_told(done, places))


def _places(output: Path, replicas: Sequence[int], dp: int) -> list[Path]:
    """A file a replica that has requests: the name that is asked for, with the replica's number
    where there are several.
    """
    if dp < 2:
        return [output]
    return [output.with_name(f"{output.stem}-{replica}{output.suffix}") for replica in replicas]


def _line_files(traces: Sequence[str], read: "ReadOptions") -> "list[LineFile]":
    """The files with the traces' lines, or InputError unless all have lines that are requests."""
    from blendsim.errors import InputError
    from blendsim.traces.load import DEMO_PREFIX, format_of
    from blendsim.traces.raw_lines import LINE_FORMATS, line_file

    files = []
    for trace in traces:
        is_demo = trace.startswith(DEMO_PREFIX)
        file = None if is_demo else line_file(Path(trace), read.format)
        if file is None:
            name = "a demo source" if is_demo else format_of(Path(trace), read.format).name
            known = " or ".join(form.name for form in LINE_FORMATS)
            raise InputError(
                f"{trace}: is {name}, not {known}, so there are no lines to put in order; name the "
                "output .csv or .parquet for a table of requests"
            )
        files.append(file)
    return files


def _seconds(done: "Serving") -> dict[str, float]:
    """Of the simulated run, and of one request's stay from entering to its last token."""
    served = done.served
    stay = served.ended - served.entered
    return {
        "seconds": float(served.ended.max(initial=0.0)),
        "mean_stay_seconds": float(stay.mean()),
        "longest_stay_seconds": float(stay.max(initial=0.0)),
    }


def _told(done: "Serving", places: Sequence[Path]) -> Iterator[str]:
    """What was written, and how long requests were under way."""
    from blendsim.report.tables import paragraphs, seconds
    from blendsim.wording import counted

    wrote = ", ".join(str(place) for place in places)
    whole, mean, most = (seconds(value) for value in _seconds(done).values())
    columns, requests = width(), counted(len(done.workload), "request")
    yield from paragraphs(
        [
            f"{requests} in the order in which they are served, written to {wrote}. In "
            f"the simulated run one takes {mean} s from entering to its last token in the mean, "
            f"{most} s at most; all are done after {whole} s.",
        ],
        columns,
    )
    for note in done.notes:  # not broken at hyphens: flags are to be copied
        yield textwrap.fill(
            f"Note: {note}", columns, subsequent_indent="  ", break_on_hyphens=False
        )
