"""From what the user wants a plan replayed on to a run that is ready to start.

torch and what stands on it are loaded here and nowhere else in the command line.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.cli.options import Asked, platform
from blendsim.errors import InputError, Unavailable

if TYPE_CHECKING:
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.steplog import StepLog

Say = Callable[[str], None]
_LIBRARIES = {"torch": "runtime", "safetensors": "runtime"}  # and the extra that brings them


class Engine(StrEnum):
    """What executes the steps."""

    BLENDRT = "blendrt"
    VLLM = "vllm"


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

    def check(self) -> None:
        """InputError for what does not go together."""
        if self.sampled is not None and self.sampled < 1:
            raise InputError(f"--sampled {self.sampled} must be at least 1")
        if self.engine is Engine.BLENDRT:
            return
        if not self.gpu:
            raise InputError("--engine vllm runs on a GPU only; add --gpu")
        for name, value in (("--sampled", self.sampled), ("--executor", self.executor)):
            if value is not None:
                raise InputError(
                    f"{name} is not for --engine vllm, which runs its own way; drop it"
                )


class Run(NamedTuple):
    """A replay that is ready to start."""

    measure: Callable[[], None]
    log: Callable[[Mapping[str, Any]], "StepLog"]  # at any time, of the steps so far
    output_tokens: int
    facts: dict[str, Any]  # what it runs on, for the step log
    notes: list[str]


def prepare(made: "Plan", pool: "Workload", asked: Asked, wish: Wish, say: Say) -> Run:
    """Choose device and model, load them, and make the replay. Outputs are as long as `simulate`
    takes them: the trace's, or drawn where it has none.
    """
    with _libraries():
        from blendrt import loading
        from blendrt.machine import describe
        from blendrt.replay.job import Job
    from blendsim.planner.outlook import look_ahead, reported_lengths
    from blendsim.prefix import sort_prompts
    from blendsim.serving.flavour import find_flavour

    settings = asked.settings
    system = settings.system
    device = loading.find_device(wish.gpu)
    choice = loading.choose_model(wish.model, system.model, wish.gpu)
    say("sorting prompts by prefix")
    prompts = sort_prompts(pool)
    longest = system.longest_request
    drawn = look_ahead(pool, prompts, longest, settings.sample, settings.seed).drawn
    is_vllm = wish.engine is Engine.VLLM
    name = wish.engine.value if is_vllm else settings.engine
    flavour = find_flavour(name, settings.token_budget)
    job = Job(made, pool, reported_lengths(pool, drawn), prompts, system, flavour)
    notes = _notes(choice.config.name, asked, describe(device)["device"])
    facts: dict[str, Any] = {
        "engine": flavour.name,
        "runtime": wish.engine.value,
        "model": choice.config.name,
        "weights": "random" if choice.directory is None else str(choice.directory),
        "machine": describe(device),
    }

    def told(done: int) -> None:
        say(f"{done * 10 // max(1, total) * 10} % of {total:,} {what} done")

    total, what = len(pool), "requests"
    tokens = int(job.output_len.sum())
    if is_vllm:
        from blendrt.vllm.feed import VllmReplay

        fed = VllmReplay(job)
        return Run(partial(fed.measure, choice, settings.seed, told), fed.log, tokens, facts, notes)
    executor = wish.executor or _default_executor(flavour.overlaps and wish.gpu)
    rule = loading.overlap_rule(system, settings.overlap, device)
    say(f"loading {choice.config.name}")
    decoder = loading.load_decoder(choice, settings.seed, device)
    runtime = loading.Runtime(decoder, executor.value, settings.seed, rule)
    facts["executor"] = executor.value
    if executor is Executor.OVERLAP:
        facts["sm_partition"] = rule.default_sms > 0
    if wish.sampled is not None:
        from blendrt.replay.sampled import SampledReplay, profile_price

        price = profile_price(system, settings.overlap, flavour)
        some = SampledReplay(job, wish.sampled, seed=settings.seed, price=price)
        total, what = some.chosen, "steps"
        return Run(partial(some.measure, runtime, told=told), some.log, tokens, facts, notes)
    from blendrt.replay.full import FullReplay

    whole = FullReplay(job)
    return Run(partial(whole.measure, runtime, told), whole.log, tokens, facts, notes)


def _default_executor(overlaps: bool) -> Executor:
    return Executor.OVERLAP if overlaps else Executor.SEQUENTIAL


def _notes(model: str, asked: Asked, device: str) -> list[str]:
    """What sets the measured times apart from those the plan predicts."""
    settings = asked.settings
    if model != settings.system.model.name:
        return [f"{model} runs the schedule made for {platform(settings)}: same steps, other times"]
    gpu = settings.system.gpu.name
    if gpu.split("-")[0] not in device.lower():
        return [f"the plan is for {gpu}; its times are not those of {device}"]
    return []


@contextmanager
def _libraries() -> Iterator[None]:
    """Unavailable for a library that is not installed, and the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        raise Unavailable(
            f"blendsim replay needs {error.name}: pip install 'blendsim[{_LIBRARIES[error.name]}]'"
        ) from error
