"""Options that several commands share, and how they, a TOML file and the dataclasses' defaults
become settings.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from blendsim.cli.config import read_config
from blendsim.cli.lists import LISTED, gpu_files, one_count, one_name
from blendsim.fields import Section, in_range, overlay

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.cli.progress import Progress
    from blendsim.request import Workload
    from blendsim.settings import Settings
    from blendsim.traces.seam import ReadOptions

Traces = Annotated[
    list[str],
    typer.Option("--trace", metavar="FILE|NAME", help="A trace; repeat it to plan one pool."),
]
_MODELS = (  # gpt-oss first: help breaks no name that stands in its first line
    "gpt-oss-20b, gpt-oss-120b, minimax-m2, deepseek-v3, kimi-k2, kimi-k2-thinking, kimi-k2.5, "
    "llama-2-7b, llama-3.1-8b, llama-3.1-70b, llama-3.2-3b, mistral-7b, mistral-small-24b, "
    "mistral-small-3.1-24b, phi-4, qwen-2.5-7b, qwen-2.5-7b-instruct, qwen-2.5-14b, "
    "qwen-2.5-14b-instruct, qwen-2.5-32b, qwen-2.5-32b-instruct, qwq-32b, qwen-2.5-72b, "
    "qwen-2.5-72b-instruct, qwen3-4b, qwen3-4b-2507, qwen3-8b, qwen3-14b, qwen3-32b, "
    "deepseek-67b, mixtral-8x7b, mixtral-8x22b, qwen3-30b-a3b, qwen3-30b-a3b-2507, "
    "qwen3-235b-a22b, qwen3-235b-a22b-2507, qwen3-coder-480b-a35b, "
    "qwen3.5-9b, qwen3.5-27b, qwen3.5-35b-a3b, qwen3.5-122b-a10b, qwen3.5-397b-a17b"
)
_GPUS = "a100-80g, h100, h200, l40s, b200"
Model = Annotated[
    str | None, typer.Option(help=f"One of {_MODELS}; or a Hugging Face directory or config.json.")
]
_GPU_FILE = "or a FILE.toml that describes one like these (docs/profiles.md)"
Gpu = Annotated[
    str | None,
    typer.Option(parser=one_name, metavar="NAME|FILE", help=f"One of {_GPUS}; {_GPU_FILE}."),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help=f"One of {_GPUS}; or several: a100-80g,h200; {_GPU_FILE}."
    ),
]
Tps = Annotated[str | None, typer.Option(help="Tensor-parallel GPUs a replica, or several: 1,2,4.")]
Pps = Annotated[
    str | None,
    typer.Option(help="Pipeline stages a replica, of --tp GPUs each, or several: 1,2,4."),
]
Dps = Annotated[str | None, typer.Option(help="Data-parallel replicas, or several: 1..8.")]
Price = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Prices of GPUs: says what to rent.")
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Time the run may take, as in 2h, 90m or 1h30m; a number is seconds."
    ),
]
MaxCost = Annotated[
    float | None, typer.Option(help="Money the run may cost, in the currency of --price.")
]
Tp = Annotated[
    int | None,
    typer.Option(parser=one_count, metavar="N", help="Tensor-parallel GPUs a replica."),
]
Pp = Annotated[
    int | None,
    typer.Option(
        parser=one_count, metavar="N", help="Pipeline stages a replica, of --tp GPUs each."
    ),
]
Dp = Annotated[
    int | None, typer.Option(parser=one_count, metavar="N", help="Data-parallel replicas.")
]
Topology = Annotated[
    str | None,
    typer.Option(help="colocated, or pools: 1P2D prefills on one replica, decodes on two."),
]
Link = Annotated[
    str | None, typer.Option(help="What KV moves over between pools; by itself the GPU's own link.")
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="nanoflow (overlaps), vllm, vllm-planned (vLLM that follows the plan), sglang "
        "(-mixed, -lpm, -dfs-weight) or sequential."
    ),
]
_WEIGHTS = (
    "Weights: none (bf16), fp8, fp8-block (a scale a block), nvfp4, or mxfp4 or int4 (experts)"
)
_OF_FILES = "by itself as the model's files say."
Quantization = Annotated[
    str | None, typer.Option(parser=one_name, metavar="NAME", help=f"{_WEIGHTS}; {_OF_FILES}")
]
Quantizations = Annotated[
    str | None, typer.Option(help=f"{_WEIGHTS}, or several: none,fp8; {_OF_FILES}")
]
KvCacheDtype = Annotated[str | None, typer.Option(help=f"KV: bf16 or fp8; {_OF_FILES}")]
Overlap = Annotated[
    str | None,
    typer.Option(help="sum, max, table or fit; by itself fit where measured, else table."),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Of kernels: imported, measured or a directory of `profile measure`; by itself "
        "measured where it was, else imported.",
    ),
]
Planner = Annotated[
    str | None,
    typer.Option(
        help="fcfs, random, dfs, dfs-longest, blend, paced, or auto: try those for the engine and "
        "keep the best by prediction."
    ),
]
Sample = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|auto",
        help="Share of requests run first to learn output lengths; 1 = lengths known, auto = as "
        "many as pay.",
    ),
]
OutputGuess = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Length of an answer in traces of which none is known, at most its max_tokens; by "
        "itself the mean of other traces, else 0.25 of max_tokens, else 256.",
    ),
]
Orders = Annotated[
    list[Path] | None,
    typer.Option(
        "--order",
        metavar="FILE",
        help="An order of your own, which takes part like a policy: ids, one a line or in a column "
        "id (docs/plan.md); repeat it for several.",
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(
        help="Tokens a step at most; else those of the plan, or of the engine and some others."
    ),
]
MaxRunning = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Requests in a replica at once; else those of the plan, or of the engine and some "
        "lower limits.",
    ),
]
ExpertParallel = Annotated[
    bool | None,
    typer.Option(
        "--expert-parallel/--no-expert-parallel",
        help="With --tp: every GPU has some experts whole, not its share of each.",
    ),
]
ExpertGpus = Annotated[
    int | None,
    typer.Option(
        "--ep",
        help="GPUs that the experts are spread over, each whole on one; a multiple of --tp, of N / "
        "tp replicas of --dp together.",
    ),
]
Cascade = Annotated[
    bool | None,
    typer.Option("--cascade/--no-cascade", help="Decodes read a prefix they share once a step."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of sampling, random order and demo traces.")]
Lengths = Annotated[
    Path | None,
    typer.Option(
        help="Results of an earlier run, for traces without output lengths; with --sample 1, "
        "unless that is given."
    ),
]
Rest = Annotated[
    bool | None,
    typer.Option("--rest", help="Plan only requests that have no answer in --lengths yet."),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="The model's directory, or a tokenizer.json, for text prompts.")
]
Format = Annotated[str | None, typer.Option(help="Read traces as this format, do not guess.")]
SkipUnusable = Annotated[
    bool | None,
    typer.Option("--skip-unusable", help="Leave out lines of batch files that cannot be planned."),
]
SkipOversize = Annotated[
    bool, typer.Option("--skip-oversize", help="Drop requests that no schedule can hold.")
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="Sections [settings] and [read]; options here win."),
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        help="Schedules to try, 160 unless --budget is given; the same number finds the same plan."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Stop trying more after so long, as in 90s or 2m; a number is seconds."
    ),
]
FurtherEvaluations = Annotated[
    int | None,
    typer.Option(help="With auto: search on until so many schedules are tried, policies too."),
]
FurtherBudget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="With auto: search schedules for so long, as in 90s or 2m; a number is seconds.",
    ),
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="vLLM schedules by itself, fed in the order the plan admits."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Asked(NamedTuple):
    """What the user asked for, resolved."""

    traces: list[str]
    settings: "Settings"
    read: "ReadOptions"
    skip_oversize: bool
    called: str = ""  # the model as the user named it, where its row is called otherwise
    gone: Mapping[str, str] = {}  # what to say of paths that a plan notes and that are not there

    def load(self, say: "Progress") -> "Workload":
        """The pool of all traces without what no schedule can hold; `say` hears how far it is."""
        return self.kept(self.load_whole(say))

    def load_whole(self, say: "Progress") -> "Workload":
        """The pool with what no schedule can hold."""
        from blendsim.cli.pool_files import load_files
        from blendsim.errors import InputError, NotMeasured, Unfit
        from blendsim.perf.measured import IMPORTED, meant
        from blendsim.perf.store import load_profile

        # NOTE: first, so that a wrong --model does not wait for the file
        try:
            system = self.settings.system
            if meant(system, self.settings.profile) == IMPORTED:
                load_profile(system.gpu, system.model, system.tp)
        except (Unfit, NotMeasured) as error:
            from blendsim.cli.remedies import instead

            called = (
                f"{self.called} has the sizes of {self.settings.model}: " if self.called else ""
            )
            raise InputError(f"{called}{error.what}; {instead(self.settings)}") from error
        self.require_there(self.read.lengths, *self.traces)
        try:
            return load_files(self.traces, self.read, say.share)
        except InputError as error:
            if str(error).startswith(f"{self.read.tokenizer}: no such file"):
                self.require_there(self.read.tokenizer)  # which not all traces need
            raise

    def require_there(self, *paths: "Path | str | None") -> None:
        """InputError where a plan notes one of the paths and it is `gone`."""
        from blendsim.errors import InputError

        for path in paths:
            if str(path) in self.gone:
                raise InputError(self.gone[str(path)])

    def kept(self, whole: "Workload") -> "Workload":
        """The pool without what no schedule can hold; OversizeError if that may not be left out."""
        from blendsim.traces.limits import without_oversize

        return without_oversize(whole, self.settings.system.longest_request, self.skip_oversize)

    @property
    def reading(self) -> str:
        """What is being done while the pool is read."""
        if self.read.tokenizer is None:
            return "reading traces"
        return f"reading traces; prompts become tokens of {self.read.tokenizer}"

    @property
    def inputs(self) -> list[Path | str | None]:
        """What is read for the pool: no output may take the place of one of these."""
        return [*self.traces, self.read.lengths, self.read.tokenizer]

    @property
    def source(self) -> dict[str, Any]:
        """How to read the same pool again, for a plan's memory of where it came from."""
        read = {field.name: getattr(self.read, field.name) for field in fields(self.read)}
        plain = {name: str(v) if isinstance(v, Path) else v for name, v in read.items()}
        for name in ("rest", "skip_unusable"):
            if not plain[name]:
                del plain[name]  # plans that do without it are as they were
        return {"traces": self.traces, "skip_oversize": self.skip_oversize, "read": plain}


