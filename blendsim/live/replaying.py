"""From what the user wants a plan replayed on to a replay that is ready to start."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.errors import InputError
from blendsim.live.engine import Engine, libraries, require_vllm_if_plain
from blendsim.specs import gpu_name
from blendsim.wording import Say

if TYPE_CHECKING:
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.settings import Settings
    from blendsim.steplog import StepLog


class Executor(StrEnum):
    """How blendrt executes one."""

    SEQUENTIAL = "sequential"
    OVERLAP = "overlap"


class Wish(NamedTuple):
    """What the user wants a plan replayed on."""

    gpu: bool
    engine: Engine
    model: str | None
    sampled: int | None  # steps; None: all
    executor: Executor | None
    is_plain: bool = False  # vLLM is fed in the plan's order and follows no plan

    def check(self) -> None:
        """InputError for what does not go together."""
        if self.sampled is not None and self.sampled < 1:
            raise InputError(f"--sampled {self.sampled} must be at least 1")
        require_vllm_if_plain(self.engine, self.is_plain)
        if self.engine is Engine.BLENDRT:
            return
        if not self.gpu:
            raise InputError("--engine vllm runs on a GPU only; add --gpu")
        for name, value in (("--sampled", self.sampled), ("--executor", self.executor)):
            if value is not None:
                raise InputError(
                    f"{name} is not for --engine vllm, which runs its own way; drop it"
                )


class ReadyReplay(NamedTuple):
    """A replay that is ready to start."""

    measure: Callable[[], None]
    log: Callable[[Mapping[str, Any]], "StepLog"]  # at any time, of the steps so far
    output_tokens: int
    facts: dict[str, Any]  # what it runs on, for the step log
    notes: list[str]  # complete when it has run


def prepare(
    made: "Plan", pool: "Workload", settings: "Settings", wish: Wish, say: Say
) -> ReadyReplay:
    """Choose device and model, load them, and make the replay."""
    with libraries("replay"):
        from blendrt import loading
        from blendrt.machine import describe
    system = settings.system
    device = loading.find_device(wish.gpu)
    choice = loading.choose_model(wish.model, system.model, wish.gpu)
    say("sorting prompts by prefix")
    job = make_job(made, pool, settings, wish)
    facts: dict[str, Any] = {
        "engine": job.flavour.name,
        "runtime": wish.engine.value,
        "model": choice.config.name,
        "weights": "random" if choice.directory is None else str(choice.directory),
        "machine": describe(device),
    }
    notes = _notes(choice.config.name, settings, facts["machine"]["device"])
    if wish.sampled is not None and not wish.gpu:
        notes.append(
            "on a CPU a step timed alone can take several times what it takes in a run; "
            "the interval says only what drawing other steps would change"
        )

    def made_of(replay: Any, on: Any, total: int, what: str) -> ReadyReplay:
        told = partial(_tell, say, total, what)
        measure = partial(replay.measure, on, told=told)
        return ReadyReplay(measure, replay.log, int(job.output_len.sum()), facts, notes)

    if wish.engine is Engine.VLLM:
        from blendrt.vllm.feed import VllmReplay

        fed = VllmReplay(job, settings.seed, wish.is_plain)
        facts["scheduler"] = "plan" if fed.follows else "vllm"
        ready = made_of(fed, choice, len(pool), "requests")
        return ready._replace(measure=partial(_measure_and_note, ready, fed))
    executor = wish.executor or _default_executor(job.flavour.overlaps and wish.gpu)
    rule = loading.OverlapRule()
    facts["executor"] = executor.value
    if executor is Executor.OVERLAP:
        from blendsim.perf.measured import chosen_place

        place = chosen_place(system, settings.profile)
        rule = loading.overlap_rule(system, settings.overlap, device, place)
        facts["sm_partition"] = rule.default_sms > 0
    say(f"loading {choice.config.name}")
    decoder = loading.load_decoder(choice, settings.seed, device)
    runtime = loading.Runtime(decoder, executor.value, settings.seed, rule)
    if wish.sampled is None:
        from blendrt.replay.full import FullReplay

        return made_of(FullReplay(job), runtime, len(pool), "requests")
    from blendrt.replay.sampled import SampledReplay, profile_price

    price = profile_price(system, settings.overlap, settings.profile, job.flavour)
    some = SampledReplay(job, wish.sampled, settings.seed, price)
    return made_of(some, runtime, some.chosen, "steps")


def _measure_and_note(ready: ReadyReplay, fed: Any) -> None:
    """Measure it, and note where vLLM did not follow."""
    ready.measure()
    ready.notes.extend(fed.notes)


def make_job(made: "Plan", pool: "Workload", settings: "Settings", wish: Wish) -> Any:
    """The plan with all that a run of it takes, by the rules of what runs it."""
    from blendrt.replay.asked import asked_job

    if wish.engine is Engine.BLENDRT:
        return asked_job(made, pool, settings)
    job = asked_job(made, pool, settings, wish.engine.value)
    if wish.is_plain:
        return job
    from blendrt.vllm.lead import admitting_as

    return admitting_as(job, settings.engine)


def _tell(say: Say, total: int, what: str, done: int) -> None:
    say(f"{done * 10 // max(1, total) * 10} % of {total:,} {what} done")


def _default_executor(overlaps: bool) -> Executor:
    return Executor.OVERLAP if overlaps else Executor.SEQUENTIAL


def _notes(model: str, settings: "Settings", device: str) -> list[str]:
    """What sets the measured times apart from those the plan predicts."""
    if model != settings.system.model.name:
        return [
            f"{model} runs the schedule made for {settings.platform()}: same steps, other times"
        ]
    gpu = settings.system.gpu.name
    if gpu_name(device) != gpu:
        return [f"the plan is for {gpu}; its times are not those of {device}"]
    return []
