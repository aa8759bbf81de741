"""System: a replica, one model on tensor- and pipeline-parallel GPUs, what fits in its memory, and
what engines would refuse of it.
"""

from dataclasses import dataclass

from blendsim.errors import InputError, Unfit
from blendsim.formats import BLOCK_VALUES, FP8, FP8_BLOCK, NVFP4, OF_EXPERTS, WEIGHTS
from blendsim.model_spec import BYTES_PER_VALUE, ModelSpec
from blendsim.specs import GpuSpec, Link

BLOCK_TOKENS = 16  # of the KV cache


@dataclass(frozen=True, slots=True)
class System:
    """A model replica on `tp` × `pp` GPUs of one kind, its layers in `pp` stages, which may share
    its experts with others like it. `kv_bytes` overrides the KV memory (the paper's preset is
    60e9).
    """

    model: ModelSpec
    gpu: GpuSpec
    tp: int = 1
    kv_bytes: int | None = None
    block_tokens: int = BLOCK_TOKENS
    pp: int = 1

    def __post_init__(self) -> None:
        if self.tp < 1 or self.model.heads % self.tp:
            raise InputError(
                f"--tp {self.tp} does not divide the {self.model.heads} heads of "
                f"{self.model.name}; choose a divisor"
            )
        if self.model.kv_heads % self.tp and self.tp % self.model.kv_heads:
            raise InputError(
                f"--tp {self.tp} neither divides the {self.model.kv_heads} KV heads of "
                f"{self.model.name} nor is a multiple of them; choose one that does"
            )
        if self.model.delta_key_heads % self.tp or self.model.delta_heads % self.tp:
            raise InputError(
                f"--tp {self.tp} does not divide the {self.model.delta_key_heads} key and "
                f"{self.model.delta_heads} value heads of {self.model.name}'s gated delta nets; "
                "choose a divisor"
            )
        if self.model.weights in OF_EXPERTS and not self.model.experts:
            raise InputError(
                f"{self.model.weights} is a format of experts, and {self.model.name} has none; "
                f"use --quantization {FP8}, or none"
            )
        if not self.gpu.flops_in(self.model.weights):
            kind = NVFP4 if self.model.weights == NVFP4 else FP8
            raise Unfit(
                f"{self.gpu.name} does not compute in {kind}, and kernels that widen such weights "
                "were not measured",
                "use another --gpu or --quantization",
            )
        self._require_whole_experts()
        self._require_whole_blocks()
        self._require_like_stages()
        least = 1 + self.window_blocks
        if self.kv_bytes is not None and self.kv_blocks < least:
            wanted = least * self.kv_bytes_per_token * self.block_tokens
            raise InputError(
                f"kv_bytes = {self.kv_bytes} holds no request of {self.model.name}, of "
                f"{self.block_tokens} tokens at least; give at least {wanted}"
            )
        if self.kv_blocks < least:
            weights, wider = self.weight_bytes / 1e9, "--ep, " if self.is_joined else ""
            raise Unfit(
                f"{self.model.name} needs {weights:.0f} GB for weights and leaves no KV cache on "
                f"{self.gpus} × {self.gpu.name}",
                f"use a larger {wider}--tp or another --gpu",
            )

    def _require_like_stages(self) -> None:
        """InputError for a pipeline that cannot be, or whose stages would differ in kind."""
        model = self.model
        if self.pp == 1:
            return
        if not 1 <= self.pp <= model.layers:
            raise InputError(
                f"--pp {self.pp} must be 1 to {model.layers}, the layers of {model.name}"
            )
        for is_so, what in (
            (model.windowed_layers > 0, "layers of several kinds"),
            (model.dense_layers > 0, "layers without experts beside others with them"),
            (model.expert_ranks > 1, "experts that replicas share"),
        ):
            if is_so:
                raise InputError(
                    f"--pp {self.pp}: a pipeline of a model with {what} is not modelled; leave "
                    "it out"
                )

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.tp * self.pp

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each stage: as many each, and what is left over one each from the last stage
        but one on backwards, since the last has the LM head (`get_pp_indices` of
        vllm/distributed/utils.py).
        """
        each, over = divmod(self.model.layers, self.pp)
        last = self.pp - 1
        return tuple(each + (last - over <= stage < last) for stage in range(self.pp))

    def _require_whole_experts(self) -> None:
        """InputError where experts are to be whole on a GPU, and there are none, or too few."""
        model = self.model
        if not model.expert_parallel:
            return
        if not model.experts:
            raise InputError(f"--expert-parallel: {model.name} has no experts; leave it out")
        gpus = self.joined_gpus
        if model.experts % gpus:
            asked, other = f"--ep {gpus}", "--ep"
            if not self.is_joined:
                asked, other = "--expert-parallel", "--tp"
            raise InputError(
                f"{asked}: {gpus} GPUs cannot share the {model.experts} experts of "
                f"{model.name} evenly; use another {other}, or leave it out"
            )

    @property
    def is_joined(self) -> bool:
        """Whether replicas share experts."""
        return self.model.expert_ranks > 1

    @property
    def joined_gpus(self) -> int:
        """GPUs that exchange what they computed within a step: its own, and those of the replicas
        that it shares experts with.
        """
        return self.tp * self.model.expert_ranks

    def _require_whole_blocks(self) -> None:
        """InputError where a GPU's share of a matrix cuts through blocks of scales, which vLLM and
        SGLang refuse when they load it.
        """
        model = self.model
        if model.weights != FP8_BLOCK:
            return
        heads = model.heads // self.tp
        for what, width in (
            ("MLP", model.intermediate // (1 if model.expert_parallel else self.tp)),
            ("MLP of dense layers", model.dense_intermediate // self.tp),
            ("shared experts", model.shared_intermediate // self.tp),
            ("queries", heads * (model.head_dim + model.rope_dim)),
            ("attention", heads * model.head_dim),
            # NOTE: what a latent attention keeps is whole on every GPU.
            ("keys", 0 if model.latent else max(1, model.kv_heads // self.tp) * model.head_dim),
        ):
            if width % BLOCK_VALUES:
                # NOTE: experts whole on a GPU spare cutting them alone, not what is beside them.
                shared = model.shared_intermediate // self.tp
                spares = what == "MLP" and model.experts and shared % BLOCK_VALUES == 0
                or_else = ", or --expert-parallel" if spares else ""
                raise InputError(
                    f"--tp {self.tp} leaves each GPU {width} values of {model.name}'s {what}, no "
                    f"multiple of the {BLOCK_VALUES} of a block of fp8-block, which engines do not "
                    f"load; use a smaller --tp{or_else}"
                )

    @property
    def kv_capacity_bytes(self) -> int:
        """KV memory of the replica: 0.90 × HBM × tp − weights − 2 GiB a GPU, or `kv_bytes`.

        0.90 is what vLLM took of a GPU unless told (`gpu_memory_utilization`; newer ones take
        0.92). 2 GiB for activations, the engine's buffers and CUDA's own is our round figure.
        """
        if self.kv_bytes is not None:
            return self.kv_bytes
        return self.kv_beside_weights(
            int(0.90 * self.gpu.memory_bytes * self.tp) - (2 << 30) * self.tp
        )

    def kv_beside_weights(self, of_stage: int) -> int:
        """Bytes that weights leave to KV where GPUs of a stage have so many for both. Of a pipeline
        what the stage with least room for its layers leaves to all, as every stage has its part of
        each request.
        """
        if self.pp == 1:
            return of_stage - self.weight_bytes
        stages = zip(self.stage_weight_bytes, self.stage_layers, strict=True)
        return min((of_stage - held) * self.model.layers // layers for held, layers in stages)

    @property
    def stage_weight_bytes(self) -> tuple[int, ...]:
        """Bytes of weights on the GPUs of each stage: its layers, on the first the embedding and
        towers beside them, on the last the LM head, which is the embedding once more where the two
        are tied.
        """
        model = self.model
        embedding = BYTES_PER_VALUE * model.vocab * model.hidden
        towers = BYTES_PER_VALUE * model.tower_parameters
        copies = 1 if model.tied_embeddings else 2
        layers = self._weight_bytes_of_one - copies * embedding - towers
        held = [layers * own // model.layers for own in self.stage_layers]
        held[0] += embedding + towers
        held[-1] += embedding
        return tuple(held)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights on all its GPUs: routers, and those of a latent attention that
        belong to no head, are on every one, those of KV heads that GPUs outnumber on several, those
        of shared experts as far as they are on these.
        """
        return self._weight_bytes_of_one if self.pp == 1 else sum(self.stage_weight_bytes)

    @property
    def _weight_bytes_of_one(self) -> int:
        """The same of one stage with all layers."""
        model = self.model
        repeated = (self.tp - 1) * model.layers * model.down_parameters
        if not model.latent:
            attending = model.full_layers if model.delta_heads else model.layers
            to_kv = 2 * model.kv_width * model.hidden
            repeated += (self.kv_copies - 1) * attending * to_kv
        routers = (self.tp - 1) * model.layers_with_experts * model.hidden * model.experts
        held = model.weight_bytes + int(repeated * WEIGHTS[model.layer_format])
        held += routers * BYTES_PER_VALUE
        elsewhere = model.all_expert_parameters * (model.expert_ranks - 1) // model.expert_ranks
        return held - int(elsewhere * WEIGHTS[model.weights])

    @property
    def kv_copies(self) -> int:
        """GPUs that keep the same K and V: heads of them are repeated when the GPUs outnumber them,
        as is what a latent attention keeps for all heads.
        """
        return max(1, self.tp // self.model.kv_heads)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token on all GPUs."""
        return self.model.kv_bytes_per_token * self.kv_copies

    @property
    def window_bytes_per_token(self) -> int:
        """Bytes of what all GPUs move for one token within the window. A state is kept once."""
        copies = 1 if self.model.delta_heads else self.kv_copies
        return self.model.window_bytes_per_token * copies

    @property
    def flops(self) -> float:
        """Peak FLOP/s of one GPU with weights in the model's format."""
        return self.gpu.flops_in(self.model.weights)

    @property
    def kv_blocks(self) -> int:
        """KV capacity in blocks of `block_tokens` tokens."""
        return max(0, self.kv_capacity_bytes) // (self.kv_bytes_per_token * self.block_tokens)

    @property
    def window_blocks(self) -> int:
        """KV blocks that a running request holds for its windowed layers, beside those of the
        layers that keep its whole context: blocks that a window of any beginning lies in, as many
        of them as there are windowed layers to others (vLLM's hybrid KV cache). Of gated delta nets
        blocks that are as large as its state.
        """
        model = self.model
        if not model.windowed_layers:
            return 0
        if model.delta_heads:
            return -(-model.state_bytes // (self.kv_bytes_per_token * self.block_tokens))
        touched = -(-(model.window - 1) // self.block_tokens) + 1
        return -(-touched * model.windowed_layers // model.full_layers)

    @property
    def longest_request(self) -> int:
        """Prompt + output tokens the longest servable request may have."""
        return min(self.model.context, self.room)

    @property
    def room(self) -> int:
        """Tokens of a request that KV memory holds if it runs alone."""
        return (self.kv_blocks - self.window_blocks) * self.block_tokens


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Host memory of a replica that its KV may go to, and the link each of its GPUs has to it."""

    capacity_bytes: int
    link: Link

    def blocks(self, system: System) -> int:
        """Capacity in KV blocks of `system`."""
        size = system.kv_bytes_per_token * system.block_tokens
        if self.capacity_bytes < size:
            raise InputError(
                f"host_memory_bytes = {self.capacity_bytes} holds no KV block of "
                f"{system.block_tokens} tokens of {system.model.name}; give at least {size}, "
                "or none"
            )
        return self.capacity_bytes // size

    def seconds_per_block(self, system: System) -> float:
        """Time that a KV block takes one way: every GPU moves its own share of it."""
        size = system.kv_bytes_per_token * system.block_tokens
        return size / (self.link.bandwidth * system.tp)
