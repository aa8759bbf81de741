"""The decoder against Hugging Face transformers: the same logits, the same greedy tokens."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from blendrt.attention.layout import Rows, lay_out
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import TINY, DecoderConfig, RopeScaling
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.weights import load_weights, random_weights, weight_bytes
from blendsim.errors import InputError
from blendsim.specs import MODELS

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


pytestmark = pytest.mark.usefixtures("one_thread")


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
            q = decoder.qkv(layer, x, turn, pool, layout.slots)
            attended = torch.cat(
                (attention.prefill(layer, q[:cut], pool), attention.decode(layer, q[cut:], pool))
            )
            decoder.output(layer, attended, x)
            decoder.mlp(layer, x)
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
def test_bfloat16_logits_are_as_near_as_those_of_transformers(pair: Any) -> None:
    model, directory = pair
    ids = prompt(100, seed=2)
    exact = model(torch.tensor([ids])).logits[0]
    theirs = copy.deepcopy(model).to(torch.bfloat16)(torch.tensor([ids])).logits[0].float()
    decoder = decoder_of(directory, torch.bfloat16)
    ours = Serving(decoder).step([(ids, 0, pages_for(100, 0))]).float()
    error, bound = ((got - exact).norm() / exact.norm() for got in (ours, theirs))
    assert error < 0.05
    assert error < 1.1 * bound


@torch.inference_mode()
def theirs_greedy(model: Any, ids: list[int], tokens: int) -> list[int]:
    """What transformers generates, greedily and never stopping early."""
    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(ids) :].tolist()


@torch.inference_mode()
def greedy(
    serving: Serving, ids: list[int], pages: list[int], tokens: int, chunk: int, hit: int
) -> list[int]:
    """Our tokens, the prompt in chunks of `chunk` behind `hit` tokens whose KV is there."""
    for start in range(hit, len(ids), chunk):
        end = min(start + chunk, len(ids))
        logits = serving.step([(ids[start:end], start, pages[: -(-end // BLOCK)])])
    out = [int(logits[-1].argmax())]
    while len(out) < tokens:
        context = len(ids) + len(out)
        logits = serving.step(decodes=[(out[-1], context, pages[: -(-context // BLOCK)])])
        out.append(int(logits[0].argmax()))
    return out


def test_chunked_prefill_and_decode_give_their_tokens(pair: Any) -> None:
    model, directory = pair
    ids = prompt(37, seed=3)
    pages = list(reversed(pages_for(37 + 12, 3, stride=2)))
    wanted = theirs_greedy(model, ids, 12)
    assert len(set(wanted)) > 3  # not one token over and over
    for chunk in (1, 3, 7, 16, 64):
        ours = greedy(Serving(decoder_of(directory)), ids, pages, 12, chunk, hit=0)
        assert ours == wanted, f"chunks of {chunk}"


def test_a_request_behind_a_shared_prefix_gives_their_tokens(pair: Any) -> None:
    model, directory = pair
    prefix, tails = prompt(16, seed=4), [prompt(9, seed=5), prompt(14, seed=6)]
    serving = Serving(decoder_of(directory))
    shared = [40, 3, 17, 28]
    first = greedy(serving, prefix + tails[0], [*shared, *pages_for(19, 50)], 10, 8, hit=0)
    second = greedy(serving, prefix + tails[1], [*shared, *pages_for(24, 5)], 10, 8, hit=16)
    assert first == theirs_greedy(model, prefix + tails[0], 10)
    assert second == theirs_greedy(model, prefix + tails[1], 10)


@torch.inference_mode()
def test_a_mixed_batch_gives_what_its_requests_give_alone(pair: Any) -> None:
    _, directory = pair
    decoder = decoder_of(directory)
    a, b, c = prompt(11, seed=7), prompt(6, seed=8), prompt(9, seed=9)
    alone = Serving(decoder)
    wanted_a = alone.step([(a, 0, pages_for(11, 0))])
    wanted_b = alone.step([(b, 0, pages_for(6, 10))])
    wanted_c = alone.step([(c, 0, pages_for(9, 20))])
    batch = Serving(decoder)
    batch.step([(a[:5], 0, pages_for(5, 0)), (c[:8], 0, pages_for(8, 20))])
    logits = batch.step(
        [(a[5:], 5, pages_for(11, 0)), (b, 0, pages_for(6, 10))], [(c[8], 9, pages_for(9, 20))]
    )
    wanted = torch.cat((wanted_a[5:], wanted_b, wanted_c[8:]))
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


# Memory


def test_a_gpu_too_small_says_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a small GPU")
    llama = DecoderConfig.from_spec(MODELS["llama-3.1-8b"])
    with pytest.raises(
        InputError, match=r"16\.1 GB for weights and 1\.0 GB are free on a small GPU"
    ):
        random_weights(llama, 0, gpu, torch.bfloat16)
    # 16 tokens of 32 layers, 8 KV heads of 128, K and V, 2 bytes: 2 MiB a block. One is spare.
    with pytest.raises(InputError, match=r"need 2\.1 GB and 1\.0 GB .* at most 475 blocks fit"):
        KvPool(llama, 1000, 16, gpu, torch.bfloat16)


# Weights


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A directory whose checkpoint has biases, to break in several ways."""
    hugging_face("qwen2").save_pretrained(tmp_path)
    return tmp_path


