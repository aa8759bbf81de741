"""The server of vLLM or SGLang that a plan is made for: the flags it is to be started with, and in
words what no flag says.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.formats import BF16, FP8

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.serving.knobs import Knobs
    from blendsim.settings import Settings

NAMES = {"vllm": "vLLM", "vllm-planned": "vLLM", "sglang": "SGLang"}


class Server(NamedTuple):
    """What serves a replica, one of as many as there are."""

    engine: str
    flags: list[str]  # each with its value
    besides: list[str]  # what the plan assumes and no flag says

    @property
    def name(self) -> str:
        """As people write it."""
        return NAMES[self.engine]

    def as_json(self) -> dict[str, Any]:
        """Its keys of --json."""
        return {"engine": self.engine, "args": " ".join(self.flags).split()}


def find_server(settings: "Settings") -> Server | None:
    """None for an engine that nobody serves with, and for pools of prefill and decode."""
    from blendsim.serving.flavour import SGLANG, VLLM, VLLM_PLANNED

    if settings.cluster.is_disaggregated:
        return None
    besides = [*_other_weights(settings), *_unflagged(settings)]
    if settings.engine in (VLLM, VLLM_PLANNED):
        if settings.engine == VLLM_PLANNED:
            besides = ["our scheduler in it", *besides]
        return Server(settings.engine, _vllm_flags(settings), besides)
    if settings.flavour().runtime == SGLANG:
        return Server(SGLANG, _sglang_flags(settings), besides)
    return None


def server_json(settings: "Settings") -> dict[str, Any] | None:
    """The server under its keys of --json."""
    server = find_server(settings)
    return server.as_json() if server else None


def flags_assumed(settings: "Settings") -> list[str]:
    """A note for vLLM or SGLang: the server's flags that a plan assumes, and how requests are to be
    sent.
    """
    server = find_server(settings)
    if server is None:
        return []
    sent = "one client is to send the requests in the file's order"
    if settings.dp > 1:
        sent = "one client a replica is to send its requests in the file's order to its own server"
    if settings.system.is_joined:
        sent += _of_team(settings.system.model.expert_ranks, server.name)
    also = "".join(f" and {each}" for each in server.besides)
    return [
        f"the plan assumes {server.name} with {' '.join(server.flags)}{also}; {sent}, all at the "
        "start or more in flight than the server runs at once"
    ]


def _of_team(ranks: int, name: str) -> str:
    """How replicas that share experts, one deployment, are told apart."""
    if name == "vLLM":
        return f", --data-parallel-rank 0 to {ranks - 1} of {ranks} that share experts"
    return (
        f", one for {ranks} that share experts, which X-Data-Parallel-Rank 0 to {ranks - 1} names"
    )


def _vllm_flags(settings: "Settings") -> list[str]:
    flavour, system = settings.flavour(), settings.system
    flags = [
        f"--max-num-batched-tokens {flavour.token_budget}",
        f"--max-num-seqs {flavour.most_running}",
        "--enable-prefix-caching",
    ]
    if settings.tp > 1:
        flags.append(f"--tensor-parallel-size {settings.tp}")
    if settings.pp > 1:
        flags.append(f"--pipeline-parallel-size {settings.pp}")
    if system.is_joined:
        flags.append(f"--data-parallel-size {system.model.expert_ranks}")
    if system.model.expert_parallel:
        flags.append("--enable-expert-parallel")
    flags += _knob_flags(flavour.knobs)
    flags += _format_flags(settings, FP8)
    if settings.kv_bytes is None:
        flags.append("--gpu-memory-utilization 0.9")
    else:
        most = max(system.stage_layers)  # of a request, on one stage
        of_gpu = settings.kv_bytes * most // (system.model.layers * settings.tp)
        flags.append(f"--kv-cache-memory-bytes {of_gpu}")
    if system.longest_request < system.model.context:
        # vLLM does not start where a request of the whole context would not fit.
        flags.append(f"--max-model-len {system.longest_request}")
    return flags


def _knob_flags(knobs: "Knobs") -> list[str]:
    """Those that are turned (names and defaults of vLLM 0.33); `--max-num-seqs` says how many may
    run.
    """
    from blendsim.serving.knobs import AS_SHIPPED

    names = ("watermark", "prefill_schedule_interval", "long_prefill_token_threshold")
    return [
        f"--{name.replace('_', '-')} {getattr(knobs, name)}"
        for name in names
        if getattr(knobs, name) != getattr(AS_SHIPPED, name)
    ]


def _sglang_flags(settings: "Settings") -> list[str]:
    flavour, system = settings.flavour(), settings.system
    ranks = system.model.expert_ranks  # NOTE: SGLang divides both limits by them
    flags = [
        f"--chunked-prefill-size {flavour.token_budget * ranks}",
        f"--max-running-requests {flavour.most_running * ranks}",
        f"--schedule-policy {flavour.queue_order}",
    ]
    if flavour.mixed_chunk:
        flags.append("--enable-mixed-chunk")
    gpus = system.joined_gpus
    if gpus > 1:
        flags.append(f"--tp-size {gpus}")
    if system.is_joined:
        flags.append(f"--enable-dp-attention --dp-size {ranks}")
    if system.model.expert_parallel:
        flags.append(f"--ep-size {gpus}")
    flags += _format_flags(settings, "fp8_e4m3")
    if settings.kv_bytes is None:
        # The share of memory for weights and KV alone; what steps need comes on top.
        static = system.weight_bytes + system.kv_capacity_bytes
        share = math.floor(100 * static / (system.gpu.memory_bytes * system.tp)) / 100
        flags.append(f"--mem-fraction-static {share:.2f}")
    else:
        flags.append(f"--max-total-tokens {flavour.divide(system).kv_blocks}")  # blocks of one
    return flags


def _format_flags(settings: "Settings", kv_name: str) -> list[str]:
    """What is not as the model's files say: fp8 weights that the server makes of bf16 ones, and
    KV.
    """
    from blendsim.specs import find_model

    kept, asked = find_model(settings.model), settings.spec
    flags = []
    if (kept.weights, asked.weights) == (BF16, FP8):
        flags.append("--quantization fp8")
    if kept.kv != asked.kv:
        flags.append(f"--kv-cache-dtype {kv_name if asked.kv == FP8 else 'bfloat16'}")
    return flags


def _other_weights(settings: "Settings") -> list[str]:
    """Words for weights that no server makes of those that the model's files hold."""
    from blendsim.specs import find_model

    kept, asked = find_model(settings.model).weights, settings.spec.weights
    if kept == asked or (kept, asked) == (BF16, FP8):
        return []
    return [f"files with weights in {asked}, which those of {settings.model} are not"]


def _unflagged(settings: "Settings") -> list[str]:
    """Words for what only the simulator has."""
    words = []
    if settings.cascade:
        words.append("cascade attention, which no flag turns on")
    if settings.host is not None:
        size = settings.host.capacity_bytes / 1e9
        words.append(f"{size:,.1f} GB of host memory for KV, by rules that no flag sets")
    return words
