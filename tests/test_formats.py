"""Formats of weights and KV: what a model's files say of them, and what they weigh."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_model_config import SHAPE

from blendsim.errors import InputError, UnknownName
from blendsim.settings import Settings
from blendsim.specs import ModelSpec, find_gpu, find_model
from blendsim.system import System

FP8 = {"num_bits": 8, "type": "float"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
OF_EXPERTS = {  # as Kimi-K2-Thinking is published
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.gate_proj.*"],
    "config_groups": {"group_0": {"weights": INT4, "input_activations": None}},
    "kv_cache_scheme": None,
}
LEFT = ["re:.*mlp.*", "re:.*self_attn.*", "re:.*shared_experts.*"]
MIXTURE = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {"weights": FP8, "input_activations": FP8}},
}
BLOCKS = FP8 | {"strategy": "block", "block_structure": [128, 128]}


def grouped(**more: Any) -> dict[str, Any]:
    """A config whose only group of weights has these entries."""
    group = {"weights": FP8, "input_activations": FP8, "targets": ["Linear"]} | more
    return {"quantization_config": COMPRESSED | {"config_groups": {"group_0": group}}}


def read(folder: Path, **more: Any) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(SHAPE | more))
    return find_model(str(folder))


@pytest.mark.parametrize(
    ("statement", "formats"),
    [
        (None, ("bf16", "bf16")),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, ("fp8", "bf16")),
        (
            {
                "quant_method": "fp8",
                "weight_block_size": [128, 128],
                "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
            },
            ("fp8-block", "bf16"),
        ),
        (COMPRESSED, ("fp8", "bf16")),
        (COMPRESSED | {"kv_cache_scheme": FP8}, ("fp8", "fp8")),
        (
            COMPRESSED | {"config_groups": {"g": {"weights": BLOCKS, "input_activations": FP8}}},
            ("fp8-block", "bf16"),
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("fp8", "bf16")),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, ("fp8", "fp8")),
        ({"quant_algo": "FP8", "kv_cache_scheme": "FP8"}, ("fp8", "fp8")),
    ],
)
def test_a_config_says_the_formats(
    tmp_path: Path, statement: Any, formats: tuple[str, str]
) -> None:
    model = read(tmp_path, quantization_config=statement)
    assert (model.weights, model.kv) == formats


@pytest.mark.parametrize(
    "left",
    [
        ["lm_head", "model.layers.0.mlp.gate"],
        ["re:.*lm_head", "re:.*mlp.gate$"],
        ["lm_head", "model.layers.*.mlp.gate*", "*router*"],
        ["model.layers.3.block_sparse_moe.gate"],
    ],
)
def test_routers_of_experts_stay_as_they_were(tmp_path: Path, left: list[str]) -> None:
    said = COMPRESSED | {"ignore": left}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "model_type": "mixtral"}
    assert read(tmp_path, quantization_config=said, **experts).weights == "fp8"
    with pytest.raises(InputError, match="as it was, and layers of two formats are not"):
        read(tmp_path, quantization_config=said)  # without experts those are parts of an MLP


def test_the_whole_file_may_say_it_of_the_decoder_in_it(tmp_path: Path) -> None:
    whole = {"text_config": SHAPE, "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    assert find_model(str(tmp_path)).weights == "fp8"


def test_formats_are_asked_for_as_engines_call_them() -> None:
    asked = Settings(gpu="h200", quantization="FP8", kv_cache_dtype="fp8_e4m3")
    assert asked == Settings(gpu="h200", quantization="fp8", kv_cache_dtype="fp8")
    assert Settings(quantization="bf16", kv_cache_dtype="bfloat16") == Settings(
        quantization="none", kv_cache_dtype="bf16"
    )


def test_modelopt_says_them_in_a_file_beside_it(tmp_path: Path) -> None:
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    model = read(tmp_path)
    assert (model.weights, model.kv) == ("fp8", "bf16")
    said["quantization"] |= {"kv_cache_quant_algo": "FP8"}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    assert read(tmp_path, quantization_config={"quant_method": "fp8"}).kv == "fp8"
    with pytest.raises(InputError, match=r"differ about how weights are.*\(fp8-block, fp8\)"):
        read(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, r"_config' \('awq'\) says that weights"),
        ({"quantization_config": {}}, "'quantization_config' says that weights are quantised"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config' says that weights are"),
        ({"quantization_config": "fp8"}, "'quantization_config' is 'fp8', no table"),
        ({"compression_config": {"format": "int"}}, "'compression_config' says that weights are"),
        ({"quantization_config": {"quant_algo": "W4A8"}}, r"\('W4A8'\) says that weights"),
        (
            {"quantization_config": {"quant_algo": "NVFP4", "ignore": ["model.0.self_attn*"]}},
            r"leaves 'model\.0\.self_attn\*' as it was",
        ),
        (grouped(weights=NVFP4 | {"group_size": 32}), "neither both fp8 nor both nvfp4"),
        (grouped(weights=NVFP4), "neither both fp8 nor both nvfp4"),  # activations in fp8
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
            r"blocks of \[64, 64\], not \[128, 128\]",
        ),
        (
            {"quantization_config": COMPRESSED | {"config_groups": {"g": {"weights": FP8}}}},
            "weights or activations that are neither both fp8 nor both nvfp4",
        ),
        (
            {"quantization_config": COMPRESSED | {"config_groups": {}}},
            "has 0 formats of weights",
        ),
        (
            {"quantization_config": COMPRESSED | {"kv_cache_scheme": "NVFP4"}},
            "keeps KV in 'NVFP4', and only bf16 and fp8",
        ),
        (
            {"quantization_config": COMPRESSED | {"kv_cache_scheme": {"num_bits": 4}}},
            r"keeps KV in \{'num_bits': 4\}",
        ),
        (
            {"quantization_config": {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}},
            "keeps KV in 'NVFP4', and only bf16",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": 5}},
            "'modules_to_not_convert' is 5, no list",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["l.0.down_proj"]}},
            "leaves 'l.0.down_proj' as it was",
        ),
        (grouped(weights=FP8 | {"strategy": "group"}), "has scales by 'group'"),
        (grouped(weights=FP8 | {"strategy": "block"}), r"blocks of 0, not \[128, 128\]"),
        (grouped(targets=["re:.*mlp.*"]), r"is of \['re:\.\*mlp\.\*'\] alone"),
        (
            {"quantization_config": COMPRESSED | {"ignore": ["model.layers.0.self_attn.q_proj"]}},
            "leaves 'model.layers.0.self_attn.q_proj' as it was",
        ),
        ({"quantization_config": {"quant_method": "mxfp4"}}, r"\('mxfp4'\) says that weights"),
        ({"quantization_config": OF_EXPERTS}, "neither both fp8 nor both nvfp4"),  # a dense model
        (
            MIXTURE | {"quantization_config": OF_EXPERTS | {"ignore": ["lm_head"]}},
            "neither both fp8 nor both nvfp4",  # attention is in int4, too
        ),
        (
            MIXTURE | {"quantization_config": OF_EXPERTS | {"ignore": [*LEFT, "re:.*experts.0"]}},
            "leaves 're:.*experts.0' as it was",
        ),
        (
            MIXTURE
            | {
                "quantization_config": OF_EXPERTS
                | {"config_groups": {"g": {"weights": INT4 | {"group_size": 128}}}}
            },
            "neither both fp8 nor both nvfp4",
        ),
        (
            {
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "model_type": "mixtral",
                "quantization_config": {
                    "quant_method": "mxfp4",
                    "modules_to_not_convert": ["model.layers.0.mlp.experts"],
                },
            },
            "leaves 'model.layers.0.mlp.experts' as it was",
        ),
        ({"torch_dtype": "float8_e4m3fn"}, "'torch_dtype' is 'float8_e4m3fn'; only bf16, fp8"),
        ({"dtype": "torch.int8"}, "'dtype' is 'torch.int8'; only bf16"),
    ],
)
def test_formats_of_which_nothing_was_measured_are_refused(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, **more)
    told = str(error.value)
    assert told.startswith(f"{tmp_path}/config.json: ")
    assert "\n" not in told


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json"])
def test_a_file_beside_it_that_says_another_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"{name} says that weights are quantised; only bf16"):
        read(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(InputError, match=f"{name}: not readable as JSON"):
        read(tmp_path)


def test_int4_is_of_experts_alone(tmp_path: Path) -> None:
    model = read(tmp_path, **MIXTURE, quantization_config=OF_EXPERTS)
    assert (model.weights, model.kv) == ("int4", "bf16")
    experts = model.layers * 8 * 3 * model.hidden * model.intermediate
    assert model.weight_bytes == 2 * (model.parameters - experts) + experts * 4.5 / 8
    assert find_model("kimi-k2-thinking").weight_bytes / 1e9 == pytest.approx(594.2, abs=0.1)


def test_fp8_halves_what_layers_and_kv_weigh() -> None:
    model = find_model("llama-3.1-8b")
    half = model.in_format("fp8", "fp8")
    matrices = model.layers * (model.layer_parameters - 2 * model.hidden)
    assert model.weight_bytes - half.weight_bytes == matrices
    assert 2 * half.kv_bytes_per_token == model.kv_bytes_per_token
    system = System(model, find_gpu("h100"))
    assert replace(system, model=half).kv_blocks > 2 * system.kv_blocks


def test_routers_stay_as_they_are() -> None:
    model = find_model("qwen3-30b-a3b")
    others = 2 * model.vocab * model.hidden + model.hidden
    others += model.layers * (model.hidden * model.experts + 2 * model.hidden + 2 * model.head_dim)
    quantised = model.in_format("fp8-block", "auto")
    assert quantised.weight_bytes == 2 * others + (model.parameters - others)


def test_asking_wins_over_what_the_files_say(tmp_path: Path) -> None:
    read(tmp_path, quantization_config={"quant_method": "fp8"})
    said = Settings(model=str(tmp_path), gpu="h100")
    assert said.spec.weights == "fp8"
    assert replace(said, quantization="none").spec.weights == "bf16"
    assert replace(said, quantization="fp8-block", kv_cache_dtype="fp8").spec.kv == "fp8"
    assert said.spec.in_formats == " in fp8"


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(UnknownName, match="--quantization 'int8'"):
        Settings(quantization="int8")
    with pytest.raises(UnknownName, match="--kv-cache-dtype 'fp16'"):
        Settings(kv_cache_dtype="fp16")
    with pytest.raises(UnknownName, match="--kv-cache-dtype 'fp8_e5m2'"):  # measured in e4m3
        Settings(kv_cache_dtype="fp8_e5m2")


def test_a_format_of_experts_needs_some() -> None:
    with pytest.raises(
        InputError, match=r"mxfp4 is a format of experts, and llama-3\.1-8b has none"
    ):
        _ = Settings(quantization="mxfp4").system
    assert Settings(model="gpt-oss-20b").spec.weights == "mxfp4"
    assert Settings(model="gpt-oss-20b", gpu="a100-80g").system.flops == 312e12  # of bf16


def test_nvfp4_is_for_gpus_that_compute_in_it(tmp_path: Path) -> None:
    for said in (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        grouped(weights=NVFP4, input_activations=NVFP4),
    ):
        assert read(tmp_path, **said).weights == "nvfp4"
    asked = Settings(model="llama-3.1-70b", gpu="b200", quantization="nvfp4")
    assert asked.system.flops == 9e15
    model = asked.spec
    of_layers = model.layers * model.matrix_parameters
    assert model.weight_bytes == of_layers * 4.5 / 8 + 2 * (model.parameters - of_layers)
    with pytest.raises(InputError, match="h200 does not compute in nvfp4"):
        _ = replace(asked, gpu="h200").system


def test_a_gpu_without_fp8_refuses_such_weights() -> None:
    with pytest.raises(InputError, match="a100-80g does not compute in fp8"):
        _ = Settings(quantization="fp8").system
    assert Settings(kv_cache_dtype="fp8").system.model.kv == "fp8"


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (Settings(gpu="h200", quantization="fp8"), "weights in fp8"),
        (Settings(kv_cache_dtype="fp8"), "KV in fp8"),
    ],
)
def test_what_only_the_simulator_models_is_not_run(asked: Settings, what: str) -> None:
    with pytest.raises(InputError, match=f"replay has no {what}"):
        asked.require_runnable("replay")
