"""Settings: what a user asks of planning, simulating and replaying a pool. Defaults live here.

A room of its own because the GPU runtime's commands read it where the simulator is not installed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from blendsim.errors import InputError, UnknownName
from blendsim.fields import overlay, settle
from blendsim.formats import (
    FP8,
    KV_DTYPES,
    NONE,
    QUANTIZATIONS,
    kv_named,
    quantization_named,
)
from blendsim.gpu_file import is_gpu_file, read_gpu, require_described
from blendsim.pacing import Gains
from blendsim.perf.measured import AUTO as AUTO_PROFILE
from blendsim.planner.lengths import RULES, SUBTREE_MEAN
from blendsim.planner.make import IN_LINE, OVERLAPPED, POLICIES
from blendsim.planner.sample import AUTO as AUTO
from blendsim.serving.flavour import EVICTIONS, FLAVOURS, Flavour, engine_name, find_flavour
from blendsim.serving.knobs import AS_SHIPPED, Knobs
from blendsim.specs import (
    MODELS,
    GpuSpec,
    ModelSpec,
    find_gpu,
    find_link,
    find_model,
    gpu_name,
    model_name,
)
from blendsim.system import HostMemory, System
from blendsim.topology import COLOCATED, Topology, pools

MODEL_SPEC = "model_spec"  # key of metadata
MOST_REPLICAS = 4_096  # of one system; each is simulated on its own


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user asks `plan` and `compare` for. Defaults live here. Model, GPU and engine are kept
    by the names of their tables, whatever they were called; a GPU that a file describes by the name
    that is given there, and with all that it says.
    """

    model: str = "llama-3.1-8b"
    gpu: str = "a100-80g"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    engine: str = "nanoflow"
    quantization: str = "auto"  # of weights, of QUANTIZATIONS; auto: as the model's files say
    kv_cache_dtype: str = "auto"  # bf16 or fp8; auto: as the model's files say
    overlap: str = "auto"  # sum, max, table or fit; auto: fit where measured, else table
    profile: str = AUTO_PROFILE  # of kernels; imported, measured, a directory of `profile measure`
    planner: str = AUTO
    sample: float | str = 0.01  # share run first to learn output lengths; 1 = known; auto: pays
    length_rule: str = SUBTREE_MEAN  # how the others are estimated; shrunk: mixed with parents
    output_guess: int | None = None  # tokens, in sources where no length is seen; None: a prior
    token_budget: int | None = None  # tokens a step; None: the engine's own
    max_running: int | None = None  # requests in a replica at once; None: the engine's own
    kv_bytes: int | None = None  # KV memory of a replica; None: from the GPU's memory
    nano_batches: int | None = None  # pieces an overlapping engine runs a step in; None: its own
    seed: int = 0
    topology: str = "colocated"  # or 1P2D: one replica that prefills, two that decode
    link: str = "auto"  # KV moves over it from prefill to decode; auto: the GPU's own
    steals: bool = False  # ranks without waiting requests take some of others
    steal_seconds: float = 1.0  # simulated time between two looks at who has none
    knobs: Knobs = AS_SHIPPED  # of the vllm engine's scheduler, by vLLM's names
    eviction: str | None = None  # of idle prefixes, lru or plan; None: the engine's own
    host_memory_bytes: int | None = None  # of a replica, for KV; None: KV stays on the GPUs
    host_link: str = "pcie4"  # between each GPU and the host memory
    output_reserved: float | None = None  # share of expected outputs, dual scan; None: the engine's
    cascade: bool = False  # decodes read a prefix they share once a step
    expert_parallel: bool = False  # the GPUs of a replica have some experts whole each
    ep: int | None = None  # GPUs that have them so, of several replicas too; None: as above
    pacing: Gains = field(default_factory=Gains)  # of the paced policy
    gpu_spec: GpuSpec | None = None  # what `gpu` is where a file says it; None: of the tables

    def __post_init__(self) -> None:
        # NOTE: the one place that every way into settings passes (options, files, plans, Python),
        # so that plans of the same system are equal whatever it was called. Names that are not
        # known are refused where they are looked up. A directory of a model's name in the working
        # directory is that model, so the disk is looked at, too; and what a file says of a GPU is
        # kept, so that who reads a plan needs no file.
        settle(self)
        if is_gpu_file(self.gpu):
            described = read_gpu(Path(self.gpu))
            object.__setattr__(self, "gpu", described.name)
            object.__setattr__(self, "gpu_spec", described)
        elif self.gpu_spec is not None and self.gpu_spec.name != self.gpu:
            object.__setattr__(self, "gpu_spec", None)  # another GPU has taken its place
        elif self.gpu_spec is not None:
            require_described(self.gpu_spec)
        for part, name in (
            ("model", model_name(self.model)),
            ("gpu", gpu_name(self.gpu)),
            ("engine", engine_name(self.engine)),
            ("quantization", quantization_named(self.quantization)),
            ("kv_cache_dtype", kv_named(self.kv_cache_dtype)),
        ):
            object.__setattr__(self, part, name)
        if self.sample != AUTO and (isinstance(self.sample, str) or not 0 < self.sample <= 1):
            raise InputError(
                f"--sample {shown_share(self.sample)} must be above 0 and at most 1, or {AUTO}"
            )
        for option, number in (("--pp", self.pp), ("--dp", self.dp)):
            if number < 1:
                raise InputError(f"{option} {number} must be at least 1")
        if self.dp > MOST_REPLICAS:
            raise InputError(
                f"--dp {self.dp} is above {MOST_REPLICAS:,}, the most replicas that are simulated; "
                "give fewer"
            )
        if self.ep is not None and self.ep < 2:
            raise InputError(f"--ep {self.ep} must be at least 2 GPUs; leave it out for one")
        if self.ep is not None and self.expert_parallel:
            raise InputError(
                f"--expert-parallel is --ep of the GPUs of one replica, and --ep {self.ep} names "
                "their number; give one of the two"
            )
        if self.max_running is not None and self.max_running < 1:
            raise InputError(
                f"--max-running {self.max_running} must be at least 1 request; leave it out for "
                "the engine's own"
            )
        if self.nano_batches is not None and self.nano_batches < 1:
            raise InputError(f"nano_batches = {self.nano_batches} must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} must be at least 0")
        if self.planner != AUTO and self.planner not in POLICIES:
            raise UnknownName("planner", self.planner, (AUTO, *POLICIES))
        if self.quantization not in QUANTIZATIONS:
            raise UnknownName("--quantization", self.quantization, QUANTIZATIONS)
        if self.kv_cache_dtype not in KV_DTYPES:
            raise UnknownName("--kv-cache-dtype", self.kv_cache_dtype, KV_DTYPES)
        if self.length_rule not in RULES:
            raise UnknownName("length_rule", self.length_rule, RULES)
        if self.output_guess is not None and self.output_guess < 1:
            raise InputError(f"--output-guess {self.output_guess} must be at least 1 token")
        find_link(self.host_link)
        if self.link != AUTO:
            find_link(self.link)
        if self.cluster.is_disaggregated and self.dp > 1:
            raise InputError(
                f"--dp {self.dp} is for colocated replicas, {self.topology} names its own; "
                "give one of the two"
            )
        if self.replicas > MOST_REPLICAS:
            raise InputError(
                f"{self.topology} has more than {MOST_REPLICAS:,} replicas, the most that are "
                "simulated; give smaller pools"
            )
        if self.eviction is not None and self.eviction not in EVICTIONS:
            raise UnknownName("eviction", self.eviction, EVICTIONS)
        if self.output_reserved is not None and not self.output_reserved >= 0:
            raise InputError(f"output_reserved = {self.output_reserved} must be at least 0")

    @property
    def without_rules(self) -> "Settings":
        """The same with an engine by its own rules."""
        return replace(
            self, token_budget=None, max_running=None, eviction=None, output_reserved=None
        )

    @property
    def spec(self) -> ModelSpec:
        """The model in the formats that are asked for; InputError where there is none."""
        spec = find_model(self.model).in_format(self.quantization, self.kv_cache_dtype)
        if self.ep is not None:
            if not spec.experts:
                raise InputError(f"--ep {self.ep}: {spec.name} has no experts; leave it out")
            return replace(spec, expert_parallel=True, expert_ranks=max(1, self.ep // self.tp))
        # NOTE: on one GPU experts are whole anyway. A model without any is refused on several.
        is_apart = self.expert_parallel and (self.tp > 1 or not spec.experts)
        return replace(spec, expert_parallel=is_apart)

    @property
    def found_gpu(self) -> GpuSpec:
        """The GPU that is asked for; UnknownName where there is none."""
        return self.gpu_spec or find_gpu(self.gpu)

    @property
    def in_formats(self) -> str:
        """What of the model is not bf16, and where its experts are, in words that follow its name;
        empty for none.
        """
        return self.spec.in_formats + ("" if self.ep is None else f" over {self.ep} GPUs")

    def platform(self, called: str = "") -> str:
        """Model, as the user `called` it, too, GPUs and replicas in a few words."""
        replicas = f", {self.dp} replicas" if self.dp > 1 else ""
        if self.cluster.is_disaggregated:
            replicas = f", {self.cluster.name} ({self.replicas} replicas)"
        model = self.model + self.in_formats
        model = f"{called} ({model})" if called else model
        stages = f" in {self.pp} stages" if self.pp > 1 else ""
        return f"{model} on {self.tp * self.pp} × {self.gpu}{stages}{replicas}"

    @property
    def system(self) -> System:
        """The replica that is asked for; InputError where it cannot be."""
        self._require_whole_teams()
        system = System(self.spec, self.found_gpu, self.tp, self.kv_bytes, pp=self.pp)
        left = system.kv_beside_weights(system.gpu.memory_bytes * system.tp)
        if system.kv_capacity_bytes > left:
            raise InputError(
                f"kv_bytes = {self.kv_bytes} is more than the {max(0, left)} bytes that weights of "
                f"{system.model.name} leave on {system.gpus} × {system.gpu.name}; give less"
            )
        return system

    @property
    def is_in_teams(self) -> bool:
        """Whether each replica has as many others beside it as are to share its experts; pools
        share none (sim/run.py).
        """
        return self.cluster.is_disaggregated or self.dp % self.spec.expert_ranks == 0

    def _require_whole_teams(self) -> None:
        if self.ep is None or self.tp < 1:
            return
        if self.ep % self.tp:
            raise InputError(
                f"--ep {self.ep} is no multiple of --tp {self.tp}, the GPUs of a replica; use "
                "another of the two"
            )
        if not self.is_in_teams:
            ranks = self.spec.expert_ranks
            raise InputError(
                f"--ep {self.ep} with --tp {self.tp} spreads experts over {ranks} replicas, and "
                f"--dp {self.dp} is no multiple of that; use --dp {ranks}, or another --ep"
            )

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies to try: the one that is asked for, else those for the engine."""
        if self.planner != AUTO:
            return (self.planner,)
        flavour = find_flavour(self.engine)
        if flavour.one_line:
            return IN_LINE
        return OVERLAPPED if flavour.overlaps else POLICIES

    @property
    def cluster(self) -> Topology:
        """How the replicas stand together."""
        if self.topology == COLOCATED.name:
            return Topology(steals=self.steals, steal_seconds=self.steal_seconds)
        link = self.found_gpu.link if self.link == AUTO else find_link(self.link)
        return replace(pools(self.topology, link), steals=self.steals)

    @property
    def replicas(self) -> int:
        """Replicas in all, of `tp` × `pp` GPUs each."""
        return self.cluster.prefill + self.cluster.decode or self.dp

    @property
    def host(self) -> HostMemory | None:
        """The host memory that is asked for."""
        if self.host_memory_bytes is None:
            return None
        host = HostMemory(self.host_memory_bytes, find_link(self.host_link))
        host.blocks(self.system)  # refuses what holds none
        return host

    def for_engine(self, name: str) -> "Settings":
        """The same for the engine of that name. The eviction that was asked for is left out where
        it was asked of another engine and the cache of this one evicts by last use whatever a plan
        says.
        """
        name = engine_name(name)
        if name == self.engine:
            return self
        is_lru = name in FLAVOURS and FLAVOURS[name].always_lru
        return replace(self, engine=name, eviction=None if is_lru else self.eviction)

    def flavour(
        self,
        name: str | None = None,
        token_budget: int | None = None,
        max_running: int | None = None,
    ) -> Flavour:
        """The engine by the rules that are asked for: the one that is asked for, or that of another
        name, at this token budget, the asked one or its own on the GPU, and at this running limit,
        its own or the asked one, as far as a budget that is given leaves it. UnknownName for an
        engine that is not known, InputError for rules that this one has not; `for_engine` leaves
        out what a plan for another engine may have.
        """
        engine = self.engine if name is None else name
        own = find_flavour(engine).on(self.found_gpu).token_budget
        limit = self.max_running if max_running is None else max_running
        if max_running is None and limit is not None and token_budget is not None:
            limit = min(limit, token_budget)
        flavour = find_flavour(
            engine,
            next(n for n in (token_budget, self.token_budget, own) if n is not None),
            self.eviction,
            self.knobs,
            self.output_reserved,
            self.cascade,
            limit,
        )
        if self.nano_batches is not None and flavour.overlaps:
            return replace(flavour, nano_batches=self.nano_batches)
        return flavour

    def require_runnable(self, command: str) -> None:
        """InputError for what only the simulator models, and `command` cannot run. Whether it can
        run the model is for the runtime to say.
        """
        for is_asked, what in (
            (self.topology != COLOCATED.name, f"topology {self.topology}"),
            (self.steals, "stealing between ranks"),
            (self.host is not None, "host memory"),
            (self.knobs != AS_SHIPPED, "knobs of vLLM’s scheduler"),
            (self.cascade, "cascade attention"),
            (self.pp > 1, f"pipeline of {self.pp} stages"),
            (self.quantization not in (AUTO, NONE), f"weights in {self.quantization}"),
            (self.kv_cache_dtype == FP8, "KV in fp8"),
        ):
            if is_asked:
                raise InputError(
                    f"{command} has no {what}; leave it out, or simulate a plan that has it"
                )


def shown_share(share: float | str) -> str:
    """A share as a user writes it."""
    return share if isinstance(share, str) else f"{share:g}"


def remembered(values: Mapping[str, Any], where: str) -> Settings:
    """The settings that a plan or a step log keeps as plain values; InputError that begins with
    `where` for one that is unknown or not of its type.
    """
    return overlay(Settings(), {k: v for k, v in values.items() if v is not None}, where)


def model_kept(settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """What a plan or a step log keeps beside its settings: what the files of a model by path said,
    as they may change. One of our tables needs none.
    """
    return {} if settings.model in MODELS else {MODEL_SPEC: asdict(spec)}


def require_same_model(settings: Settings, meta: Mapping[str, Any], where: str) -> None:
    """InputError that begins with `where` if the model's sizes or formats are no longer those that
    a plan or a step log of these settings keeps in `meta`, which older ones do not.
    """
    kept = meta.get(MODEL_SPEC)
    if kept is None:
        return
    now = asdict(settings.spec)
    changed = [f"{k} {now[k]}, not {v}" for k, v in kept.items() if k in now and now[k] != v]
    if changed:
        raise InputError(f"{where}: {settings.model} is another model now ({'; '.join(changed)})")
