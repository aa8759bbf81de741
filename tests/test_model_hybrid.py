"""Qwen3.5, whose layers are gated delta nets but for every fourth: its config.json, what it weighs
and keeps, reckoned again from its published sizes, and what is refused of it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_model_config import require_refused

from blendrt.config import DecoderConfig
from blendsim.errors import InputError, ProfileError
from blendsim.perf.store import load_profile
from blendsim.serving.flavour import find_flavour
from blendsim.sim.link import kv_payload
from blendsim.sim.run import require_modelled
from blendsim.specs import MODELS, find_gpu, find_model, model_name
from blendsim.system import HostMemory, System
from blendsim.topology import COLOCATED

H200 = find_gpu("h200")
VOCAB, HEAD, STATE_HEAD = 248_320, 256, 128
TOWER = 27 * (4 * 1_152**2 + 2 * 1_152 * 4_304)


class Sizes(NamedTuple):
    """What the models differ in."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    values: int  # heads of a delta net; 16 are those of keys
    experts: int = 0
    per_token: int = 0


SIZES = {
    "qwen3.5-9b": Sizes(32, 4_096, 12_288, 16, 4, 32),
    "qwen3.5-27b": Sizes(64, 5_120, 17_408, 24, 4, 48),
    "qwen3.5-35b-a3b": Sizes(40, 2_048, 512, 16, 2, 32, 256, 8),
    "qwen3.5-122b-a10b": Sizes(48, 3_072, 1_024, 32, 2, 64, 256, 8),
    "qwen3.5-397b-a17b": Sizes(60, 4_096, 1_024, 32, 2, 64, 512, 10),
}
TEXT: dict[str, Any] = {
    "attention_bias": False,
    "attn_output_gate": True,
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2_048,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262_144,
    "mlp_only_layers": [],
    "model_type": "qwen3_5_moe_text",
    "moe_intermediate_size": 512,
    "mtp_num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "rope_parameters": {"partial_rotary_factor": 0.25, "rope_type": "default"},
    "shared_expert_intermediate_size": 512,
    "vocab_size": VOCAB,
}
VISION = {"depth": 27, "hidden_size": 1_152, "intermediate_size": 4_304, "out_hidden_size": 2_048}


def config(**changes: Any) -> dict[str, Any]:
    """Of the 35B, with the decoder's keys changed; None: without the key."""
    text = {key: value for key, value in (TEXT | changes).items() if value is not None}
    return {
        "model_type": "qwen3_5_moe",
        "text_config": text,
        "tie_word_embeddings": False,
        "vision_config": VISION,
    }


def read(folder: Path, of: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(of))
    return find_model(str(folder))


# config.json


@pytest.mark.parametrize("changes", [{}, {"layer_types": None}, {"mamba_ssm_dtype": None}])
def test_a_config_of_it_is_the_row_of_the_table(changes: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, config(**changes))
    assert replace(found, name="qwen3.5-35b-a3b") == MODELS["qwen3.5-35b-a3b"]
    assert (found.windowed_layers, found.full_layers, found.context) == (30, 10, 262_144)


def test_a_dense_one_has_no_shared_expert(tmp_path: Path) -> None:
    sizes = SIZES["qwen3.5-27b"]
    gone = dict.fromkeys(("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
    dense = config(
        model_type="qwen3_5_text",
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        layer_types=TEXT["layer_types"][:4] * 16,
        linear_num_value_heads=48,
        num_attention_heads=24,
        num_hidden_layers=64,
        num_key_value_heads=4,
        shared_expert_intermediate_size=None,
        **gone,
    )
    found = read(tmp_path, dense)
    assert replace(found, name="qwen3.5-27b") == MODELS["qwen3.5-27b"]


@pytest.mark.parametrize(
    ("called", "row"),
    [
        ("Qwen/Qwen3.5-27B", "qwen3.5-27b"),
        ("Qwen3.6-27B", "qwen3.5-27b"),
        ("Qwen/Qwen3.6-35B-A3B", "qwen3.5-35b-a3b"),
    ],
)
def test_qwen3_6_is_of_the_same_sizes(called: str, row: str) -> None:
    assert model_name(called) == row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_key_head_dim": 64}, "'linear_key_head_dim' is 64: .* modelled with 128 alone"),
        ({"linear_value_head_dim": 256}, "'linear_value_head_dim' is 256"),
        ({"linear_conv_kernel_dim": 8}, "'linear_conv_kernel_dim' is 8"),
        ({"mamba_ssm_dtype": "bfloat16"}, "'mamba_ssm_dtype' is 'bfloat16'"),
        ({"attn_output_gate": False}, "'attn_output_gate' is False"),
        ({"linear_num_value_heads": None}, "'linear_num_value_heads' is missing"),
        ({"linear_num_value_heads": 40}, "40 value heads .* cannot share 16 key heads evenly"),
        ({"layer_types": ["linear_attention"] * 40}, "'layer_types' is .* for 40 layers"),
        ({"layer_types": ["full_attention"] * 40}, "'layer_types' is .* for 40 layers"),
        ({"layer_types": TEXT["layer_types"][:8]}, "'layer_types' is .* for 40 layers"),
        (
            {"layer_types": None, "full_attention_interval": None},
            "has neither 'layer_types' nor 'full_attention_interval', .*; add one",
        ),
        ({"layer_types": None, "full_attention_interval": -1}, "'layer_types' is "),
        ({"shared_expert_intermediate_size": None}, "'shared_expert_intermediate_size' is missing"),
        ({"mlp_only_layers": [3]}, "'mlp_only_layers' is .*layers without experts"),
        ({"model_type": "qwen3_next"}, "model_type 'qwen3_next' is not a Llama,"),
    ],
)
def test_other_builds_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    require_refused(tmp_path, config(**changes), message)


