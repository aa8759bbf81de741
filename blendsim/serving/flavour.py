"""An engine flavour: which of the serving core's rules an engine uses. A row of fields, not a class
of its own.
"""

from dataclasses import dataclass, replace

from blendsim.errors import InputError, UnknownName
from blendsim.fields import settle
from blendsim.names import canonical
from blendsim.pacing import Pacing
from blendsim.perf.model import StepModel
from blendsim.perf.step import StepCosts, step_costs
from blendsim.serving.knobs import AS_SHIPPED, Knobs
from blendsim.specs import GpuSpec
from blendsim.system import System

PROMPT_FITS = "prompt_fits"  # admit when the whole prompt fits in free blocks (vLLM)
PREDICTED_PEAK = "predicted_peak"  # admit when the running requests' expected peak fits too
ADMISSIONS = (PROMPT_FITS, PREDICTED_PEAK)

FCFS = "fcfs"  # waiting requests stay in the order of the plan
LPM = "lpm"  # longest cached prefix first, while few wait
DFS_WEIGHT = "dfs-weight"  # depth-first over cached prefixes, most waiting requests first
QUEUE_ORDERS = (FCFS, LPM, DFS_WEIGHT)
LRU = "lru"  # evict the prefix that lost its last reader first
BY_PLAN = "plan"  # evict prefixes without waiting readers before those with some
EVICTIONS = (LRU, BY_PLAN)
BLENDRT, VLLM, SGLANG = RUNTIMES = ("blendrt", "vllm", "sglang")  # whose kernels run its steps
_LARGE = 70 << 30  # bytes of a GPU
VLLM_PLANNED = "vllm-planned"  # vLLM with our scheduler in it, which follows a plan step by step


