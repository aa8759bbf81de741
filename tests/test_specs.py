"""Model and GPU tables against their public figures, and what a System can hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blendsim.errors import InputError, UnknownName
from blendsim.settings import Settings
from blendsim.specs import GPUS, LINKS, MODELS, find_gpu, find_model
from blendsim.system import System

#: Parameter counts the models' authors publish (billions).
PUBLISHED = {
    "llama-2-7b": 6.74,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.55,
    "llama-3.2-3b": 3.21,
    **dict.fromkeys(("qwen-2.5-7b", "qwen-2.5-7b-instruct"), 7.62),
    **dict.fromkeys(("qwen-2.5-14b", "qwen-2.5-14b-instruct"), 14.77),
    **dict.fromkeys(("qwen-2.5-32b", "qwen-2.5-32b-instruct", "qwq-32b"), 32.76),
    **dict.fromkeys(("qwen-2.5-72b", "qwen-2.5-72b-instruct"), 72.71),
    **dict.fromkeys(("qwen3-4b", "qwen3-4b-2507"), 4.02),
    "qwen3-8b": 8.19,
    "qwen3-14b": 14.77,
    "qwen3-32b": 32.76,
    "deepseek-67b": 67.42,
    "mistral-7b": 7.25,
    **dict.fromkeys(("mistral-small-24b", "mistral-small-3.1-24b"), 23.57),  # of 3.1 its decoder
    "phi-4": 14.66,
    "mixtral-8x7b": 46.70,
    "mixtral-8x22b": 140.63,
    **dict.fromkeys(("qwen3-30b-a3b", "qwen3-30b-a3b-2507"), 30.53),
    **dict.fromkeys(("qwen3-235b-a22b", "qwen3-235b-a22b-2507"), 235.09),
    "qwen3-coder-480b-a35b": 480.15,
    "minimax-m2": 228.69,
    "gpt-oss-20b": 20.91,
    "gpt-oss-120b": 116.79,  # 116.83 with its experts' biases, which are not counted
    "deepseek-v3": 671.03,  # without the layer that guesses a second token
    "kimi-k2": 1026.41,
    "kimi-k2-thinking": 1026.41,
    "kimi-k2.5": 1026.41,  # its decoder
    "qwen3.5-9b": 8.95,  # its decoder, by its GGUF file
    # Those of the others are what their names round (and tests/test_model_hybrid.py reckons).
    "qwen3.5-27b": 26.90,
    "qwen3.5-35b-a3b": 34.66,
    "qwen3.5-122b-a10b": 122.11,
    "qwen3.5-397b-a17b": 396.35,
}
#: Of which a token goes through so many. OpenAI's 3.6 and 5.1 leave the embedding out.
PUBLISHED_ACTIVE = {
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39.1,
    **dict.fromkeys(("qwen3-30b-a3b", "qwen3-30b-a3b-2507"), 3.3),
    **dict.fromkeys(("qwen3-235b-a22b", "qwen3-235b-a22b-2507"), 22.2),
    "qwen3-coder-480b-a35b": 35.47,
    "minimax-m2": 11.0,
    "gpt-oss-20b": 4.2,
    "gpt-oss-120b": 5.7,
    "deepseek-v3": 37.5,  # DeepSeek's 37 leaves the embedding out
    **dict.fromkeys(("kimi-k2", "kimi-k2-thinking", "kimi-k2.5"), 32.9),
    "qwen3.5-35b-a3b": 3.45,  # the names leave the embedding out
    "qwen3.5-122b-a10b": 9.77,
    "qwen3.5-397b-a17b": 17.35,
}


def test_every_model_has_a_published_size() -> None:
    assert set(PUBLISHED) == set(MODELS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_match_the_published_count(name: str) -> None:
    assert MODELS[name].parameters / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_token_goes_through_the_published_part_of_them(name: str) -> None:
    expected = PUBLISHED_ACTIVE.get(name, PUBLISHED[name])
    assert MODELS[name].active_parameters / 1e9 == pytest.approx(expected, abs=0.07)


def test_mistral_small_has_its_tower_beside_the_decoder() -> None:
    """24.01 billion are published of 3.1 and 3.2. What joins the two is not counted."""
    model = MODELS["mistral-small-3.1-24b"]
    joins = 5_120 * (1_024 + 5_120) + 4 * 1_024**2  # and four patches are made one
    counted = model.parameters + model.tower_parameters
    assert (counted + joins) / 1e9 == pytest.approx(24.01, abs=0.006)
    assert model.weight_bytes == 2 * counted


def test_llama_8b_keeps_128_kib_of_kv_a_token() -> None:
    assert MODELS["llama-3.1-8b"].kv_bytes_per_token == 128 * 1024


def test_kv_capacity_is_what_is_left_of_nine_tenths() -> None:
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
    expected = int(0.90 * 80 * 2**30) - 2 * system.model.parameters - 2 * 2**30
    assert system.kv_capacity_bytes == expected
    assert system.kv_blocks == expected // (16 * 128 * 1024)


def test_kv_preset_overrides_the_rule() -> None:
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), kv_bytes=60_000_000_000)
    assert system.kv_blocks == 60_000_000_000 // (16 * 128 * 1024)


def test_longest_request_is_bound_by_context_or_memory() -> None:
    wide = System(find_model("llama-2-7b"), find_gpu("a100-80g"))
    assert wide.longest_request == 4096
    narrow = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), kv_bytes=1 << 30)
    assert narrow.longest_request == 8192


def test_tensor_parallel_ranks_must_divide_the_heads() -> None:
    with pytest.raises(InputError, match="--tp 3 does not divide the 32 heads"):
        System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), tp=3)


def test_kv_heads_are_kept_twice_when_there_are_twice_as_many_gpus() -> None:
    few = replace(MODELS["llama-3.1-8b"], kv_heads=2)
    two, four = (System(few, find_gpu("a100-80g"), tp, kv_bytes=1 << 30) for tp in (2, 4))
    assert (two.kv_blocks, four.kv_blocks) == (2048, 1024)


def test_tensor_parallel_ranks_must_share_out_the_kv_heads() -> None:
    odd = replace(MODELS["llama-3.1-8b"], heads=24, kv_heads=12)
    with pytest.raises(InputError, match="--tp 8 neither divides the 12 KV heads"):
        System(odd, find_gpu("a100-80g"), tp=8)


def test_kv_preset_below_one_block_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"kv_bytes = 5 holds no request of llama-3.1-8b.*at least 2097152"
    ):
        System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), kv_bytes=5)


def test_model_without_room_for_kv_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no KV cache on 1 × a100-80g"):
        System(find_model("llama-3.1-70b"), find_gpu("a100-80g"))
    assert System(find_model("llama-3.1-70b"), find_gpu("a100-80g"), tp=8).kv_blocks > 0


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'Llama-3\.1-9B'.*llama-3\.1-8b"):
        find_model("Llama-3.1-9B")
    with pytest.raises(UnknownName, match=r"unknown GPU 'a100': .*; of these known: a100-80g$"):
        find_gpu("a100")


def test_all_tables_are_keyed_by_their_own_names() -> None:
    assert all(name == spec.name for name, spec in (*GPUS.items(), *MODELS.items()))


CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
}


def test_model_is_read_from_a_hugging_face_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = find_model(str(tmp_path))
    assert model.name == tmp_path.name
    assert model.parameters == MODELS["qwen3-8b"].parameters
    assert find_model(str(tmp_path / "config.json")) == model


def test_config_defaults_are_those_of_the_family(tmp_path: Path) -> None:
    config = CONFIG | {"model_type": "qwen2", "tie_word_embeddings": True}
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = find_model(str(tmp_path))
    assert (model.kv_heads, model.head_dim, model.qkv_bias) == (8, 128, True)
    assert model.tied_embeddings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable config.json"),
        ("[1]", "not a readable config.json"),
        (json.dumps(CONFIG | {"model_type": "mamba"}), "model_type 'mamba' is not a Llama"),
        (json.dumps({"hidden_size": 1}), "'num_attention_heads' is missing"),
        (json.dumps(CONFIG | {"vocab_size": "many"}), "'vocab_size' 'many' is no size"),
        (json.dumps(CONFIG | {"num_attention_heads": 0}), "'num_attention_heads' 0 is no size"),
        (json.dumps(CONFIG | {"num_hidden_layers": 0}), "'num_hidden_layers' 0 is no size"),
        (json.dumps(CONFIG | {"hidden_size": -1}), "'hidden_size' -1 is no size"),
        (json.dumps(CONFIG | {"num_hidden_layers": 1e999}), "'num_hidden_layers' inf is no size"),
        (json.dumps(CONFIG | {"num_key_value_heads": 5}), "32 attention heads cannot share 5"),
        (json.dumps(CONFIG | {"text_config": None, "head_dim": 0}), "'head_dim' 0 is no size"),
        (json.dumps({"text_config": "llama"}), "not a readable config.json"),
    ],
)
def test_unusable_config_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        find_model(str(tmp_path))


def test_qwen2_has_its_bias_whatever_a_config_says(tmp_path: Path) -> None:
    """`attention_bias` is no key of its family."""
    text = json.dumps(CONFIG | {"model_type": "qwen2", "attention_bias": False})
    (tmp_path / "config.json").write_text(text)
    assert find_model(str(tmp_path)).qkv_bias


def test_pools_move_kv_over_the_link_of_their_gpu() -> None:
    links = {name: Settings(gpu=name, topology="1P1D").cluster.link for name in GPUS}
    assert links == {name: gpu.link for name, gpu in GPUS.items()}
    assert all(LINKS[link.name] == link for link in links.values() if link is not None)
    assert GPUS["h200"].link.name == "nvlink4"


def test_a_directory_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name", ["x" * 5_000, "nul\0byte"])
def test_a_name_that_can_be_no_path_is_an_unknown_model(name: str) -> None:
    with pytest.raises(UnknownName):
        find_model(name)


def test_what_the_tables_lack_is_had_in_another_way() -> None:
    with pytest.raises(UnknownName, match=r"; another one by the directory of its"):
        find_model("gemma-3-27b")
    with pytest.raises(UnknownName, match=r"; another is measured \(docs/extending\.md\)"):
        find_gpu("mi300x")


@pytest.mark.parametrize("size", ["7b", "14b", "32b", "72b"])
def test_instruct_models_of_qwen_have_the_context_of_their_files(size: str) -> None:
    plain, instruct = (
        find_model(f"Qwen/Qwen2.5-{size.upper()}{ending}") for ending in ("", "-Instruct")
    )
    assert (plain.context, instruct.context) == (131_072, 32_768)
    assert replace(instruct, name=plain.name, context=plain.context) == plain