def files_read(params: dict[str, Any]) -> list[Path | str | None]:
    """What the parameters of a command that reads traces name as its inputs."""
    named = (params.get(name) for name in ("lengths", "tokenizer", "config", "price"))
    orders = params.get("order") or []
    return [*params["trace"], *named, *orders, *gpu_files(params.get("gpu"))]


def resolve(params: dict[str, Any]) -> Asked:
    """A command's parameters on top of its --config on top of the defaults."""
    from blendsim.names import is_called
    from blendsim.settings import Settings
    from blendsim.traces.seam import ReadOptions

    path = params.get("config")
    sections = read_config(path, {"settings": Settings(), "read": ReadOptions()})
    settings = _from_config(sections["settings"], f"{path}: [settings]")
    read = overlay(ReadOptions(), sections["read"], f"{path}: [read]")
    settings = _given(settings, params | {"sample": _share(params.get("sample"))})
    if settings.engine != Settings().engine:
        from blendsim.serving.flavour import find_flavour

        find_flavour(settings.engine)  # before a trace is read; it says the nearest
    given = _given(read, params)
    is_asked = params.get("sample") is not None or "sample" in sections["settings"]
    if given.lengths is not None and not is_asked:
        settings = replace(settings, sample=1.0)  # who gives lengths wants them to be used
    if "seed" not in sections["read"]:
        given = replace(given, seed=settings.seed)
    named = params.get("model") or sections["settings"].get("model", settings.model)
    called = "" if is_called(named, settings.model) else named
    return Asked(params["trace"], settings, given, params.get("skip_oversize", False), called)