@dataclass(frozen=True, slots=True)
class Flavour:
    """Scheduling rules of one engine at one version; tokens and requests are counts a step of one
    replica.
    """

    name: str
    version: str
    token_budget: int = 2_048  # tokens computed in a step: decodes first, prefill chunks fill up
    #: The same on a GPU of 70 GiB or more that is no A100, where the engine has more there.
    large_gpu_budget: int | None = None
    max_running: int = 1_024  # requests in the engine at once
    admission: str = PREDICTED_PEAK
    prefix_sharing: bool = True
    #: With prefix sharing: full blocks of a request's own stay cached when it leaves.
    keeps_own_blocks: bool = False
    #: Requests that end in one step leave oldest admission first, else decodes newest first.
    oldest_leaves_first: bool = False
    overlaps: bool = True  # runs GEMMs of one nano-batch beside attention of another
    #: Share of its expected output that a request counts with on its side (dual scan).
    output_reserved: float = 0.5
    #: Steps are prefill or decode, prefill first (SGLang); admission is by new_token_ratio then.
    prefill_first: bool = False
    mixed_chunk: bool = False  # with prefill_first: decodes join prefill steps
    queue_order: str = FCFS  # with prefill_first: how waiting requests are sorted in every round
    block_tokens: int | None = None  # tokens of a KV block; None: the system's
    #: With prefill_first: scales the share of running requests' outputs that is reserved.
    conservativeness: float = 1.0
    #: All-reduces run beside GEMMs and attention, else one operator after another with the GEMMs.
    overlaps_network: bool = False
    #: The last prompt of a step is cut so that the step's tokens are a multiple of this.
    dense_multiple: int = 1
    #: Pieces a step's batch is run in to overlap; 1: priced whole, as published figures are.
    nano_batches: int = 1
    eviction: str = LRU
    always_lru: bool = False  # the cache is another's: no plan changes its eviction
    cascade: bool = False  # decodes read a prefix they share once a step
    knobs: Knobs = AS_SHIPPED  # of vLLM's scheduler
    one_line: bool = False  # by itself it takes requests in order, and follows no plan for two ends
    runtime: str = BLENDRT  # what runs its steps, by whose calibration they are priced

    def __post_init__(self) -> None:
        settle(self)
        for kind, name, known in (
            ("admission", self.admission, ADMISSIONS),
            ("eviction", self.eviction, EVICTIONS),
            ("queue order", self.queue_order, QUEUE_ORDERS),
            ("runtime", self.runtime, RUNTIMES),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)
        for field in ("block_tokens", "large_gpu_budget"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(
                    f"{self.name}: {field} {value} is below 1; give at least 1 token, or None"
                )
        if self.token_budget < 1 or self.max_running < 1:
            raise InputError(
                f"token budget {self.token_budget} and running limit {self.max_running} "
                "must be at least 1"
            )
        if self.always_lru and self.eviction != LRU:
            raise InputError(
                f"{self.name} evicts by last use, as vLLM's cache does; leave eviction at {LRU}"
            )
        if not self.output_reserved >= 0:
            raise InputError(
                f"output_reserved {self.output_reserved} is a share of the expected output; "
                "set it to 0 or more"
            )
        if self.max_running > self.token_budget:
            raise InputError(
                f"token budget {self.token_budget} is below the running limit {self.max_running}: "
                "every running request decodes a token a step; raise the budget or lower the limit"
            )
        if self.prefill_first and self.block_tokens != 1:
            raise InputError(
                f"prefill_first with KV blocks of {self.block_tokens or 'the system’s'} tokens is "
                "not modelled; set block_tokens to 1"
            )
        if not self.prefill_first and (self.mixed_chunk or self.queue_order != FCFS):
            raise InputError(
                "mixed_chunk and queue_order are rules of prefill_first; set that too, or neither"
            )
        if not self.conservativeness > 0:
            raise InputError(
                f"conservativeness {self.conservativeness} reserves nothing; set it above 0"
            )
        has_knobs = self.oldest_leaves_first and not self.prefill_first and self.dense_multiple == 1
        if self.knobs != AS_SHIPPED and not has_knobs:
            raise InputError(
                f"{self.name} has no watermark, prefill_schedule_interval, "
                "long_prefill_token_threshold or max_num_active_seqs; use the engine vllm"
            )
        if self.most_running > self.max_running:
            raise InputError(
                f"max_num_active_seqs = {self.knobs.max_num_active_seqs} is above the running "
                f"limit {self.max_running}; lower it"
            )
        if self.dense_multiple < 1 or self.nano_batches < 1:
            raise InputError(
                f"{self.name}: multiple {self.dense_multiple} and {self.nano_batches} nano-batches "
                "must be at least 1"
            )
        if self.nano_batches > 1 and not self.overlaps:
            raise InputError(
                f"{self.name} runs one operator after another: {self.nano_batches} nano-batches "
                "would only cost time; leave nano_batches at 1"
            )

    @property
    def most_running(self) -> int:
        """Requests that may run at once."""
        return self.knobs.max_num_active_seqs or self.max_running

    @property
    def one_phase(self) -> "Flavour":
        """Its rules on a replica that only prefills or only decodes, where rounds have nothing to
        alternate and those who decode share no prefix.
        """
        return replace(
            self, prefill_first=False, mixed_chunk=False, queue_order=FCFS, cascade=False
        )

    def costs(self, model: StepModel) -> StepCosts:
        """What it is charged for its steps."""
        return step_costs(
            model.run_by(self.runtime),
            self.overlaps,
            self.overlaps_network,
            self.nano_batches,
            self.cascade,
        )

    def evicts_by_plan(self, pacing: Pacing | None) -> bool:
        """Whether prefixes that somebody waits for go last: where it was asked for, and where a
        paced plan wants it and the engine's eviction is ours to choose.
        """
        wants = pacing is not None and pacing.gains.keeps_awaited and not self.always_lru
        return self.eviction == BY_PLAN or wants

    @property
    def can_pace(self) -> bool:
        """Whether a paced plan's steps are paced; else it is served by dual scan."""
        return not self.prefill_first and self.knobs == AS_SHIPPED

    def on(self, gpu: GpuSpec) -> "Flavour":
        """The flavour with the token budget that it has by itself on such a GPU, as vLLM's API
        server reckons it (`get_batch_defaults` in vllm/engine/arg_utils.py, 0.20.2).
        """
        is_large = gpu.memory_bytes >= _LARGE and "a100" not in gpu.measured_as
        if self.large_gpu_budget is None or not is_large:
            return self
        return replace(self, token_budget=self.large_gpu_budget)

    def divide(self, system: System) -> System:
        """The system with its KV memory in blocks of this engine's size."""
        if self.block_tokens is None:
            return system
        return replace(system, block_tokens=self.block_tokens)


_SGLANG = Flavour(
    SGLANG,
    "0.5.23",
    token_budget=8_192,
    max_running=2_048,
    admission=PROMPT_FITS,
    keeps_own_blocks=True,
    oldest_leaves_first=True,
    overlaps=False,
    prefill_first=True,
    block_tokens=1,
    one_line=True,
    runtime=SGLANG,
)

FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        # NOTE: with a run-time radix tree, as in BlendServe: what was computed stays till evicted.
        Flavour(
            "nanoflow",
            "OSDI'25",
            max_running=2_048,
            keeps_own_blocks=True,
            overlaps_network=True,
            dense_multiple=128,
        ),
        Flavour(
            VLLM,
            "0.33",
            large_gpu_budget=8_192,
            admission=PROMPT_FITS,
            keeps_own_blocks=True,
            oldest_leaves_first=True,
            overlaps=False,
            always_lru=True,
            one_line=True,
            runtime=VLLM,
        ),
        Flavour(
            VLLM_PLANNED,
            "0.33",
            large_gpu_budget=8_192,
            keeps_own_blocks=True,
            oldest_leaves_first=True,
            overlaps=False,
            always_lru=True,
            runtime=VLLM,
        ),
        _SGLANG,
        replace(_SGLANG, name="sglang-mixed", mixed_chunk=True),
        replace(_SGLANG, name="sglang-lpm", queue_order=LPM),
        replace(_SGLANG, name="sglang-dfs-weight", queue_order=DFS_WEIGHT),
        Flavour("sequential", "blendsim", max_running=2_048, keeps_own_blocks=True, overlaps=False),
    )
}