def change_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@torch.inference_mode()
def test_shards_load_like_one_file(tmp_path: Path) -> None:
    model = hugging_face("llama")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="30KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    ids = prompt(9, seed=1)
    one, many = (
        Serving(decoder_of(tmp_path / name)).step([(ids, 0, [0, 1, 2])]) for name in ("one", "many")
    )
    assert torch.equal(one, many)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    hugging_face("llama").save_pretrained(tmp_path, max_shard_size="30KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.name}: this shard is missing"):
        decoder_of(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_hidden_layers": 3}, r"no tensor 'model\.layers\.2\.input_layernorm\.weight'"),
        (
            {"num_hidden_layers": 1},
            r"'model\.layers\.1\.input_layernorm\.weight' \(12 such\) has no",
        ),
        ({"intermediate_size": 81}, "is 80×48, its config.json means 81×48"),
        ({"model_type": "llama", "attention_bias": False}, "bias' .* has no place"),
        ({"model_type": "qwen3", "head_dim": 8}, "no tensor .*q_norm|has no place"),
    ],
)
def test_weights_of_another_model_are_refused(
    qwen: Path, changed: dict[str, Any], message: str
) -> None:
    change_config(qwen, **changed)
    with pytest.raises(InputError, match=message):
        decoder_of(qwen)


def test_a_directory_without_usable_weights_says_so(qwen: Path) -> None:
    path = qwen / "model.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        decoder_of(qwen)
    path.unlink()
    with pytest.raises(InputError, match="no index of shards"):
        decoder_of(qwen)
    (qwen / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(InputError, match="no list of shards"):
        decoder_of(qwen)
    (qwen / "config.json").unlink()
    with pytest.raises(InputError, match="no such file"):
        decoder_of(qwen)


def test_weights_in_eight_bits_are_refused(qwen: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(qwen / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, qwen / "model.safetensors")
    with pytest.raises(InputError, match=r"'model.norm.weight' holds torch.float8_e4m3fn"):
        decoder_of(qwen)


@torch.inference_mode()
def test_random_weights_follow_from_their_seed() -> None:
    ids = [5, 1, 400, 77]

    def logits(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        decoder = Decoder(TINY, random_weights(TINY, seed, CPU, dtype))
        return Serving(decoder).step([(ids, 0, [0])]).float()

    first = logits(1)
    assert torch.equal(first, logits(1))
    assert not torch.allclose(first, logits(2))
    assert 0.5 < first.std() < 5  # the size activations start with
    assert (logits(1, torch.bfloat16) - first).norm() < 0.05 * first.norm()


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen-2.5-7b", "qwen3-8b"])
def test_weights_take_the_memory_the_tables_say(name: str) -> None:
    spec = MODELS[name]
    assert weight_bytes(DecoderConfig.from_spec(spec), torch.bfloat16) == 2 * spec.parameters


# config.json


def test_config_reads_rotary_constants_old_and_new(tmp_path: Path) -> None:
    old = {**LLAMA_3_1}
    theta = old.pop("rope_theta")
    shape = {"model_type": "llama", **SHAPE, "rms_norm_eps": 1e-5}
    expected = RopeScaling(factor=8.0, low=1.0, high=4.0, context=64)
    for i, rope in enumerate(
        [{"rope_theta": theta, "rope_scaling": old}, {"rope_parameters": LLAMA_3_1}]
    ):
        directory = tmp_path / str(i)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({**shape, **rope}))
        config = DecoderConfig.from_directory(directory)
        assert (config.rope_theta, config.rope_scaling) == (100.0, expected)
        assert config.norm_eps == 1e-5
        assert config.head_dim == 8


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, "'sliding_window' is 64"),
        ({"layer_types": ["chunked_attention"]}, "'layer_types' has 'chunked_attention'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is set"),
        (
            {"model_type": "qwen3_vl_text", "head_dim": 8},
            "model_type is 'qwen3_vl_text', which this decoder",
        ),
        ({"model_type": "phi3"}, "model_type is 'phi3', which this decoder"),
        ({"quantization_config": {"bits": 4}}, "weights are quantised"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rotary embedding 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial factor 0\.5"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "'low_freq_factor' is None"),
        ({"rope_theta": -1}, "'rope_theta' is -1"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps' is 'small'"),
        (
            {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
            "is a mixture of experts, which this decoder does not compute",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "is kept in fp8, which this decoder"),
        (
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
            "is of layers with a window, which this decoder",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, raw: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE, **raw}))
    with pytest.raises(InputError, match=message):
        DecoderConfig.from_directory(tmp_path)


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    raw = {"model_type": "qwen2", **SHAPE, "use_sliding_window": False, "sliding_window": 64}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert DecoderConfig.from_directory(tmp_path).qkv_bias
