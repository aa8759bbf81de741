"""ModelSpec: the sizes of a decoder, what its weights and KV are kept in, and what that weighs."""

from dataclasses import dataclass, replace

from blendsim.formats import AUTO, BF16, KV_FORMATS, NONE, OF_EXPERTS, WEIGHTS

BYTES_PER_VALUE = 2  # bf16: activations, and weights and KV by themselves
DELTA_HEAD = 128  # values of a key and of a value of a gated delta net's heads
DELTA_KERNEL = 4  # tokens that its convolution reaches over
_STATE_VALUE_BYTES = 4  # float32, of the state alone


def delta_state_bytes(key_heads: int, heads: int) -> int:
    """Bytes of a request's state in one gated delta net of so many heads of keys and of values: a
    matrix a head of values, and the tokens that the convolution still reaches.
    """
    matrices = _STATE_VALUE_BYTES * heads * DELTA_HEAD * DELTA_HEAD
    reached = BYTES_PER_VALUE * (DELTA_KERNEL - 1) * (2 * key_heads + heads) * DELTA_HEAD
    return matrices + reached


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder of the Llama/Qwen/DeepSeek families, dense or with experts in every layer but the
    first `dense_layers`. Some of its layers may attend to the last `window` tokens alone, or be
    gated delta nets (Yang et al., arXiv 2412.06464) that go through a state of constant size
    instead of a context: those have a window of one token, which is their state. With
    latent attention a token's K and V are kept as one vector that all heads share, and `kv_heads`
    is 1. Towers that see or hear for it take memory and no time.

    Of quantised weights those of layers are in their format, or those of experts alone; embedding,
    LM head, norms, routers and towers stay bf16.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int  # of one expert where there are any
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # longest prompt + output, tokens
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    tower_parameters: int = 0  # weights beside the decoder's
    experts: int = 0  # of a layer; 0: dense
    experts_per_token: int = 0
    window: int = 0  # tokens that windowed layers attend to
    windowed_layers: int = 0  # of `layers`
    delta_key_heads: int = 0  # of queries, and of keys, of the gated delta nets they are
    delta_heads: int = 0  # of values; 0: they attend
    dense_layers: int = 0  # the first ones, without experts
    dense_intermediate: int = 0  # of their MLP
    shared_intermediate: int = 0  # of the MLP that every token goes through beside its experts
    q_rank: int = 0  # values that queries are projected through, of latent attention
    kv_rank: int = 0  # values that stand for K and V of all heads; 0: no latent attention
    rope_dim: int = 0  # values of a query, and of all keys together, that hold the position
    expert_parallel: bool = False  # a GPU has some experts whole, not its share of each
    expert_ranks: int = 1  # replicas that share those, each with all else of its own
    weights: str = BF16  # of WEIGHTS
    kv: str = BF16  # of KV_FORMATS

    @property
    def attention_parameters(self) -> int:
        """Weights of the matrices of one layer's attention: of a latent one those that project down
        (DeepSeek-V2, arXiv 2405.04434, §2.1), up to the heads, and their output.
        """
        o = self.heads * self.head_dim * self.hidden
        if self.delta_heads:  # whose other layers have a gate as wide as their queries
            o += self.heads * self.head_dim * self.hidden
        if self.kv_rank:
            up = self.q_rank * (self.head_dim + self.rope_dim) + self.kv_rank * 2 * self.head_dim
            return self.down_parameters + self.heads * up + o
        return self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim + o

    @property
    def delta_widths(self) -> tuple[int, int]:
        """Values of a token's keys, and of its values, in a gated delta net."""
        return self.delta_key_heads * DELTA_HEAD, self.delta_heads * DELTA_HEAD

    @property
    def delta_parameters(self) -> int:
        """Weights of the matrices of one gated delta net: to queries, keys, values and their gate,
        and its output. What its decay and its step are made by stays bf16, and is none of them.
        """
        keys, values = self.delta_widths
        return self.hidden * (2 * keys + 3 * values)

    @property
    def delta_others(self) -> int:
        """Its other weights: two values a head from each token and two besides, a convolution over
        queries, keys and values, and a norm.
        """
        keys, values = self.delta_widths
        of_heads = 2 * self.delta_heads * (self.hidden + 1)
        return of_heads + DELTA_KERNEL * (2 * keys + values) + DELTA_HEAD

    @property
    def state_bytes(self) -> int:
        """Bytes of a request's state in all gated delta nets: a matrix a head, and the tokens that
        the convolution still reaches.
        """
        if not self.delta_heads:
            return 0
        return self.windowed_layers * delta_state_bytes(self.delta_key_heads, self.delta_heads)

    @property
    def down_parameters(self) -> int:
        """Weights of a layer's latent attention that belong to no head and are on every GPU; 0
        without one.
        """
        return self.hidden * (self.q_rank + self.latent)

    @property
    def expert_parameters(self) -> int:
        """Weights of one MLP, one expert's where there are any."""
        return 3 * self.hidden * self.intermediate

    @property
    def layers_with_experts(self) -> int:
        """All but the first `dense_layers`; none of a dense model."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def matrix_parameters(self) -> int:
        """Weights of the matrices of one layer, of one with experts if the model has any: all
        experts' included, its router's not.
        """
        shared = 3 * self.hidden * self.shared_intermediate
        return self.attention_parameters + max(1, self.experts) * self.expert_parameters + shared

    @property
    def layer_parameters(self) -> int:
        """Weights of such a layer's matrices and its norms, biases and router."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        norms += self.q_rank + self.kv_rank
        if self.delta_heads and self.shared_intermediate:
            norms += self.hidden  # the gate of the shared expert
        return self.matrix_parameters + self.hidden * self.experts + bias + norms

    @property
    def all_matrix_parameters(self) -> int:
        """Weights of the matrices of all layers, routers' not."""
        dense = self.attention_parameters + 3 * self.hidden * self.dense_intermediate
        others = self.layers - self.dense_layers
        attend = others * self.matrix_parameters + self.dense_layers * dense
        if not self.delta_heads:
            return attend
        return attend + self.windowed_layers * (self.delta_parameters - self.attention_parameters)

    @property
    def all_expert_parameters(self) -> int:
        """Weights of all experts of all layers; 0 of a dense model."""
        return self.layers_with_experts * self.experts * self.expert_parameters

    @property
    def parameters(self) -> int:
        """All weights of the decoder, embedding and LM head included."""
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        besides = self.layer_parameters - self.matrix_parameters
        routers = self.dense_layers * self.hidden * self.experts  # that those layers have not
        others = self.layers * besides - routers + self.hidden
        if self.delta_heads:
            norms = 2 * self.head_dim if self.qk_norm else 0  # of queries and keys
            others += self.windowed_layers * (self.delta_others - norms)
        return self.all_matrix_parameters + others + embeddings

    @property
    def active_parameters(self) -> int:
        """Those that a token goes through (P of the paper's §4.1): of a dense model all."""
        idle = max(0, self.experts - self.experts_per_token)
        return self.parameters - self.layers_with_experts * idle * self.expert_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory, of towers too."""
        of_experts = self.all_expert_parameters
        quantised = of_experts if self.weights in OF_EXPERTS else self.all_matrix_parameters
        others = self.parameters + self.tower_parameters - quantised
        return int(quantised * WEIGHTS[self.weights]) + others * BYTES_PER_VALUE

    @property
    def layer_format(self) -> str:
        """What the matrices of layers are kept in, experts' aside, of formats.WEIGHTS."""
        return BF16 if self.weights in OF_EXPERTS else self.weights

    @property
    def latent(self) -> int:
        """Values that stand for K and V of all heads in one layer; 0: each head has its own."""
        return self.kv_rank + self.rope_dim

    @property
    def kv_values(self) -> int:
        """Values of K and V of one token in one layer."""
        return self.latent or 2 * self.kv_width

    @property
    def kv_width(self) -> int:
        """H_kv: KV heads × head dimension."""
        return self.kv_heads * self.head_dim

    @property
    def full_layers(self) -> int:
        """Those that attend to the whole context, and keep KV of all of it."""
        return self.layers - self.windowed_layers

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers that keep the whole context."""
        return KV_FORMATS[self.kv] * self.kv_values * self.full_layers

    @property
    def window_bytes_per_token(self) -> int:
        """The same of one token within the window, in the layers that have one; of gated delta nets
        what a decode step moves: the state is read and written.
        """
        if self.delta_heads:
            return 2 * self.state_bytes
        return KV_FORMATS[self.kv] * self.kv_values * self.windowed_layers

    def in_format(self, quantization: str, kv_cache_dtype: str) -> "ModelSpec":
        """The model with weights and KV in the formats asked for, of formats.QUANTIZATIONS and
        KV_DTYPES.
        """
        weights = {AUTO: self.weights, NONE: BF16}.get(quantization, quantization)
        kv = self.kv if kv_cache_dtype == AUTO else kv_cache_dtype
        return replace(self, weights=weights, kv=kv)

    @property
    def label(self) -> str:
        """Its name and what of it is not bf16, as in `qwen3-8b-fp8-kv-fp8`."""
        weights = "" if self.weights == BF16 else f"-{self.weights}"
        apart = "-ep" if self.expert_parallel else ""
        apart += f"-{self.expert_ranks}-ranks" if self.expert_ranks > 1 else ""
        return self.name + weights + ("" if self.kv == BF16 else f"-kv-{self.kv}") + apart

    @property
    def in_formats(self) -> str:
        """What of it is not bf16, and experts that are whole, in words that follow its name; empty
        for none.
        """
        weights = "" if self.weights == BF16 else f" in {self.weights}"
        apart = ", experts whole" if self.expert_parallel else ""
        return weights + ("" if self.kv == BF16 else f" with {self.kv} KV") + apart