def engine_name(name: str) -> str:
    """The name in FLAVOURS of what users call otherwise (`vLLM`); any other name as it is."""
    return name if name in FLAVOURS else canonical(name, FLAVOURS) or name


def find_flavour(
    name: str,
    token_budget: int | None = None,
    eviction: str | None = None,
    knobs: Knobs = AS_SHIPPED,
    output_reserved: float | None = None,
    cascade: bool = False,
    max_running: int | None = None,
) -> Flavour:
    """The flavour of that name, with another token budget, eviction, knobs, reservation or running
    limit if they are given, and with cascade attention if asked for. Its own running limit gives
    way to a smaller budget, one that is given does not.
    """
    found = engine_name(name)
    if found not in FLAVOURS:
        raise UnknownName("engine", name, FLAVOURS)
    flavour = FLAVOURS[found]
    if cascade:
        flavour = replace(flavour, cascade=True)
    if eviction is not None:
        flavour = replace(flavour, eviction=eviction)
    if output_reserved is not None:
        flavour = replace(flavour, output_reserved=output_reserved)
    if token_budget is not None:
        if token_budget < 1:
            raise InputError(f"token budget {token_budget} must be at least 1 token a step")
        most = min(flavour.max_running, token_budget) if max_running is None else max_running
        flavour = replace(flavour, token_budget=token_budget, max_running=most)
    elif max_running is not None:
        flavour = replace(flavour, max_running=max_running)
    return flavour if knobs == AS_SHIPPED else replace(flavour, knobs=knobs)
