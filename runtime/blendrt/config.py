"""What a decoder computes: the shape of a model and the few constants its layers need.

A directory's `config.json` gives both; a table's ModelSpec gives the shape alone, which is all that
random weights need. What this decoder does not compute is refused by name before anything is
loaded: what the simulator does not model either by its rules (blendsim/model_config.py), and here
what it models and this does not compute (experts, formats other than bf16, windows, latent and
linear attention), other rotary scalings, biases and activations.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from blendsim.errors import InputError
from blendsim.specs import ModelSpec, find_model

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's stretch of the rotary wavelengths: by `factor` above context / low, not at all
    below context / high, and by a ramp between the two.
    """

    factor: float
    low: float
    high: float
    context: float  # tokens the model was first trained at


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A dense Llama, Mistral, Qwen2 or Qwen3 decoder."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # longest prompt + output, tokens
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tied_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False

    @property
    def q_width(self) -> int:
        """Query heads × head dimension."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """KV heads × head dimension."""
        return self.kv_heads * self.head_dim

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Self:
        """The decoder of a model in our tables. Its rotary constants are the defaults: it is meant
        for random weights, to which they make no difference.
        """
        others = {
            "a mixture of experts": spec.experts > 0,
            f"kept{spec.in_formats}": bool(spec.in_formats),
            "of layers with a window": spec.windowed_layers > 0 and not spec.delta_heads,
            "of layers of linear attention": spec.delta_heads > 0,
            "of latent attention": spec.latent > 0,
        }
        for what in (what for what, is_so in others.items() if is_so):
            raise InputError(
                f"{spec.name} is {what}, which this decoder does not compute; use a dense model in "
                "bf16 that attends to its whole context"
            )
        shape = {f.name for f in dataclasses.fields(cls)}
        known = (f.name for f in dataclasses.fields(spec))
        return cls(**{name: getattr(spec, name) for name in known if name in shape})

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """The decoder a Hugging Face model directory describes, or InputError."""
        path = directory / "config.json"
        if not path.exists():
            raise InputError(f"{path}: no such file; give a Hugging Face model directory")
        spec = find_model(str(path))  # refuses what is not modelled, and broken sizes
        decoder = cls.from_spec(spec)
        raw: Json = json.loads(path.read_text("utf-8-sig"))
        raw = raw.get("text_config") or raw
        kind = raw.get("model_type", "llama")
        _refuse_what_is_not_computed(path, raw)
        rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
        # Qwen2 always has a bias on q, k and v. The others have one where `attention_bias` says so,
        # and then on o as well.
        biased = kind != "qwen2" and bool(raw.get("attention_bias", False))
        return dataclasses.replace(
            decoder,
            rope_theta=_positive(path, {"rope_theta": 10_000.0, **raw, **rope}, "rope_theta"),
            rope_scaling=_rope_scaling(path, rope, spec.context),
            norm_eps=_positive(path, {"rms_norm_eps": 1e-6, **raw}, "rms_norm_eps"),
            qkv_bias=biased or kind == "qwen2",
            o_bias=biased,
        )


#: A model small enough for a CPU, of the same build as the large ones.
TINY = DecoderConfig(
    name="tiny",
    layers=2,
    hidden=64,
    intermediate=160,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=512,
    context=131_072,
)


def _refuse_what_is_not_computed(path: Path, raw: Json) -> None:
    def refuse(what: str) -> None:
        raise InputError(f"{path}: {what}, which this decoder does not compute; use another model")

    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        refuse(f"hidden_act is {raw['hidden_act']!r}")
    if raw.get("mlp_bias"):
        refuse("mlp_bias is set")
    kind = str(raw.get("model_type"))
    if "_vl" in kind or kind == "phi3":  # whose weights go by other names
        refuse(f"model_type is {raw['model_type']!r}")


def _rope_scaling(path: Path, rope: Json, context: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or kind not in ("default", "llama3"):
        raise InputError(
            f"{path}: rotary embedding {kind!r} (partial factor "
            f"{rope.get('partial_rotary_factor', 1.0)}) is not computed here; "
            "only the plain one and Llama 3.1's are"
        )
    if kind == "default":
        return None
    return RopeScaling(
        factor=_positive(path, rope, "factor"),
        low=_positive(path, rope, "low_freq_factor"),
        high=_positive(path, rope, "high_freq_factor"),
        context=_positive(
            path,
            {"original_max_position_embeddings": context, **rope},
            "original_max_position_embeddings",
        ),
    )


def _positive(path: Path, raw: Json, name: str) -> float:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        raise InputError(
            f"{path}: {name!r} is {value!r}, not a positive number; give a full config.json"
        )
    return float(value)
