"""The decoder against Hugging Face transformers: the same logits, the same greedy tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from blendrt.attention.layout import Rows, lay_out
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.weights import load_weights

CPU = torch.device("cpu")
BLOCK = 4

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from the default: logits that differ clearly
}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}),
    "llama-3.1": ("Llama", {"rope_parameters": LLAMA_3_1}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


def hugging_face(family: str) -> Any:
    """A small model of the family with random weights, biases and norms included."""
    name, extra = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SHAPE, **extra)
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim == 1:  # norms and biases start as ones and zeros, which hide mistakes
                tensor.add_(torch.randn_like(tensor) * 0.3)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = hugging_face(request.param)
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    return model, directory


def decoder_of(directory: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    config = DecoderConfig.from_directory(directory)
    return Decoder(config, load_weights(directory, config, CPU, dtype))


class Serving:
    """A decoder driven by hand: one pool, a page list a request."""

    def __init__(self, decoder: Decoder, pages: int = 64) -> None:
        self.decoder = decoder
        self.attention = ReferenceAttention()
        self.pool = KvPool(decoder.config, pages, BLOCK, CPU, decoder.dtype)

    def step(
        self,
        chunks: list[tuple[list[int], int, list[int]]] = [],  # noqa: B006 (never changed)
        decodes: list[tuple[int, int, list[int]]] = [],  # noqa: B006
    ) -> Tensor:
        """Logits of all rows. Chunks are (ids, computed, pages), decodes (id, context, pages)."""
        decoder, attention, pool = self.decoder, self.attention, self.pool
        layout = lay_out(
            chunks=np.array([len(ids) for ids, _, _ in chunks], np.int64),
            computed=np.array([computed for _, computed, _ in chunks], np.int64),
            chunk_pages=Rows.of([pages for _, _, pages in chunks]),
            contexts=np.array([context for _, context, _ in decodes], np.int64),
            decode_pages=Rows.of([pages for _, _, pages in decodes]),
            block_tokens=BLOCK,
            device=CPU,
        )
        ids = [i for chunk, _, _ in chunks for i in chunk] + [i for i, _, _ in decodes]
        attention.plan(layout)
        x = decoder.embed(torch.tensor(ids))
        turn = decoder.rotation(layout.positions)
        cut = layout.prefill_tokens
        for layer in range(decoder.config.layers):
            q, k, v = decoder.qkv(layer, x, turn)
            pool.write(layer, layout.slots, k, v)
            attended = torch.cat(
                (attention.prefill(layer, q[:cut], pool), attention.decode(layer, q[cut:], pool))
            )
            x = decoder.mlp(layer, decoder.output(layer, attended, x))
        return decoder.head(x)


def pages_for(tokens: int, first: int, stride: int = 1) -> list[int]:
    return [first + stride * i for i in range(-(-tokens // BLOCK))]


def prompt(tokens: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], tokens).tolist()


@torch.inference_mode()
def test_logits_are_those_of_transformers(pair: Any) -> None:
    model, directory = pair
    ids = prompt(203, seed=1)
    theirs = model(torch.tensor([ids])).logits[0]
    ours = Serving(decoder_of(directory)).step([(ids, 0, pages_for(203, 0))])
    assert theirs.std() > 0.5  # logits that say something
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_bfloat16_logits_stay_within_five_percent(pair: Any) -> None:
    model, directory = pair
    ids = prompt(100, seed=2)
    theirs = model(torch.tensor([ids])).logits[0]
    ours = Serving(decoder_of(directory, torch.bfloat16)).step([(ids, 0, pages_for(100, 0))])
    error = (ours.float() - theirs).norm() / theirs.norm()
    assert error < 0.05
