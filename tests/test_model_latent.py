"""DeepSeek-V3 and Kimi-K2: their config.json, what they weigh and keep, reckoned again from their
published sizes, and what is refused of them.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_model_config import require_refused

from blendrt.config import DecoderConfig
from blendsim.errors import InputError, ProfileError, UnknownName
from blendsim.perf.store import load_profile
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import require_modelled
from blendsim.specs import MODELS, find_gpu, find_model
from blendsim.system import System
from blendsim.topology import COLOCATED

ROOT = Path(__file__).parents[1] / "profiles"
H200, B200 = find_gpu("h200"), find_gpu("b200")
HIDDEN, LAYERS = 7_168, 61
DOWN = HIDDEN * (1_536 + 512 + 64)  # to the ranks of queries and of what is kept
OF_HEAD = 1_536 * (128 + 64) + 512 * (128 + 128) + 128 * HIDDEN  # up to a head, and its output
EXPERT = 3 * HIDDEN * 2_048
DENSE_MLP = 3 * HIDDEN * 18_432


class Sizes(NamedTuple):
    """What the two models differ in."""

    heads: int
    experts: int
    dense: int
    vocab: int


SIZES = {"deepseek-v3": Sizes(128, 256, 3, 129_280), "kimi-k2": Sizes(64, 384, 1, 163_840)}
CASES = [("deepseek-v3", "h200", 8), ("deepseek-v3", "b200", 4), ("deepseek-v3", "b200", 8),
         ("kimi-k2", "h200", 8), ("kimi-k2", "b200", 8)]  # fmt: skip

DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7_168,
    "intermediate_size": 18_432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163_840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2_048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1_536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4_096,
        "type": "yarn",
    },
    "rope_theta": 10_000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129_280,
}
KIMI = DEEPSEEK | {
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131_072,
    "model_type": "kimi_k2",
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "rope_scaling": DEEPSEEK["rope_scaling"] | {"factor": 32.0},
    "rope_theta": 50_000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 163_840,
}
CONFIGS = {"deepseek-v3": DEEPSEEK, "kimi-k2": KIMI}


def read(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return find_model(str(folder))


# config.json


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_read_as_the_row_of_the_table(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, CONFIGS[name])
    assert found.name == tmp_path.name
    assert replace(found, name=name) == MODELS[name]


def test_row_of_the_table_is_what_was_published() -> None:
    for name, sizes in SIZES.items():
        model = MODELS[name]
        assert (model.layers, model.hidden, model.intermediate) == (61, 7_168, 2_048)
        assert (model.heads, model.kv_heads, model.head_dim) == (sizes.heads, 1, 128)
        assert (model.experts, model.experts_per_token) == (sizes.experts, 8)
        assert (model.dense_layers, model.dense_intermediate) == (sizes.dense, 18_432)
        assert (model.q_rank, model.kv_rank, model.rope_dim) == (1_536, 512, 64)
        assert (model.shared_intermediate, model.vocab) == (2_048, sizes.vocab)
        assert (model.weights, model.kv, model.windowed_layers) == ("fp8-block", "bf16", 0)
    assert MODELS["deepseek-v3"].context == 40 * 4_096
    assert MODELS["kimi-k2"].context == 32 * 4_096


def test_config_without_formats_is_in_bf16(tmp_path: Path) -> None:
    found = read(tmp_path, DEEPSEEK | {"quantization_config": None})
    assert replace(found, name="deepseek-v3", weights="fp8-block") == MODELS["deepseek-v3"]
    assert found.weights == "bf16"


def test_one_of_a_kind_may_have_no_dense_layer_and_several_shared_experts(tmp_path: Path) -> None:
    found = read(tmp_path, DEEPSEEK | {"first_k_dense_replace": 0, "n_shared_experts": 2})
    assert (found.dense_layers, found.dense_intermediate) == (0, 0)
    assert found.shared_intermediate == 2 * 2_048
    assert found.layers_with_experts == 61


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in DEEPSEEK.items() if name != key}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DEEPSEEK | {"moe_layer_freq": 2}, "'moe_layer_freq' is 2: layers without experts"),
        (DEEPSEEK | {"first_k_dense_replace": 61}, "'first_k_dense_replace' is 61, no number of"),
        (DEEPSEEK | {"first_k_dense_replace": 62}, "'first_k_dense_replace' is 62, no number of"),
        (DEEPSEEK | {"first_k_dense_replace": -1}, "'first_k_dense_replace' is -1, no number"),
        (DEEPSEEK | {"first_k_dense_replace": True}, "'first_k_dense_replace' is True, no number"),
        (DEEPSEEK | {"first_k_dense_replace": 3.0}, "'first_k_dense_replace' is 3.0, no number"),
        (without("first_k_dense_replace"), "'first_k_dense_replace' is None, no number of the 61"),
        (DEEPSEEK | {"v_head_dim": 64}, "'v_head_dim' is 64 and 'qk_nope_head_dim' 128"),
        (DEEPSEEK | {"q_lora_rank": None}, "'q_lora_rank' is null: latent attention whose"),
        (DEEPSEEK | {"q_lora_rank": 0}, "'q_lora_rank' 0 is no size"),
        (without("kv_lora_rank"), "'kv_lora_rank' is missing"),
        (without("qk_rope_head_dim"), "'qk_rope_head_dim' is missing"),
        (without("qk_nope_head_dim"), "'qk_nope_head_dim' is missing"),
        (without("v_head_dim"), "'v_head_dim' is missing"),
        (without("n_shared_experts"), "'n_shared_experts' is missing"),
        (without("n_routed_experts"), "'n_routed_experts' is missing"),
        (without("moe_intermediate_size"), "'moe_intermediate_size' is missing"),
        (without("intermediate_size"), "'intermediate_size' is missing"),
        (DEEPSEEK | {"num_experts_per_tok": 257}, "a token goes through 257 of 256 experts"),
        (
            DEEPSEEK | {"model_type": "deepseek_v32", "index_topk": 2_048},
            "model_type 'deepseek_v32' is not a .*DeepSeek-V3 or Kimi-K2 decoder",
        ),
        (
            DEEPSEEK | {"index_topk": 2_048},
            "'index_topk' is 2048: attention to a part of the context",
        ),
        (DEEPSEEK | {"model_type": "deepseek_v2"}, "model_type 'deepseek_v2' is not a"),
        (DEEPSEEK | {"sliding_window": 4_096}, "'sliding_window' is 4096"),
        (DEEPSEEK | {"model_type": "llama"}, "is .*: (of mixtures|experts that|latent attention)"),
    ],
)
def test_what_costs_otherwise_is_refused_by_its_key(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    require_refused(tmp_path, config, message)


@pytest.mark.parametrize(
    ("called", "meant"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("DeepSeek-V3-0324", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3"),
        ("DeepSeek-V3.1", "deepseek-v3"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"),
        ("Kimi-K2", "kimi-k2"),
    ],
)
def test_names_of_the_same_sizes_are_known(called: str, meant: str) -> None:
    assert find_model(called) is MODELS[meant]


@pytest.mark.parametrize(
    "called",
    [
        "deepseek-ai/DeepSeek-V2",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "DeepSeek-R1-Distill-Qwen-7B",
        "moonshotai/Kimi-K2-Instruct-0905",  # takes twice the context
        "moonshotai/Moonlight-16B-A3B",
    ],
)
def test_names_of_other_models_are_none(called: str) -> None:
    with pytest.raises(UnknownName):
        find_model(called)


# What they weigh and keep


def attention_parameters(name: str) -> int:
    return DOWN + SIZES[name].heads * OF_HEAD


def in_bf16(name: str) -> int:
    """Embedding, LM head, routers and norms."""
    sizes = SIZES[name]
    routers = (LAYERS - sizes.dense) * sizes.experts * HIDDEN
    norms = LAYERS * (2 * HIDDEN + 1_536 + 512) + HIDDEN
    return 2 * sizes.vocab * HIDDEN + routers + norms


def in_fp8(name: str, experts: int) -> int:
    """Matrices of all layers with so many routed experts each."""
    dense = SIZES[name].dense
    mlps = dense * DENSE_MLP + (LAYERS - dense) * (experts + 1) * EXPERT
    return LAYERS * attention_parameters(name) + mlps


def routers(name: str) -> int:
    """Bytes of those of all layers that have experts."""
    return (LAYERS - SIZES[name].dense) * SIZES[name].experts * HIDDEN * 2


def repeated(name: str, tp: int, value_bytes: int = 1) -> int:
    """Bytes on all other GPUs of what each has whole: the way down, and routers."""
    return (tp - 1) * (LAYERS * DOWN * value_bytes + routers(name))


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_those_of_dense_layers_experts_and_shared_ones(name: str) -> None:
    model, sizes = MODELS[name], SIZES[name]
    assert model.parameters == in_fp8(name, sizes.experts) + in_bf16(name)
    assert model.active_parameters == in_fp8(name, 8) + in_bf16(name)
    assert model.weight_bytes == in_fp8(name, sizes.experts) + 2 * in_bf16(name)
    assert model.in_format("none", "auto").weight_bytes == 2 * model.parameters


@pytest.mark.parametrize(
    ("quantization", "value_bytes"),
    [("auto", 1), ("fp8", 1), ("none", 2), ("mxfp4", 2)],  # the last is of experts alone
)
def test_what_belongs_to_no_head_is_on_every_gpu(quantization: str, value_bytes: int) -> None:
    model = MODELS["deepseek-v3"].in_format(quantization, "auto")
    for tp in (8, 16):
        system = System(model, B200, tp)
        extra = repeated("deepseek-v3", tp, value_bytes)
        assert system.weight_bytes == model.weight_bytes + extra


def test_routers_are_on_every_gpu_and_kv_heads_on_as_many_as_they_are_spread_over() -> None:
    qwen = MODELS["qwen3-30b-a3b"]  # 48 layers, 128 experts, 4 KV heads of 128, hidden 2,048
    for tp, copies in ((2, 1), (4, 1), (8, 2)):
        to_kv = (copies - 1) * 48 * 2_048 * 2 * 4 * 128
        extra = 2 * ((tp - 1) * 48 * 2_048 * 128 + to_kv)
        assert System(qwen, B200, tp).weight_bytes == qwen.weight_bytes + extra
    assert (
        System(MODELS["llama-3.1-8b"], B200, 8).weight_bytes == MODELS["llama-3.1-8b"].weight_bytes
    )


def test_mxfp4_is_of_the_experts_of_layers_that_have_them_alone() -> None:
    model = MODELS["deepseek-v3"].in_format("mxfp4", "auto")
    routed = 58 * 256 * EXPERT
    others = model.parameters - routed
    assert model.weight_bytes == int(routed * 4.25 / 8) + 2 * others


@pytest.mark.parametrize(("name", "gpu", "tp"), [
    ("deepseek-v3", "h200", 8), ("deepseek-v3", "b200", 4), ("kimi-k2", "b200", 8)
])  # fmt: skip
@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_kv_is_576_values_a_layer_on_every_gpu(name: str, gpu: str, tp: int, kv: str) -> None:
    model = MODELS[name].in_format("auto", kv)
    system = System(model, find_gpu(gpu), tp)
    of_one_gpu = LAYERS * 576 * (2 if kv == "bf16" else 1)
    assert model.kv_bytes_per_token == of_one_gpu
    assert system.kv_copies == tp
    assert system.kv_bytes_per_token == tp * of_one_gpu
    weights = in_fp8(name, SIZES[name].experts) + 2 * in_bf16(name) + repeated(name, tp)
    free = int(0.90 * find_gpu(gpu).memory_bytes * tp) - (2 << 30) * tp - weights
    assert system.kv_capacity_bytes == free
    assert system.kv_blocks == free // (tp * of_one_gpu * 16)
    assert system.longest_request == min(model.context, 16 * system.kv_blocks)


def test_more_gpus_than_memory_needs_hold_no_more_kv_each() -> None:
    """Twice as many GPUs have more than twice the memory for KV, and keep it twice as often."""
    four, eight = (System(MODELS["deepseek-v3"], B200, tp) for tp in (4, 8))
    assert eight.kv_blocks > four.kv_blocks
    per_gpu = [system.kv_capacity_bytes / system.tp for system in (four, eight)]
    assert eight.kv_blocks / four.kv_blocks == pytest.approx(per_gpu[1] / per_gpu[0], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "gpu", "tp", "message"),
    [
        (
            "deepseek-v3",
            "b200",
            32,
            "leaves each GPU 64 values of deepseek-v3's MLP, .* use a smaller --tp$",
        ),
        ("kimi-k2", "b200", 32, "leaves each GPU 64 values of kimi-k2's MLP, "),
        ("deepseek-v3", "b200", 3, "--tp 3 does not divide the 128 heads"),
        ("deepseek-v3", "h200", 4, r"needs 676 GB for weights and leaves no KV .* 4 × h200"),
        ("deepseek-v3", "h100", 8, r"needs 681 GB for weights .* 8 × h100"),
        ("kimi-k2", "h100", 8, "needs 1038 GB for weights"),
        ("deepseek-v3", "l40s", 8, "needs 681 GB for weights and leaves no KV cache"),
        ("deepseek-v3", "l40s", 16, "needs 690 GB for weights and leaves no KV cache"),
        ("deepseek-v3", "a100-80g", 8, "a100-80g does not compute in fp8"),
    ],
)
def test_what_cannot_be_is_refused(name: str, gpu: str, tp: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        System(MODELS[name], find_gpu(gpu), tp)


def test_whole_experts_leave_the_other_mlps_cut_through_blocks() -> None:
    apart = replace(MODELS["deepseek-v3"], expert_parallel=True)
    with pytest.raises(InputError, match="576 values of deepseek-v3's MLP of dense layers"):
        System(apart, B200, 32)
    # Whose dense layers are cut at whole blocks has shared experts that are not.
    wide = replace(apart, dense_intermediate=16_384)
    with pytest.raises(InputError, match="64 values of deepseek-v3's shared experts") as error:
        System(wide, B200, 32)
    assert "--expert-parallel" not in str(error.value)


def test_queries_of_a_head_are_cut_with_what_holds_their_position() -> None:
    """192 values of one head are one block and a half."""
    narrow = replace(
        MODELS["deepseek-v3"], heads=16, expert_parallel=True, shared_intermediate=16 * 128
    )
    with pytest.raises(InputError, match="leaves each GPU 192 values of deepseek-v3's queries"):
        System(narrow, B200, 16)


def test_what_is_kept_is_cut_by_no_gpu() -> None:
    """Heads of 96 values: four of them are whole blocks, and there are no keys of one head."""
    slim = replace(MODELS["deepseek-v3"], heads=32, head_dim=96)
    assert System(slim, H200, 8).kv_copies == 8


# What is not modelled of them


def test_gpus_without_their_tables_say_so() -> None:
    plain = MODELS["deepseek-v3"].in_format("none", "auto")
    a100 = find_gpu("a100-80g")
    with pytest.raises(InputError, match="needs 1356 GB for weights and leaves no KV cache on 8"):
        System(plain, a100, 8)
    small = replace(plain, layers=8, dense_layers=1)
    with pytest.raises(
        ProfileError,
        match="a100-80g: no latent attention measured with 16 heads a GPU in bf16; measured: none",
    ):
        load_profile(a100, small, 8)


def test_fp8_kv_on_an_l40s_is_refused() -> None:
    small = replace(MODELS["deepseek-v3"], layers=8, dense_layers=1)
    assert load_profile(find_gpu("l40s"), small, 8).decode.seconds.shape[1] == 17
    with pytest.raises(
        ProfileError,
        match=r"no attention over fp8 KV measured; choose another --gpu, or --kv-cache-dtype bf16",
    ):
        load_profile(find_gpu("l40s"), small.in_format("auto", "fp8"), 8)


def test_nvfp4_is_refused_of_projections() -> None:
    with pytest.raises(ProfileError, match=r"no latent attention measured with 16 heads .* nvfp4"):
        load_profile(B200, MODELS["deepseek-v3"].in_format("nvfp4", "auto"), 8)


def test_heads_that_were_not_measured_are_refused() -> None:
    odd = replace(MODELS["deepseek-v3"], heads=96)
    with pytest.raises(ProfileError, match="no latent attention measured with 12 heads a GPU"):
        load_profile(H200, odd, 8)


def test_cascade_attention_is_refused_of_latent_attention() -> None:
    system = System(MODELS["deepseek-v3"], H200, 8)
    plain = find_flavour("vllm")
    require_modelled(plain, COLOCATED, None, system)
    with pytest.raises(InputError, match="cascade attention is not modelled for deepseek-v3"):
        require_modelled(replace(plain, cascade=True), COLOCATED, None, system)


def test_the_gpu_runtime_refuses_it(tmp_path: Path) -> None:
    for name in SIZES:
        with pytest.raises(InputError, match=f"^{name} is a mixture of experts, which"):
            DecoderConfig.from_spec(MODELS[name])
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
        with pytest.raises(InputError, match=" is a mixture of experts, which"):
            DecoderConfig.from_directory(tmp_path)
    dense = replace(MODELS["llama-3.1-8b"], kv_heads=1, q_rank=1_536, kv_rank=512, rope_dim=64)
    with pytest.raises(InputError, match=r"^llama-3\.1-8b is of latent attention, which this"):
        DecoderConfig.from_spec(dense)
