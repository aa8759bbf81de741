"""A model that is ready to answer: on our runtime, or in vLLM."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blendsim.errors import InputError
from blendsim.live.engine import Engine, libraries, require_vllm_if_plain
from blendsim.specs import GPUS, gpu_name
from blendsim.wording import Say

if TYPE_CHECKING:
    from blendrt.generate.wanted import Answer, Wanted
    from blendrt.loading import ModelChoice
    from blendrt.recorder import Recorder
    from blendrt.replay.job import Job
    from blendsim.request import Workload
    from blendsim.settings import Settings

Told = Callable[["Answer"], None]
#: Returns what is to be noted.
AnswerJob = Callable[["Job", "Wanted", Told, "Recorder"], list[str]]


@dataclass(frozen=True, slots=True)
class Answerer:
    """What is to answer: found and checked, not loaded yet."""

    settings: "Settings"  # those asked for, for the GPU found and the engine's rules
    engine: Engine
    choice: "ModelChoice"
    device: Any
    machine: dict[str, Any]  # what it runs on
    ends: frozenset[int]  # tokens that end an answer
    text: Callable[[Sequence[int]], str]
    is_plain: bool = False  # vLLM follows no plan
    signature: str | None = None  # of a random model, which its answers bear

    @property
    def context(self) -> int:
        """Tokens of prompt and answer that the model takes at most."""
        return int(self.choice.config.context)

    @property
    def vocab(self) -> int:
        """Token ids that the model has."""
        return int(self.choice.config.vocab)

    @property
    def is_planned_for_it(self) -> bool:
        """Whether plans are made by the profile of what runs them."""
        return gpu_name(self.machine["device"]) == self.settings.gpu

    @property
    def notes(self) -> list[str]:
        """What is to be said of the profile that plans are made by."""
        device, gpu = self.machine["device"], self.settings.gpu
        if self.is_planned_for_it or device == "cpu":
            return []
        return [
            f"{device} is none of the GPUs that have a profile: planned by that of {gpu}, so the "
            "order is a guess; gpu under [settings] of a --config file names a nearer one"
        ]

    def require_own_ids(self, workload: "Workload") -> None:
        """InputError unless prompts are wholly ids of the model's vocabulary."""
        from blendrt.generate.answer import require_own_ids

        require_own_ids(workload, self.vocab)

    def load(self, stack: ExitStack, longest: int, has_stops: bool, say: Say) -> "Loaded":
        """Load it, for requests of at most `longest` tokens with their answers; `stack` lets go of
        it.
        """
        say(f"loading {self.choice.config.name}")
        if self.engine is Engine.VLLM:
            return Loaded(self.settings, _in_vllm(self, stack, longest, has_stops))
        return _on_blendrt(self)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be asked."""

    settings: "Settings"  # on our runtime with the KV memory there is
    answer: AnswerJob


def find_answerer(
    settings: "Settings", called: str, gpu: bool, engine: Engine, is_plain: bool = False
) -> Answerer:
    """What is asked for, the model as the user `called` it, or an error in a line."""
    from blendsim.serving.flavour import VLLM_PLANNED
    from blendsim.traces.tokens import model_tokens

    require_vllm_if_plain(engine, is_plain)
    settings.require_runnable("run")
    if settings.tp > 1 or settings.dp > 1:
        raise InputError(f"tp = {settings.tp}, dp = {settings.dp}: run answers on one GPU")
    if engine is Engine.VLLM and not gpu:
        raise InputError("--engine vllm runs on a GPU only; add --gpu")
    with libraries("run"):
        from blendrt import loading
        from blendrt.generate.ends import answer_ends
        from blendrt.generate.random_model import NAME, SIGNATURE, random_model
        from blendrt.machine import describe
    signature = None
    if settings.model == NAME:
        settings, signature = replace(settings, model=str(random_model(gpu))), SIGNATURE
    device = loading.find_device(gpu)
    choice = loading.choose_model(settings.model, settings.spec, gpu)
    if choice.directory is None and signature is None:
        lacking = "no *.safetensors there" if Path(called).is_dir() else "is a name"
        raise InputError(
            f"--model {called}: {lacking}, and run needs a Hugging Face directory with the model's "
            "weights; download it and give its path, or tiny for a random model"
        )
    text, ends = model_tokens(settings.model).text, answer_ends(Path(settings.model))
    if engine is Engine.VLLM:
        from blendrt.vllm.feed import library

        library()
    machine = describe(device)
    found = gpu_name(machine["device"])
    found = found if found in GPUS else settings.gpu
    rules = loading.SEQUENTIAL
    if engine is Engine.VLLM:
        rules = Engine.VLLM.value if is_plain else VLLM_PLANNED
    settings = replace(settings, gpu=found, engine=rules)
    return Answerer(settings, engine, choice, device, machine, ends, text, is_plain, signature)


def _on_blendrt(found: Answerer) -> Loaded:
    from blendrt import loading
    from blendrt.generate.answer import answer
    from blendrt.generate.sampler import scratch_bytes

    decoder = loading.load_decoder(found.choice, found.settings.seed, found.device)
    runtime = loading.Runtime(decoder, loading.SEQUENTIAL, found.settings.seed)
    samples = found.settings.flavour().max_running
    spared = scratch_bytes(decoder.config.vocab, samples, decoder.dtype.itemsize)
    room = loading.kv_bytes_that_fit(runtime, found.settings.system, spared)
    kv_bytes = min(room, found.settings.system.kv_capacity_bytes)

    def answer_job(job: "Job", wanted: "Wanted", told: Told, recorder: "Recorder") -> list[str]:
        answer(job, runtime, wanted, found.text, told, recorder)
        return found.notes

    return Loaded(replace(found.settings, kv_bytes=kv_bytes), answer_job)


def _in_vllm(found: Answerer, stack: ExitStack, longest: int, has_stops: bool) -> AnswerJob:
    """vLLM starts with the first job, as it is made for a plan's rules, and stays for the next."""
    from blendrt.vllm.feed import open_engine
    from blendrt.vllm.generate import VllmAnswers

    started: list[VllmAnswers] = []
    start = partial(
        open_engine,
        seed=found.settings.seed,
        longest=longest,
        has_tokenizer=has_stops,
        can_follow=not found.is_plain,
    )
    how = found.choice.config.vocab, found.text, found.is_plain

    def answer_job(job: "Job", wanted: "Wanted", told: Told, recorder: "Recorder") -> list[str]:
        if not started:
            engine = stack.enter_context(start(job, found.choice))
            started.append(VllmAnswers(engine, *how))
        courses = started[0].answer(job, wanted, told, recorder)
        return [*found.notes, *(note for course in courses if (note := course.note()) is not None)]

    return answer_job
