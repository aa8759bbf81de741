"""From what a user names, a file or a `demo:` source, to a workload: the one door of this room."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blendsim.errors import InputError, UnknownName
from blendsim.printable import listed
from blendsim.request import Workload, pool
from blendsim.traces.catalog import CATALOG
from blendsim.traces.counts import shown
from blendsim.traces.hashed_jsonl import HASHED_FORMATS
from blendsim.traces.length_names import find_names, has_length
from blendsim.traces.lengths_csv import CSV_FORMATS
from blendsim.traces.lengths_jsonl import LENGTHS_JSONL
from blendsim.traces.limits import within_max_tokens
from blendsim.traces.openai_batch import OPENAI_BATCH
from blendsim.traces.plain_prompts import PROMPTS_JSONL
from blendsim.traces.rest import is_answered, left, require_results
from blendsim.traces.results import Results, other_prompts, read_results, with_lengths
from blendsim.traces.seam import Format, Head, ReadOptions, Told, head, silent
from blendsim.traces.sharegpt import SHAREGPT
from blendsim.traces.unknown import reason
from blendsim.traces.workload_file import WORKLOAD
from blendsim.wording import BETTER, Lacking

#: In the order in which they are tried: a line with a prompt may have lengths as well.
FORMATS: tuple[Format, ...] = (
    *CSV_FORMATS,
    *HASHED_FORMATS,
    OPENAI_BATCH,
    PROMPTS_JSONL,
    SHAREGPT,
    LENGTHS_JSONL,
    WORKLOAD,
)
DEMO_PREFIX = "demo:"
_MOST_TOLD = 3  # ids named in an error


def load(spec: Path | str, options: ReadOptions | None = None) -> Workload:
    """The workload a path or a `demo:` name stands for."""
    return load_pool([spec], options)


def load_pool(
    specs: Path | str | Sequence[Path | str],
    options: ReadOptions | None = None,
    told: Told = silent,
) -> Workload:
    """Several files or names, or one, as one pool; `told` hears how far reading is."""
    if isinstance(specs, Path | str):
        specs = [specs]
    if not specs:
        raise InputError("no trace given; name a file or a demo: source with --trace")
    options = options or ReadOptions()
    if options.rest:
        require_results(options.lengths)
    workloads = [read_trace(spec, options, told) for spec in specs]
    first: list[str] = []
    if options.lengths is not None:
        results = read_results(options.lengths, told, may_be_torn=options.rest)
        _require_one_each(workloads, results, options.lengths, options.rest)
        first = [*results.notes, *_strangers(workloads, results, options.lengths)]
        workloads = _fill(workloads, results, options.lengths, options.rest)
    workloads = [within_max_tokens(workload) for workload in workloads]
    if options.lengths is not None and options.rest:
        workloads = left(workloads, results, options.lengths)
    has_results = options.lengths is not None
    pooled = pool([_with_guess_note(workload, has_results) for workload in workloads])
    return replace(pooled, notes=(*first, *pooled.notes))


def format_of(path: Path, name: str | None = None) -> Format:
    """The format called `name`, or the one the file's content speaks for."""
    if name is not None:
        return _named(name)
    beginning = head(path)
    for form in FORMATS:
        if form.matches(beginning):
            return form
    start = shown(beginning.line.decode("utf-8", "backslashreplace").strip())
    told = f"{path}: unknown format, it begins {start}"
    why = reason(beginning.line)
    if why is not None:
        raise InputError(f"{told}: {why}")
    if (names := (*beginning.columns, *sorted(beginning.keys))) and has_length(names):
        find_names(names, f"{path}, line 1")  # says which of the two lengths is lacking
    raise InputError(f"{told}: {_near(beginning)}")


def _near(beginning: Head) -> str:
    """What files of this kind have that are read."""
    if not beginning.keys and len(beginning.columns) < 2:
        names = ", ".join(form.name for form in FORMATS)
        return f"none of {names} begins so; see docs/traces.md"
    kind, has = ("JSONL", "keys") if beginning.keys else ("CSV", "columns")
    read = "; ".join(
        f"{form.name} {form.expects.removeprefix(kind).strip()}"
        for form in FORMATS
        if form.expects.startswith(kind)
    )
    return f"its {has} are of none of {read}; rename them, or see docs/traces.md"


def _named(name: str) -> Format:
    for form in FORMATS:
        if form.name == name:
            return form
    raise UnknownName("format", name, [form.name for form in FORMATS])