def _from_config(section: Section, where: str) -> "Settings":
    """The settings of a section; what is wrong is said with the file."""
    from blendsim.errors import BlendsimError, InputError
    from blendsim.settings import Settings

    for name in LISTED:
        if isinstance(section.get(name), list):
            raise InputError(
                f"{where}: {name} = {section[name]}: lists are for options alone; give one value "
                f"here, or several with --{name}"
            )
    if "gpu_spec" in section:
        raise InputError(
            f"{where}: gpu_spec is what plans keep; describe a GPU in a file and name it, as in "
            'gpu = "FILE.toml"'
        )
    try:
        return overlay(Settings(), section, where)
    except BlendsimError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from error


def _share(text: str | None) -> float | str | None:
    """A share as a number; anything else is left for the settings to refuse."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _given(base: Any, params: dict[str, Any]) -> Any:
    names = {field.name for field in fields(base)}
    given = {k: v for k, v in params.items() if k in names and v is not None}
    for name, value in given.items():
        in_range(value, f"--{name.replace('_', '-')} {value}")
    return replace(base, **given)


class WithDefaults(TyperCommand):
    """A command whose help shows the defaults that live in Settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from blendsim.settings import Settings

        defaults = Settings()
        for param in self.params:
            value = getattr(defaults, param.name or "", None)
            if value is not None:
                param.default = value
        super().format_help(ctx, formatter)
