"""What a config.json may hold that costs otherwise than what is modelled is refused by its key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blendsim.errors import InputError
from blendsim.specs import MODELS, ModelSpec, find_gpu, find_model
from blendsim.system import System

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1_024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1_000,
    "max_position_embeddings": 32_768,
}
MISTRAL = SHAPE | {"model_type": "mistral"}
QWEN = SHAPE | {"model_type": "qwen2", "use_sliding_window": True}
MIXTRAL = SHAPE | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
QWEN_MOE = SHAPE | {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
}
GPT_OSS = SHAPE | {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 128,
    "attention_bias": True,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
    },
}
MINIMAX = SHAPE | {
    "model_type": "minimax_m2",
    "head_dim": 64,
    "num_local_experts": 64,
    "num_experts_per_tok": 8,
    "shared_intermediate_size": 0,
    "quantization_config": {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
    },
}


def read(folder: Path, config: dict[str, Any]) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(config))
    return find_model(str(folder))


def require_refused(folder: Path, config: dict[str, Any], message: str) -> None:
    """In one line that begins with the file."""
    with pytest.raises(InputError, match=message) as error:
        read(folder, config)
    told = str(error.value)
    assert told.startswith(f"{folder}/config.json: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SHAPE | {"num_local_experts": 8}, "'num_local_experts' is 8: of mixtures of experts"),
        (SHAPE | {"num_experts": 128}, "'num_experts' is 128: of mixtures"),
        (MIXTRAL | {"n_shared_experts": 1}, "'n_shared_experts' is 1: experts that every token"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "a token goes through 9 of 8 experts"),
        (MIXTRAL | {"num_local_experts": None}, "'num_local_experts' is missing"),
        (MIXTRAL | {"sliding_window": 4_096}, "'sliding_window' is 4096"),
        (QWEN_MOE | {"moe_intermediate_size": "wide"}, "'moe_intermediate_size' 'wide' is no size"),
        (QWEN_MOE | {"decoder_sparse_step": 2}, "'decoder_sparse_step' is 2: layers without"),
        (QWEN_MOE | {"mlp_only_layers": [0]}, r"'mlp_only_layers' is \[0\]: layers without"),
        (
            SHAPE | {"model_type": "qwen2_moe"},
            "'qwen2_moe' is not a Llama, Mistral, Mixtral, Qwen2",
        ),
        (SHAPE | {"kv_lora_rank": 512}, "'kv_lora_rank' is 512: latent attention"),
        (
            SHAPE | {"dual_chunk_attention_config": {"chunk_size": 9}},
            "'dual_chunk_attention_config'",
        ),
        (SHAPE | {"layer_types": ["full_attention", "linear_attention"]}, "has 'linear_attention'"),
        (GPT_OSS | {"layer_types": None}, "'sliding_window' is 128, no window as long as"),
        (GPT_OSS | {"num_hidden_layers": 6}, "where 'layer_types' has some layers of 6"),
        (GPT_OSS | {"sliding_window": 0}, "'sliding_window' is 0, no window as long as"),
        (MINIMAX | {"attn_type_list": [1, 0, 1, 1]}, r"'attn_type_list' is \[1, 0, 1, 1\]: layers"),
        (MINIMAX | {"shared_intermediate_size": 512}, "'shared_intermediate_size' is 512: experts"),
        (SHAPE | {"sliding_window": 1_024}, "'sliding_window' is 1024, no window as long as"),
        (SHAPE | {"layer_types": ["sliding_attention"] * 4}, "'sliding_window' is 4096"),
        (SHAPE | {"model_type": "phi3", "sliding_window": 2_047}, "'sliding_window' is 2047"),
        (MISTRAL | {"sliding_window": 4_096}, "'sliding_window' is 4096.*the context of 32768"),
        (MISTRAL, "'sliding_window' is 4096"),  # what the family has unless told
        (MISTRAL | {"sliding_window": "wide"}, "'sliding_window' is 'wide'"),
        (QWEN | {"sliding_window": 32_767}, "'sliding_window' is 32767.*'use_sliding_window' to"),
        (QWEN, "'sliding_window' is 4096"),
        (
            MISTRAL
            | {"sliding_window": 32_768, "rope_scaling": {"rope_type": "yarn", "factor": 2}},
            "'sliding_window' is 32768.*the context of 65536",
        ),
        (SHAPE | {"rope_scaling": {"type": "yarn", "factor": None}}, "'factor' of the rotary"),
        (SHAPE | {"rope_scaling": {"type": "linear", "factor": -2}}, "'factor' of the rotary"),
        (SHAPE | {"rope_scaling": 4}, "'rope_scaling' is 4, no table"),
    ],
)
def test_what_costs_otherwise_is_refused_by_its_key(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    require_refused(tmp_path, config, message)


@pytest.mark.parametrize(
    "config",
    [
        SHAPE | {"quantization_config": None, "num_experts": None, "kv_lora_rank": None},
        SHAPE | {"torch_dtype": "float32"},  # engines load it as bf16
        SHAPE | {"dtype": "bfloat16", "layer_types": ["full_attention"] * 4},
        SHAPE | {"model_type": "phi3"},
        MISTRAL | {"sliding_window": None},
        MISTRAL | {"sliding_window": 32_768},  # cuts nothing off
        SHAPE | {"layer_types": ["sliding_attention"] * 4, "sliding_window": 40_000},
        QWEN | {"use_sliding_window": False, "sliding_window": 64},
        QWEN | {"sliding_window": 32_768},
        {"text_config": SHAPE, "vision_config": {}},
    ],
)
def test_what_costs_the_same_is_read(tmp_path: Path, config: dict[str, Any]) -> None:
    model = read(tmp_path, config)
    assert (model.layers, model.kv_heads, model.context) == (4, 2, 32_768)


def test_experts_are_read_as_their_family_calls_them(tmp_path: Path) -> None:
    model = read(tmp_path, MIXTRAL)
    assert (model.experts, model.experts_per_token, model.intermediate) == (8, 2, 1_024)
    model = read(tmp_path, QWEN_MOE | {"mlp_only_layers": [], "decoder_sparse_step": 1})
    assert (model.experts, model.experts_per_token, model.intermediate) == (16, 4, 256)
    assert model.qk_norm
    model = read(tmp_path, MINIMAX | {"attn_type_list": [1, 1, 1, 1]})
    assert (model.experts, model.experts_per_token, model.intermediate) == (64, 8, 1_024)
    assert (model.weights, model.qk_norm) == ("fp8-block", True)


def test_a_decoder_of_a_model_that_sees_is_its_familys(tmp_path: Path) -> None:
    tower = {"depth": 27, "hidden_size": 1_152, "intermediate_size": 4_304}
    for kind, other in (
        ("qwen2_vl_text", "qwen2"),
        ("qwen2_5_vl_text", "qwen2"),
        ("qwen3_vl_text", "qwen3"),
        ("qwen3_vl_moe_text", "qwen3_moe"),
    ):
        text = QWEN_MOE if other == "qwen3_moe" else SHAPE | {"head_dim": 64}
        seeing = {"text_config": text | {"model_type": kind}, "vision_config": tower}
        plain = replace(read(tmp_path, text | {"model_type": other}), tower_parameters=0)
        found = read(tmp_path, seeing)
        assert replace(found, tower_parameters=0) == plain
        assert found.tower_parameters == 27 * (4 * 1_152**2 + 2 * 1_152 * 4_304)
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    whole = SHAPE | rope | {"model_type": "qwen2_5_vl", "vision_config": tower}
    assert read(tmp_path, whole).qkv_bias
    gated = read(tmp_path, whole).tower_parameters  # the file's family says that its MLPs are
    assert gated == 27 * (4 * 1_152**2 + 3 * 1_152 * 4_304)
    assert read(tmp_path, whole).context == 32_768


def test_what_families_have_by_default_is_not_guessed(tmp_path: Path) -> None:
    """Files leave out what their family has: 8 KV heads of Mistral's, heads of 128 of Qwen3's."""
    bare = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    assert read(tmp_path, bare).kv_heads == 8  # as many as heads
    null = {"num_key_value_heads": None, "sliding_window": None}
    assert read(tmp_path, MISTRAL | null).kv_heads == 8
    for kind in ("mistral", "mixtral", "qwen2", "qwen3_moe"):
        require_refused(tmp_path, bare | {"model_type": kind}, "'num_key_value_heads' is missing")
    assert read(tmp_path, QWEN_MOE).head_dim == 64
    for shape in (SHAPE | {"model_type": "qwen3"}, GPT_OSS, MINIMAX):
        bare = {name: value for name, value in shape.items() if name != "head_dim"}
        require_refused(tmp_path, bare, "'head_dim' is missing")


def test_gpt_oss_has_windows_in_some_layers_and_experts_in_mxfp4(tmp_path: Path) -> None:
    model = read(tmp_path, GPT_OSS)
    assert (model.layers, model.windowed_layers, model.window) == (4, 2, 128)
    assert (model.experts, model.experts_per_token, model.weights) == (32, 4, "mxfp4")
    assert model.kv_bytes_per_token == 2 * 2 * (2 * 64) * 2  # K, V; bytes; width; layers
    plain = read(tmp_path, GPT_OSS | {"quantization_config": None})
    spared = 4 * 32 * (3 * 512 * 1_024) * (2 - 4.25 / 8)
    assert plain.weight_bytes - model.weight_bytes == spared
    everywhere = read(tmp_path, GPT_OSS | {"sliding_window": 40_000})
    assert (everywhere.windowed_layers, everywhere.window) == (0, 0)


def test_a_running_request_holds_what_its_window_lies_in(tmp_path: Path) -> None:
    """128 tokens lie in eight blocks of 16 and the one that they begin in."""
    model = read(tmp_path, GPT_OSS | {"quantization_config": None})
    system = System(model, find_gpu("h100"))
    assert system.window_blocks == 9
    assert replace(system, block_tokens=1).window_blocks == 128
    assert replace(system, model=replace(model, windowed_layers=3)).window_blocks == 27
    assert replace(system, model=replace(model, windowed_layers=0)).window_blocks == 0
    least = 10 * 16 * model.kv_bytes_per_token
    assert replace(system, kv_bytes=least).longest_request == 16
    with pytest.raises(InputError, match=f"holds no request of .*; give at least {least}"):
        replace(system, kv_bytes=least - 1)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8_192}, 32_768),
        ({"type": "yarn", "factor": 4.0}, 131_072),
        ({"rope_type": "linear", "factor": 2.0}, 65_536),
        ({"rope_type": "dynamic", "factor": 1.5}, 49_152),
        ({"rope_type": "llama3", "factor": 8.0}, 32_768),  # already in max_position_embeddings
        ({"rope_type": "longrope", "factor": 8.0}, 32_768),
        ({"rope_type": "default", "rope_theta": 1e6}, 32_768),
        (None, 32_768),
    ],
)
def test_context_is_stretched_as_engines_stretch_it(
    tmp_path: Path, rope: dict[str, Any] | None, context: int
) -> None:
    assert read(tmp_path, SHAPE | {"rope_scaling": rope}).context == context
    assert read(tmp_path, SHAPE | {"rope_parameters": rope}).context == context


#: Sizes as their config.json has them, and parameters as their authors count them.
CLIP = {"hidden_size": 1_024, "intermediate_size": 4_096, "num_hidden_layers": 24}
QWEN_VL = {"depth": 32, "embed_dim": 1_280, "hidden_size": 3_584, "mlp_ratio": 4}


@pytest.mark.parametrize(
    ("tower", "published", "within"),
    [
        (CLIP, 304e6, 0.01),  # ViT-L/14
        (QWEN_VL, 675e6, 0.07),  # with what joins it to the decoder
    ],
)
def test_a_vision_tower_weighs_what_its_sizes_say(
    tmp_path: Path, tower: dict[str, Any], published: float, within: float
) -> None:
    plain = read(tmp_path, SHAPE)
    seeing = read(tmp_path, {"text_config": SHAPE, "vision_config": tower})
    assert seeing.tower_parameters == pytest.approx(published, rel=within)
    assert seeing.tower_parameters < published
    assert seeing.parameters == plain.parameters
    gpu = find_gpu("a100-80g")
    free, less = (System(model, gpu).kv_capacity_bytes for model in (plain, seeing))
    assert free - less == 2 * seeing.tower_parameters


def test_a_gated_tower_has_three_matrices_an_mlp(tmp_path: Path) -> None:
    tower = CLIP | {"model_type": "pixtral"}
    model = read(tmp_path, {"text_config": SHAPE, "vision_config": tower})
    assert model.tower_parameters == 24 * (4 * 1_024**2 + 3 * 1_024 * 4_096)


def test_configs_of_phi_4_and_mistral_small_are_the_rows_of_the_table(tmp_path: Path) -> None:
    """Those whose files go by other names than the other rows' do."""
    phi = {
        "model_type": "phi3",
        "hidden_size": 5_120,
        "intermediate_size": 17_920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "vocab_size": 100_352,
        "max_position_embeddings": 16_384,
        "sliding_window": None,
    }
    text = {
        "model_type": "mistral",
        "hidden_size": 5_120,
        "intermediate_size": 32_768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131_072,
        "max_position_embeddings": 131_072,
        "sliding_window": None,
    }
    tower = {"model_type": "pixtral", "hidden_size": 1_024, "intermediate_size": 4_096}
    small = {"model_type": "mistral3", "text_config": text, "vision_config": tower}
    for config, name in ((phi, "phi-4"), (small, "mistral-small-3.1-24b")):
        assert replace(read(tmp_path, config), name=name) == MODELS[name]