def read_trace(spec: Path | str, options: ReadOptions, told: Told = silent) -> Workload:
    """What a path or a `demo:` name holds by itself: without results of an earlier run, and without
    what is noted of output lengths that are lacking. A Path is a file, whatever its name.
    """
    if not isinstance(spec, Path | str):
        raise InputError(f"{spec!r:.40} is no trace; give the path of a file or a demo: name")
    if options.format is not None:
        _named(options.format)  # a wrong name is wrong for demo sources too
    if isinstance(spec, str) and spec.startswith(DEMO_PREFIX):
        from blendsim.traces.demo import demo

        return demo(spec.removeprefix(DEMO_PREFIX), options.seed)
    path = Path(spec)
    if str(spec) in {source.name for source in CATALOG} and not path.exists():
        raise InputError(f"{spec}: no such file; `blendsim trace fetch {spec}` downloads it")
    return format_of(path, options.format).read(path, options, told)


def _fill(workloads: list[Workload], results: Results, path: Path, is_rest: bool) -> list[Workload]:
    """The workloads with output lengths, and a note where prompts are not those of the results.
    InputError if no request wants one; for the rest of a batch, if none has an answer.
    """
    filled = [with_lengths(workload, results.lengths) for workload in workloads]
    gained = sum(int(w.has_output.sum()) for w in filled)
    is_of_some = is_rest and any(is_answered(w, results).any() for w in workloads)
    if gained == sum(int(w.has_output.sum()) for w in workloads) and not is_of_some:
        raise InputError(
            f"{path}: none of its {len(results.lengths):,} results belongs to a request without "
            f"output length; {_instead(workloads, results)}"
        )
    told = [other_prompts(workload, results, path) for workload in workloads]
    return [
        workload if note is None else replace(workload, notes=(*workload.notes, note))
        for workload, note in zip(filled, told, strict=True)
    ]


def _instead(workloads: list[Workload], results: Results) -> str:
    """What to do with results of which none is of these requests."""
    lengths = results.lengths.values()
    if not lengths:
        return "no line has an answer: give the results of this batch, or leave --lengths out"
    if all(workload.has_output.all() for workload in workloads):
        return "give the results of this batch, or leave --lengths out"
    mean = round(sum(lengths) / len(lengths))
    return (
        "give the results of this batch, or in place of those of another batch of the same kind "
        f"--output-guess {mean}, their mean"
    )


def _require_one_each(
    workloads: list[Workload], results: Results, path: Path, is_rest: bool
) -> None:
    """InputError where a result could be of requests of several traces: those that want a length;
    for the rest of a batch, all.
    """
    first: dict[str, int] = {}
    for at, workload in enumerate(workloads):
        could = is_answered(workload, results) & (is_rest | ~workload.has_output)
        names = workload.ids[could].tolist()
        shared = [name for name in names if first.setdefault(name, at) != at]
        if shared:
            both = " and ".join(", ".join(workloads[one].origin) for one in (first[shared[0]], at))
            raise InputError(
                f"{path}: {both} both have requests called "
                f"{listed(list(map(shown, shared)), _MOST_TOLD)}, so that it cannot be told whose "
                "results they are; make ids unique, or plan the files apart"
            )


def _strangers(workloads: list[Workload], results: Results, path: Path) -> list[str]:
    """A note on results that belong to none of the requests."""
    left = results.lengths.keys() - {name for w in workloads for name in w.ids.tolist()}
    if not left:
        return []
    belong = "belongs" if len(left) == 1 else "belong"
    return [
        f"{len(left):,} of {len(results.lengths):,} results of {path} {belong} to no request of "
        "these traces"
    ]


def _with_guess_note(workload: Workload, has_results: bool) -> Workload:
    """Say so where output lengths will be guessed."""
    lacking = ~workload.has_output
    if not lacking.any() or workload.answered is not None:  # what is left of a batch is told so
        return workload
    count = int(lacking.sum())
    note = Lacking(
        f"{', '.join(workload.origin)}: {count:,} of {len(workload):,} requests "
        f"{'has' if count == 1 else 'have'} no output length, so that what is planned "
        "for them is a guess"
    )
    if not has_results:
        note = Lacking(f"{note}; {BETTER}")
    # NOTE: it may have been said when this workload was first read, and be plain text since.
    others = (each for each in workload.notes if each != note)
    return replace(workload, notes=(*others, note))