def test_a_quantised_one_with_layers_of_two_formats_is_refused(tmp_path: Path) -> None:
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    require_refused(tmp_path, config() | {"quantization_config": mixed}, "weights are quantised")


LEFT = (
    *("lm_head", "model.language_model.embed_tokens", "model.visual.blocks.0.attn.qkv", "mtp.fc"),
    *("model.language_model.layers.0.mlp.gate", "mtp.layers.0.self_attn.q_proj"),
    "model.language_model.layers.0.mlp.shared_expert_gate",
    *(f"model.language_model.layers.0.linear_attn.{part}" for part in ("in_proj_a", "in_proj_b")),
    *(f"model.language_model.layers.0.linear_attn.{part}" for part in ("conv1d", "A_log", "norm")),
)


def test_fp8_by_block_leaves_gates_and_convolutions_in_bf16(tmp_path: Path) -> None:
    """As Qwen's uploads do, whose matrices are all in it."""
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    left = {"modules_to_not_convert": list(LEFT)}
    found = read(tmp_path, config() | {"quantization_config": fp8 | left})
    assert (found.weights, found.kv) == ("fp8-block", "bf16")
    for part in ("linear_attn.in_proj_qkv", "linear_attn.out_proj", "self_attn.q_proj"):
        other = {"modules_to_not_convert": [f"model.language_model.layers.0.{part}"]}
        changed = config() | {"quantization_config": fp8 | other}
        require_refused(tmp_path, changed, "layers of two formats are not")


# What they weigh and keep


def delta_net(sizes: Sizes) -> tuple[int, int]:
    """Weights of its matrices, and its others."""
    keys, values = 16 * STATE_HEAD, sizes.values * STATE_HEAD
    matrices = sizes.hidden * (keys + keys + values + values) + values * sizes.hidden
    gates = 2 * sizes.values * sizes.hidden
    return matrices, gates + 4 * (keys + keys + values) + 2 * sizes.values + STATE_HEAD


def attention(sizes: Sizes) -> tuple[int, int]:
    """The same of attention, whose queries come with a gate as wide; norms of both heads."""
    width = sizes.heads * HEAD
    return sizes.hidden * (2 * width + 2 * sizes.kv_heads * HEAD) + width * sizes.hidden, 2 * HEAD


def in_format(sizes: Sizes, experts: int) -> int:
    """Matrices of all layers with so many experts each and the one that is shared."""
    mlps = sizes.layers * max(1, experts + (sizes.experts > 0)) * 3 * sizes.hidden * sizes.mlp
    deltas = sizes.layers * 3 // 4
    return mlps + deltas * delta_net(sizes)[0] + (sizes.layers - deltas) * attention(sizes)[0]


def others(sizes: Sizes) -> int:
    """Embedding, LM head, routers, norms, gates of shared experts, and what a delta net has."""
    routers = sizes.experts * sizes.hidden + (sizes.hidden if sizes.experts else 0)
    deltas = sizes.layers * 3 // 4
    of_layers = sizes.layers * (2 * sizes.hidden + routers) + deltas * delta_net(sizes)[1]
    of_attention = (sizes.layers - deltas) * attention(sizes)[1]
    return 2 * VOCAB * sizes.hidden + sizes.hidden + of_layers + of_attention


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_those_of_both_kinds_of_layers(name: str) -> None:
    model, sizes = MODELS[name], SIZES[name]
    assert model.parameters == in_format(sizes, sizes.experts) + others(sizes)
    assert model.active_parameters == in_format(sizes, sizes.per_token) + others(sizes)
    assert model.weight_bytes == 2 * (model.parameters + TOWER)
    fp8 = model.in_format("fp8-block", "auto")
    quantised = in_format(sizes, sizes.experts)
    assert fp8.weight_bytes == model.weight_bytes - quantised


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("qwen3.5-9b", 8.95, None),
        ("qwen3.5-27b", 27, None),
        ("qwen3.5-35b-a3b", 35, 3),
        ("qwen3.5-122b-a10b", 122, 10),
        ("qwen3.5-397b-a17b", 397, 17),
    ],
)
def test_parameters_are_the_published_ones(name: str, billions: float, active: int | None) -> None:
    """To the digits that its name has; of active ones the embedding computes nothing."""
    model = MODELS[name]
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    if active:
        computing = model.active_parameters - VOCAB * model.hidden
        assert computing / 1e9 == pytest.approx(active, abs=1.1)


