"""Looking back at a run: what its step log is held against, found from the settings that it names
and, where it can be read, from the pool that it served.
"""

from dataclasses import replace
from typing import NamedTuple

from blendsim.errors import BlendsimError, InputError
from blendsim.perf.measured import chosen_model
from blendsim.perf.pricing import StepWork, price_work
from blendsim.prefix import shareable_tokens
from blendsim.report.advice import of_pool
from blendsim.report.gist import Hindsight, is_measured
from blendsim.report.losses import Losses, losses, price
from blendsim.report.matching import differing_machines
from blendsim.report.metrics import Place, kv_use
from blendsim.report.small_steps import with_small_steps
from blendsim.request import Workload
from blendsim.search.problem import Problem, prepare
from blendsim.search.trial import block_size, find_bounds, find_place
from blendsim.serving.flavour import Flavour
from blendsim.settings import Settings
from blendsim.steplog import NOT_COUNTED, StepLog
from blendsim.wording import Say


class Ground(NamedTuple):
    """What a run took place on."""

    settings: Settings
    engine: Flavour
    place: Place


class AnotherPool(InputError):
    """The pool is not the one that the log is of."""


def find_ground(settings: Settings, log: StepLog) -> Ground:
    """By the settings, and the engine that the log names."""
    engine = settings.for_engine(str(log.meta.get("engine", settings.engine))).flavour()
    return Ground(settings, engine, find_place(settings, engine))


def own_work(log: StepLog) -> StepWork | None:
    """Compute and memory seconds of every step, as a simulated log has them."""
    if is_measured(log):
        return None
    return StepWork(log.time("compute_seconds"), log.time("memory_seconds"))


def priced_work(log: StepLog, ground: Ground) -> StepWork | None:
    """Compute and memory seconds of every step by the model of the settings. None if the log is of
    another machine than theirs.
    """
    if differing_machines(log.meta, log.meta):
        return None
    settings, engine = ground.settings, ground.engine
    costs = engine.costs(chosen_model(settings.system, settings.overlap, settings.profile))
    priced: StepWork = price_work(costs, log.counts)
    return priced


def look_back(
    log: StepLog,
    ground: Ground,
    workload: Workload,
    progress: Say = lambda _: None,
    token_budget: int | None = None,
) -> Hindsight:
    """The run beside its pool. InputError if the log is not a whole run of this pool on the system
    that the bounds would be of. The account is at the prices of steps of up to `token_budget`
    tokens, by itself the engine's own; a larger one's hold for it, too.
    """
    _require_whole(log, workload)
    if differs := differing_machines(log.meta, log.meta):
        raise InputError(f"{differs[0]}, so the bounds are not this run's")
    problem = prepare(workload, ground.settings, progress)
    _require_outputs(log, problem)
    progress("finding bounds")
    block = block_size(problem, [ground.engine])
    limits = find_bounds(problem, ground.engine.token_budget, block)
    budget = token_budget or ground.engine.token_budget
    account, lacking = _account(log, ground, problem, block, budget)
    overlaps = ground.engine.overlaps
    used = kv_use(log, ground.place.capacity_blocks) if _counts(log, "held_blocks") else None
    advice = of_pool([], limits, problem.model, log.end, overlaps=overlaps)
    return Hindsight(
        input_tokens=int(workload.prompt_len.sum()),
        output_tokens=int(problem.true_lengths.sum()),
        shareable_tokens=shareable_tokens(workload, problem.prompts, block),
        limits=limits,
        account=account,
        no_account=lacking,
        advice=with_small_steps(
            advice, log, limits, problem.model, ground.engine.token_budget, used
        ),
    )


def _require_whole(log: StepLog, workload: Workload) -> None:
    """By what the log counts: every request finished, every prompt token computed or found."""
    if log.meta.get("complete") is False:
        raise InputError("the run did not serve all of its pool")
    finished, requests = int(log.count("finished").sum()), len(workload)
    if _counts(log, "finished") and finished != requests:
        raise AnotherPool(f"the log has {finished:,} of {requests:,} requests finished")
    if not _counts(log, "prefill_tokens", "hit_tokens"):
        return
    served = int(log.count("prefill_tokens").sum() + log.count("hit_tokens").sum())
    held = int(workload.prompt_len.sum())
    # NOTE: what was thrown out is computed again, outputs too, so there may be more than prompts.
    if served < held or (served > held and not _may_compute_again(log)):
        raise AnotherPool(f"the log is of {served:,} prompt tokens, the traces have {held:,}")


def _require_outputs(log: StepLog, problem: Problem) -> None:
    """Every output token is sampled once, though its KV may be computed again."""
    generated, held = int(log.count("sampled_tokens").sum()), int(problem.true_lengths.sum())
    if _counts(log, "sampled_tokens") and generated != held:
        raise AnotherPool(f"the log is of {generated:,} output tokens, the traces have {held:,}")


def _counts(log: StepLog, *names: str) -> bool:
    """Whether the engine told these columns."""
    return set(names).isdisjoint(log.meta.get(NOT_COUNTED, []))


def _may_compute_again(log: StepLog) -> bool:
    return not _counts(log, "preempted") or bool(log.count("preempted").any())


def _account(
    log: StepLog, ground: Ground, problem: Problem, block: int, token_budget: int
) -> tuple[Losses | None, str]:
    """Where the seconds went; or None and why."""
    if is_measured(log):
        return None, "they are told apart for simulated runs; report the simulated log"
    engine, model = ground.engine, problem.model
    try:
        prices = price(
            problem.workload,
            problem.true_lengths,
            problem.prompts,
            replace(model, system=replace(model.system, block_tokens=block)),
            token_budget,
            engine.nano_batches,
        )
        return losses(log, prices), ""
    except BlendsimError as error:
        return None, str(error)
