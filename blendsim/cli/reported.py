"""What a step log remembers of where it came from, read again: settings, traces, the plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.cli import options as o
from blendsim.cli.noted import settled, settled_source
from blendsim.cli.planned import asked_for
from blendsim.cli.progress import Progress

if TYPE_CHECKING:
    from blendsim.perf.pricing import StepWork
    from blendsim.report.gist import Hindsight
    from blendsim.request import Workload
    from blendsim.search.looking_back import Ground
    from blendsim.steplog import StepLog


_PLAN = "plan_sha256"  # key of a log's metadata


class Found(NamedTuple):
    """What was found out about a log; None where it could not be, and `notes` say why."""

    ground: "Ground | None"
    work: "StepWork | None"
    hindsight: "Hindsight | None"
    served: "Workload | None"
    notes: list[str]


def find(
    log: "StepLog", path: Path, plan: Path | None, workload: Path | None, say: Progress
) -> Found:
    """Everything that the metadata of the log at `path` lead to. What cannot be read, or is of
    another pool, is a note, unless it was named on the command line: then it is an error. A log of
    `run` has no pool, whatever is named.
    """
    from blendsim.errors import BlendsimError
    from blendsim.search.looking_back import AnotherPool, find_ground, look_back, own_work

    notes = [*_broken_off(log), *_noted(log), *_unnamed(log, plan)]
    is_named = plan is not None or (workload is not None and not _is_part(log))
    ground, work, served = None, own_work(log), None
    try:
        asked = _asked(log.meta, path, workload)
        ground = find_ground(asked.settings, log)
        work = work or _priced(log, ground)
        served = _served(log, plan, asked, say)
        return Found(ground, work, look_back(log, ground, served, say), served, notes)
    except BlendsimError as error:
        if is_named and (served is None or isinstance(error, AnotherPool)):
            raise
        notes.append(f"Bounds and the account of the seconds are left out: {error}.")
    return Found(ground, work, None, served, notes)


class Both(NamedTuple):
    """What was found out about two logs of one pool, their accounts at the same prices as far as
    engines and GPUs let them.
    """

    first: Found
    second: Found


def find_both(log: "StepLog", found: Found, other: "StepLog", path: Path, say: Progress) -> Both:
    """`found` was found out about the first log; the second, `other` at `path`, is held against the
    pool of that. InputError for a log of another pool or model; what else keeps it from having an
    account is a note.
    """
    from blendsim.errors import BlendsimError, InputError
    from blendsim.search.looking_back import AnotherPool, find_ground, look_back, own_work

    notes, here, ground = [*_broken_off(other), *_noted(other)], found.ground, None
    second = Found(None, own_work(other), None, found.served, notes)
    try:
        ground = find_ground(_asked(other.meta, path, None).settings, other)
        second = second._replace(ground=ground)
        if here and ground.settings.model != here.settings.model:
            models = ground.settings.model, here.settings.model
            raise AnotherPool(f"it is of {models[0]}, the first log of {models[1]}")
        if found.served is None or here is None:
            raise InputError("the pool of the first log cannot be read")
        # NOTE: prices of other budgets charge the same step to other causes.
        most = max(here.engine.token_budget, ground.engine.token_budget)
        second = second._replace(hindsight=look_back(other, ground, found.served, say, most))
        if found.hindsight and most > here.engine.token_budget:
            found = found._replace(hindsight=look_back(log, here, found.served, say, most))
    except AnotherPool as error:
        raise InputError(f"--against {path}: {error}; give a run of the same pool") from error
    except BlendsimError as error:
        notes.append(f"The account of the second log's seconds is left out: {error}.")
    return Both(found, second)


def _is_part(log: "StepLog") -> bool:
    """Whether it is of the part of a batch file that `run` answered last."""
    return "batch" in log.meta


def _broken_off(log: "StepLog") -> list[str]:
    """A note on a run that did not come to its end."""
    from blendsim.steplog import MEASURED_ROWS

    if log.meta.get("complete") is not False:
        return []
    if (rows := log.meta.get(MEASURED_ROWS)) is not None:
        return [
            f"The replay broke off: {len(rows):,} of {len(log):,} steps were measured. All other "
            "seconds are a guess at the rate of those, and so is what is made of them."
        ]
    return ["The run broke off: this is what it did until then."]


def _noted(log: "StepLog") -> list[str]:
    """What `simulate` noted of the run."""
    return [f"{note}." for note in log.meta.get("notes", [])]


def _unnamed(log: "StepLog", plan: Path | None) -> list[str]:
    """A note where a plan is given and the log does not say which one ran."""
    if plan is None or _PLAN in log.meta:
        return []
    return [
        f"The log does not name its plan (it has no {_PLAN}): by policy and requests alone {plan} "
        "may be the one that ran."
    ]


def _priced(log: "StepLog", ground: "Ground") -> "StepWork | None":
    """The steps' work; None without a profile, as the bounds then say."""
    from blendsim.errors import ProfileError
    from blendsim.search.looking_back import priced_work

    try:
        return priced_work(log, ground)
    except ProfileError:
        return None


def traces_of(log: "StepLog") -> list[str]:
    """The traces that a log names."""
    source = log.meta.get("source")
    return source["traces"] if isinstance(source, dict) else []


def _asked(meta: Mapping[str, Any], path: Path, workload: Path | None) -> o.Asked:
    """The settings and the pool that the log at `path` names."""
    from blendsim.errors import InputError
    from blendsim.settings import remembered, require_same_model

    if not isinstance(meta.get("settings"), dict):
        raise InputError("the log does not say by which settings it ran")
    settings = remembered(settled(meta["settings"], path), "the log's settings")
    require_same_model(settings, meta, "the log's settings")
    source = meta.get("source")
    source = settled_source(source, path) if isinstance(source, dict) else None
    return asked_for(settings, source, workload, "the log's source")


def _served(log: "StepLog", plan: Path | None, asked: o.Asked, say: Progress) -> "Workload":
    """The pool of the log's traces, or of the plan's; held against the plan where one is given."""
    from blendsim.errors import InputError, PlanMismatch
    from blendsim.files import sha256
    from blendsim.plan import read_plan, require_same_workload

    made = None
    if plan is not None:
        made = read_plan(plan)
        if log.meta.get(_PLAN) not in (None, sha256(plan)):
            raise PlanMismatch(f"{plan}: the log is of another plan; give the one that ran")
        if (ran := log.meta.get("policy", made.policy)) != made.policy:
            raise PlanMismatch(
                f"{plan}: is a plan of policy {made.policy!r}, the log is of {ran!r}; give the "
                "plan that ran"
            )
    if _is_part(log):
        raise InputError(
            "the log is of the part of a batch that `run` answered last, not of a pool"
        )
    if not asked.traces:
        raise InputError("the log does not say which traces it is of; --workload names them")
    say(asked.reading)
    pool = asked.load(say)
    if made is not None:
        require_same_workload(made, pool)
    return pool