def state(sizes: Sizes) -> int:
    """Bytes of a request's states: matrices in float32, three tokens of the convolution in bf16."""
    matrices = sizes.values * STATE_HEAD * STATE_HEAD * 4
    reached = 3 * (2 * 16 * STATE_HEAD + sizes.values * STATE_HEAD) * 2
    return sizes.layers * 3 // 4 * (matrices + reached)


@pytest.mark.parametrize(
    ("name", "tp"),
    [("qwen3.5-9b", 1), ("qwen3.5-27b", 2), ("qwen3.5-35b-a3b", 1), ("qwen3.5-397b-a17b", 8)],
)
def test_a_running_request_holds_blocks_as_large_as_its_state(name: str, tp: int) -> None:
    model, sizes = MODELS[name], SIZES[name]
    assert model.state_bytes == state(sizes)
    system = System(model, H200, tp)
    copies = max(1, tp // sizes.kv_heads)
    token = copies * sizes.layers // 4 * 2 * sizes.kv_heads * HEAD * 2
    assert system.kv_bytes_per_token == token
    assert system.window_blocks == -(-state(sizes) // (16 * token))
    assert system.room == 16 * (system.kv_blocks - system.window_blocks)
    with_fp8 = replace(system, model=model.in_format("auto", "fp8"))
    assert with_fp8.window_blocks == -(-state(sizes) // (8 * token))


def test_a_state_of_the_35b_is_that_of_three_thousand_tokens() -> None:
    system = System(MODELS["qwen3.5-35b-a3b"], H200)
    assert (system.model.state_bytes, system.kv_bytes_per_token) == (64_389_120, 20_480)
    assert system.window_blocks == 197


def test_pools_move_the_state_with_the_kv() -> None:
    system = System(MODELS["qwen3.5-35b-a3b"], H200, 2)
    moved = kv_payload(system, np.array([1, 1_000]))
    assert moved * 2 == pytest.approx([20_480 + 64_389_120, 20_480_000 + 64_389_120])


@pytest.mark.parametrize(
    ("changes", "tp", "message"),
    [
        ({}, 3, "--tp 3 "),
        ({"delta_key_heads": 6}, 4, "--tp 4 does not divide the 6 key and 48 value heads"),
    ],
)
def test_gpus_that_cannot_share_the_heads_are_refused(
    changes: dict[str, Any], tp: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        System(replace(MODELS["qwen3.5-27b"], **changes), H200, tp)


# What is not modelled


@pytest.mark.parametrize(
    ("flavour", "changes", "host", "message"),
    [
        ("sglang", {}, None, "engine sglang is not modelled .* layers of linear attention; use an"),
        ("nanoflow", {"cascade": True}, None, "cascade .* layers of linear attention; leave it"),
        ("vllm", {}, HostMemory(10**12, H200.link), "host memory .* of linear attention; leave"),
    ],
)
def test_what_is_not_modelled_of_it_is_refused(
    flavour: str, changes: dict[str, Any], host: HostMemory | None, message: str
) -> None:
    asked = replace(find_flavour(flavour), **changes)
    with pytest.raises(InputError, match=message):
        require_modelled(asked, COLOCATED, host, System(MODELS["qwen3.5-9b"], H200))


def test_the_runtime_refuses_it() -> None:
    with pytest.raises(InputError, match=r"qwen3\.5-9b is of layers of linear attention, which"):
        DecoderConfig.from_spec(MODELS["qwen3.5-9b"])


def test_a_gpu_without_its_kernels_is_refused_with_one_that_has_them() -> None:
    model = MODELS["qwen3.5-9b"]
    with pytest.raises(ProfileError, match=r"no linear .* measured: none; choose another --gpu$"):
        load_profile(find_gpu("a100-80g"), model)
    assert load_profile(H200, model).delta is not None


def test_heads_that_were_not_measured_are_refused_with_those_that_were() -> None:
    model = replace(MODELS["qwen3.5-9b"], delta_heads=80)
    with pytest.raises(
        ProfileError, match=r"16 key and 80 value heads .*: 2/4, .* --tp or --model$"
    ):
        load_profile(H200, model)


def test_blocks_that_a_shared_expert_cuts_too_are_not_mended_by_whole_experts() -> None:
    cut = r"--tp 8 leaves each GPU \d+ values of {}'s MLP, .* do not load; use a smaller --tp{}$"
    for name, instead in (("qwen3.5-35b-a3b", ""), ("qwen3-30b-a3b", ", or --expert-parallel")):
        with pytest.raises(InputError, match=cut.format(name, instead)):
            System(MODELS[name].in_format("fp8-block", "auto"), H200, 8)