def test_a_tower_that_leaves_out_what_is_usual_has_that(tmp_path: Path) -> None:
    """Configs hold what differs from a class's defaults."""
    bare = {"model_type": "pixtral"}
    model = read(tmp_path, {"text_config": SHAPE, "vision_config": bare})
    assert model.tower_parameters == 24 * (4 * 1_024**2 + 3 * 1_024 * 4_096)
    less = bare | {"num_hidden_layers": 2}
    model = read(tmp_path, {"text_config": SHAPE, "vision_config": less})
    assert model.tower_parameters == 2 * (4 * 1_024**2 + 3 * 1_024 * 4_096)


def test_a_tower_that_hears_is_counted_too(tmp_path: Path) -> None:
    whisper = {"encoder_layers": 32, "d_model": 1_280, "encoder_ffn_dim": 5_120}
    model = read(tmp_path, {"text_config": SHAPE, "vision_config": CLIP, "audio_config": whisper})
    both = 24 * 12 * 1_024**2 + 32 * 12 * 1_280**2
    assert model.tower_parameters == both


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({"model_type": "own"}, "'num_hidden_layers' of 'vision_config' is missing, so what the"),
        (CLIP | {"hidden_size": -1}, "'hidden_size' of 'vision_config' is -1, so what the tower"),
        (CLIP | {"intermediate_size": None}, "'intermediate_size' of 'vision_config' is missing"),
        (CLIP | {"num_hidden_layers": 2.5}, "'num_hidden_layers' of 'vision_config' is 2.5"),
        (CLIP | {"hidden_size": True}, "'hidden_size' of 'vision_config' is True"),
        (QWEN_VL | {"mlp_ratio": float("nan")}, "'intermediate_size' of 'vision_config' is nan"),
        ("clip", "'vision_config' is 'clip', no table; mend it"),
    ],
)
def test_a_tower_that_cannot_be_counted_is_refused(
    tmp_path: Path, tower: object, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, {"text_config": SHAPE, "vision_config": tower})
    assert str(error.value).startswith(f"{tmp_path}/config.json: ")
    assert "mend it" in str(error.value) or "remove 'vision_config' to count" in str(error.value)
