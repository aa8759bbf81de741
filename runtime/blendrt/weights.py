"""A decoder's weights as its GEMMs want them: q, k and v in one matrix, gate and up in one.

They come from a Hugging Face directory or from a seed. Every matrix is (outputs, inputs), as
`torch.nn.functional.linear` takes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blendrt.checkpoint import Checkpoint, Part
from blendrt.config import DecoderConfig
from blendrt.machine import free_bytes
from blendsim.errors import InputError


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer: two norms, four matrices, and what some families add."""

    attention_norm: Tensor  # (hidden,)
    qkv: Tensor  # (heads + 2 · kv_heads) · head_dim outputs: q, k, v
    o: Tensor
    mlp_norm: Tensor
    gate_up: Tensor  # 2 · intermediate outputs: gate, up
    down: Tensor
    qkv_bias: Tensor | None
    o_bias: Tensor | None
    q_norm: Tensor | None  # (head_dim,)
    k_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a decoder's tensors, on one device, of one type. Tied embeddings are one tensor."""

    embed: Tensor  # (vocab, hidden)
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor  # (vocab, hidden)


#: Gives the parts it is asked for as one tensor, joined along the first dimension.
Source = Callable[[Sequence[Part]], Tensor]


def load_weights(
    directory: Path, config: DecoderConfig, device: torch.device, dtype: torch.dtype
) -> Weights:
    """The weights in a directory's safetensors; InputError if they are not those of `config`."""
    check_room(config, device, dtype)
    with Checkpoint(directory, device, dtype) as checkpoint:
        weights = _assemble(config, checkpoint.joined)
        # Some tied checkpoints store the embedding a second time.
        checkpoint.check_all_used(["lm_head.weight"] if config.tied_embeddings else [])
    return weights


def random_weights(
    config: DecoderConfig, seed: int, device: torch.device, dtype: torch.dtype
) -> Weights:
    """Weights drawn from a seed, matrices scaled by 1/√inputs so that activations keep their size.
    One seed gives the same weights on one kind of device, rounded to whatever type.
    """
    check_room(config, device, dtype)
    generator = torch.Generator(device).manual_seed(seed)

    def draw(parts: Sequence[Part]) -> Tensor:
        rows = sum(part.shape[0] for part in parts)
        shape = (rows, *parts[0].shape[1:])
        if len(shape) == 2:
            mean, spread = 0.0, shape[1] ** -0.5
        else:  # norms about 1 and biases about 0, no two alike: equal ones would hide mistakes
            mean, spread = (0.0 if parts[0].name.endswith("bias") else 1.0), 0.1
        values = torch.empty(shape, dtype=torch.float32, device=device)
        return values.normal_(mean, spread, generator=generator).to(dtype)

    return _assemble(config, draw)


def weight_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory all weights take."""
    values = 0

    def count(parts: Sequence[Part]) -> Tensor:
        nonlocal values
        values += sum(torch.Size(part.shape).numel() for part in parts)
        return torch.empty(0)

    _assemble(config, count)
    return values * dtype.itemsize


def check_room(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> None:
    """InputError if a GPU's free memory cannot hold the weights."""
    if device.type != "cuda":
        return
    free = free_bytes(device)
    needed = weight_bytes(config, dtype)
    if needed > free:
        raise InputError(
            f"{config.name} needs {needed / 1e9:.1f} GB for weights and {free / 1e9:.1f} GB are "
            f"free on {torch.cuda.get_device_name(device)}; use a smaller model"
        )


def _assemble(config: DecoderConfig, source: Source) -> Weights:
    """The one list of a checkpoint's names and shapes."""
    hidden = config.hidden

    def one(name: str, *shape: int) -> Tensor:
        return source([Part(name, shape)])

    embed = one("model.embed_tokens.weight", config.vocab, hidden)
    layers = [_layer(config, source, f"model.layers.{i}") for i in range(config.layers)]
    norm = one("model.norm.weight", hidden)
    head = embed if config.tied_embeddings else one("lm_head.weight", config.vocab, hidden)
    return Weights(embed, layers, norm, head)


def _layer(config: DecoderConfig, source: Source, at: str) -> LayerWeights:
    hidden, dim = config.hidden, config.head_dim
    attention = f"{at}.self_attn"
    rows = {"q": config.q_width, "k": config.kv_width, "v": config.kv_width}

    def one(name: str, *shape: int) -> Tensor:
        return source([Part(name, shape)])

    def matrices(room: str, rows: dict[str, int]) -> Tensor:
        return source([Part(f"{room}.{x}_proj.weight", (n, hidden)) for x, n in rows.items()])

    def biases(room: str, rows: dict[str, int]) -> Tensor:
        return source([Part(f"{room}.{x}_proj.bias", (n,)) for x, n in rows.items()])

    return LayerWeights(
        attention_norm=one(f"{at}.input_layernorm.weight", hidden),
        qkv=matrices(attention, rows),
        o=one(f"{attention}.o_proj.weight", hidden, config.q_width),
        mlp_norm=one(f"{at}.post_attention_layernorm.weight", hidden),
        gate_up=matrices(f"{at}.mlp", dict.fromkeys(("gate", "up"), config.intermediate)),
        down=one(f"{at}.mlp.down_proj.weight", hidden, config.intermediate),
        qkv_bias=biases(attention, rows) if config.qkv_bias else None,
        o_bias=biases(attention, {"o": hidden}) if config.o_bias else None,
        q_norm=one(f"{attention}.q_norm.weight", dim) if config.qk_norm else None,
        k_norm=one(f"{attention}.k_norm.weight", dim) if config.qk_norm else None,
    )
