"""A ModelSpec from a Hugging Face `config.json`, and what one may hold that would change what a
model costs. Most of that is refused: here all layers are alike, but that some may attend to a
window of the context alone, and the first ones may have no experts. What a tower beside the decoder
weighs is counted, and in which format weights are stands in formats.py.

The runtime reads its models through the same rules, and refuses more: what costs the same and is
computed otherwise (blendrt/config.py).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from blendsim.errors import InputError
from blendsim.fields import Section
from blendsim.formats import formats_of
from blendsim.model_spec import DELTA_HEAD, DELTA_KERNEL, ModelSpec
from blendsim.printable import short

#: How families of mixtures call their experts, how many a token goes through, and the width of one.
_EXPERT_KEYS = {
    "mixtral": ("num_local_experts", "num_experts_per_tok", "intermediate_size"),
    "qwen3_moe": ("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
    "gpt_oss": ("num_local_experts", "num_experts_per_tok", "intermediate_size"),
    "minimax_m2": ("num_local_experts", "num_experts_per_tok", "intermediate_size"),
    "deepseek_v3": ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
    "qwen3_5_moe": ("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
}
#: Those whose K and V are kept as one vector, with an MLP that every token goes through beside its
#: experts, and first layers without any.
_LATENT = ("deepseek_v3",)
_OF_LATENT = ("n_shared_experts", "kv_lora_rank", "q_lora_rank")
#: Those whose layers are gated delta nets, but for some that attend; what is an expert's beside the
#: routed ones of a mixture, and how a delta net is built that was measured.
_HYBRID = ("qwen3_5", "qwen3_5_moe")
_SHARED_EXPERT = "shared_expert_intermediate_size"
_MEASURED_DELTA = {
    "linear_key_head_dim": DELTA_HEAD,
    "linear_value_head_dim": DELTA_HEAD,
    "linear_conv_kernel_dim": DELTA_KERNEL,
    "mamba_ssm_dtype": "float32",
    "attn_output_gate": True,
}
#: Decoders, of models that see and others, which cost what those of these kinds do.
_SAME_AS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"), "qwen2"),
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "kimi_k2": "deepseek_v3",
    "phi3": "llama",  # and Phi-4's: queries, keys and values are one matrix in its files
    "qwen3_5_text": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5_moe",
}
#: Kinds without a window unless their config.json says one.
_WITHOUT_WINDOW = ("llama", "mixtral", "minimax_m2", "deepseek_v3")
#: Kinds whose heads are hidden_size over their number unless their config.json says otherwise, and
#: those that then have as many KV heads as heads. Others have defaults of their family's.
_WITH_EVEN_HEADS = ("llama", "mistral", "mixtral", "qwen2", "qwen3_moe", *_LATENT)
_WITH_KV_OF_ALL = ("llama", *_LATENT)
_MOST_COUNTED: Final = 1 << 31  # of anything a config.json counts
_FAMILY_WINDOW: Final = 4_096  # of a config.json that does not say, in transformers
#: Keys that say of a decoder that it is built otherwise, and what it has then.
_OTHER_BUILDS = {
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
        "of mixtures of experts only Mixtral's, Qwen3's, Qwen3.5's, gpt-oss's, MiniMax-M2's and "
        "DeepSeek-V3's are modelled; give one of these or a dense model",
    ),
    **dict.fromkeys(
        (
            "n_shared_experts",
            "num_shared_experts",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
        ),
        "experts that every token goes through are modelled of DeepSeek-V3 and Qwen3.5 alone; give "
        "another model",
    ),
    **dict.fromkeys(
        ("kv_lora_rank", "q_lora_rank"),
        "latent attention is modelled of DeepSeek-V3 and Kimi-K2 alone; give another model",
    ),
    **dict.fromkeys(
        (
            "dual_chunk_attention_config",
            "sparse_attention_config",
            "attention_chunk_size",
            "index_topk",
        ),
        "attention to a part of the context is not modelled; give another model, or leave the key "
        "out if your engine attends to all of it",
    ),
}
_LARGEST_TOWER: Final = 1 << 20  # of anything that is counted of one
#: Of which engines stretch the context no further: it is in max_position_embeddings already.
_STRETCHED_ALREADY = ("default", "llama3", "longrope", "su")

#: Parts of a model that make its images and sounds into what its decoder reads.
_TOWERS = ("vision_config", "audio_config")
#: What their families call a tower's sizes, of which the first that is there counts.
#: NOTE: Qwen2-VL's `hidden_size` is its decoder's, and `embed_dim` the tower's.
_TOWER_LAYERS = ("num_hidden_layers", "depth", "encoder_layers", "vt_num_hidden_layers")
_TOWER_WIDTH = ("embed_dim", "hidden_size", "d_model", "vt_hidden_size")
_TOWER_MLP = ("intermediate_size", "encoder_ffn_dim", "vt_intermediate_size")
#: Layers, width and MLP of towers by default: a config may leave out what does not differ.
_TOWER_DEFAULTS = {
    "pixtral": (24, 1_024, 4_096),
    "clip_vision_model": (12, 768, 3_072),
    "siglip_vision_model": (12, 768, 3_072),
}
_GATED_TOWERS = ("pixtral", "qwen2_5_vl")  # whose MLPs have three matrices, others' two


def read_config(path: Path) -> ModelSpec:
    """A ModelSpec from a Llama/Qwen2/Qwen3-shaped `config.json`."""
    try:
        whole = json.loads(path.read_text("utf-8-sig"))
        raw = (whole.get("text_config") or whole) if isinstance(whole, dict) else None
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable config.json ({error}); give a Hugging Face model directory"
        ) from error
    named = str(raw.get("model_type", "llama"))
    kind = _SAME_AS.get(named, named)
    if kind not in ("llama", "mistral", "qwen2", "qwen3", *_HYBRID, *_EXPERT_KEYS):
        raise InputError(
            f"{path}: model_type {kind!r} is not a Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3.5, "
            "Phi-3, gpt-oss, MiniMax-M2, DeepSeek-V3 or Kimi-K2 decoder; only those are modelled"
        )

    def count(name: str, default: int | None = None) -> int:
        value = raw.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= _MOST_COUNTED:
            found = "is missing" if value is None else f"{value!r} is no size of a model"
            raise InputError(f"{path}: {name!r} {found}; give a full Hugging Face config.json")
        return value

    hidden, heads = count("hidden_size"), count("num_attention_heads")
    given_kv_heads = "num_key_value_heads" in raw  # null, too: then every head has its own
    is_plain = kind in _WITH_KV_OF_ALL or given_kv_heads
    kv_heads = count("num_key_value_heads", heads if is_plain else None)
    even = max(1, hidden // heads) if kind in _WITH_EVEN_HEADS else None
    context = _context_of(path, raw, count("max_position_embeddings"))
    parts = (whole,) if raw is whole else (whole, raw)
    formats = formats_of(path, parts, kind in _EXPERT_KEYS)
    layers = count("num_hidden_layers")
    _refuse_what_is_not_modelled(path, raw, kind)
    windowed, window = (
        (_delta_layers(path, raw, layers), 1)
        if kind in _HYBRID
        else _windows(path, raw, kind, layers, context)
    )
    if heads % kv_heads:
        raise InputError(
            f"{path}: {heads} attention heads cannot share {kv_heads} KV heads evenly; mend it"
        )
    experts, per_token, width = (
        (count(key) for key in _EXPERT_KEYS[kind])
        if kind in _EXPERT_KEYS
        else (0, 0, count("intermediate_size"))
    )
    if per_token > experts:
        raise InputError(f"{path}: a token goes through {per_token} of {experts} experts; mend it")
    model = ModelSpec(
        name=path.parent.resolve().name,
        layers=layers,
        hidden=hidden,
        intermediate=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=count("head_dim", even),
        vocab=count("vocab_size"),
        context=context,
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=kind == "qwen2" or bool(raw.get("attention_bias")),  # Qwen2 always has it
        qk_norm=kind in ("qwen3", "qwen3_moe", "minimax_m2", *_HYBRID),
        tower_parameters=_tower_parameters(path, whole),
        experts=experts,
        experts_per_token=per_token,
        window=window,
        windowed_layers=windowed,
        weights=formats.weights,
        kv=formats.kv,
    )
    if kind in _HYBRID:
        return _hybrid(path, raw, count, model)
    return _latent(path, raw, count, model) if kind in _LATENT else model


def _hybrid(path: Path, raw: Section, count: Callable[[str], int], model: ModelSpec) -> ModelSpec:
    """The model with what a Qwen3.5 has otherwise than the other families."""
    for name, measured in _MEASURED_DELTA.items():
        if raw.get(name, measured) != measured:
            raise InputError(
                f"{path}: {name!r} is {short(raw[name])}: Qwen3.5 is modelled with {measured} "
                "alone; give another model"
            )
    key_heads, heads = count("linear_num_key_heads"), count("linear_num_value_heads")
    if heads % key_heads:
        raise InputError(
            f"{path}: {heads} value heads of linear attention cannot share {key_heads} key heads "
            "evenly; mend it"
        )
    return replace(
        model,
        delta_key_heads=key_heads,
        delta_heads=heads,
        shared_intermediate=count(_SHARED_EXPERT) if model.experts else 0,
    )


def _delta_layers(path: Path, raw: Section, layers: int) -> int:
    """How many layers are gated delta nets: those that `layer_types` names so, else all but every
    one that `full_attention_interval` counts to.
    """
    kinds = raw.get("layer_types")
    if kinds is None:
        every = raw.get("full_attention_interval")
        if every is None:
            raise InputError(
                f"{path}: has neither 'layer_types' nor 'full_attention_interval', which say what "
                "layers are linear attention; add one"
            )
        counted = every if type(every) is int and every > 0 else layers + 1
        kinds = ["linear_attention"] * (layers - layers // counted)
        kinds += ["full_attention"] * (layers // counted)
    known = {"linear_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != layers or {*map(str, kinds)} != known:
        raise InputError(
            f"{path}: 'layer_types' is {short(kinds)}, not 'linear_attention' and "
            f"'full_attention' for {layers} layers; mend it"
        )
    return sum(kind == "linear_attention" for kind in kinds)


def _latent(path: Path, raw: Section, count: Callable[[str], int], model: ModelSpec) -> ModelSpec:
    """The model with what a DeepSeek-V3 has otherwise than the other families."""
    layers = model.layers
    dense = raw.get("first_k_dense_replace")
    if type(dense) is not int or not 0 <= dense < layers:
        raise InputError(
            f"{path}: 'first_k_dense_replace' is {short(dense)}, no number of the {layers} layers "
            "that leaves some with experts; mend it"
        )
    if count("v_head_dim") != count("qk_nope_head_dim"):
        raise InputError(
            f"{path}: 'v_head_dim' is {raw['v_head_dim']} and 'qk_nope_head_dim' "
            f"{raw['qk_nope_head_dim']}: heads of values of another size than those of queries are "
            "not modelled; give another model"
        )
    if "q_lora_rank" in raw and raw["q_lora_rank"] is None:
        raise InputError(
            f"{path}: 'q_lora_rank' is null: latent attention whose queries are not compressed is "
            "not modelled; give another model"
        )
    return replace(
        model,
        kv_heads=1,
        head_dim=count("qk_nope_head_dim"),
        qkv_bias=False,
        dense_layers=dense,
        dense_intermediate=count("intermediate_size") if dense else 0,
        shared_intermediate=count("n_shared_experts") * count("moe_intermediate_size"),
        q_rank=count("q_lora_rank"),
        kv_rank=count("kv_lora_rank"),
        rope_dim=count("qk_rope_head_dim"),
    )


def _refuse_what_is_not_modelled(path: Path, raw: Section, kind: str) -> None:
    """InputError for layers or attention that would be priced as what they are not.

    `raw` is the part of the file at `path` that is about the decoder, `kind` its model_type.
    """
    experts = _EXPERT_KEYS.get(kind, ())
    modelled = (*experts, *_OF_LATENT) if kind in _LATENT else experts
    if kind in _HYBRID and experts:
        modelled = (*experts, _SHARED_EXPERT)
    for name, why in _OTHER_BUILDS.items():
        if raw.get(name) and name not in modelled:
            raise InputError(f"{path}: {name!r} is {short(raw[name])}: {why}")
    if experts:
        _refuse_dense_layers(path, raw)
    kinds = raw.get("attn_type_list") or [1]  # MiniMax's: 0 where a layer keeps no KV
    if not isinstance(kinds, list) or any(one != 1 for one in kinds):
        raise InputError(
            f"{path}: 'attn_type_list' is {short(kinds)}: layers with linear attention are not "
            "modelled; give another model"
        )


def _refuse_dense_layers(path: Path, raw: Section) -> None:
    """InputError unless every layer of a mixture of experts has them, but for the first ones."""
    for name, usual in (("decoder_sparse_step", 1), ("mlp_only_layers", []), ("moe_layer_freq", 1)):
        if raw.get(name, usual) not in (usual, None):
            raise InputError(
                f"{path}: {name!r} is {short(raw[name])}: layers without experts beside others "
                "are not modelled; give another model"
            )


def _windows(path: Path, raw: Section, kind: str, layers: int, context: int) -> tuple[int, int]:
    """How many layers attend to a window alone, and of how many tokens: those that `layer_types`
    names so, where others attend to the whole context. A window as long as the context cuts nothing
    off.

    InputError where all layers have one, or some do and it is not said which.

    NOTE: Qwen's `max_window_layers` is not looked at: engines differ on which layers it means.
    """
    kinds = raw.get("layer_types") or ()
    if not isinstance(kinds, list | tuple):
        kinds = (kinds,)
    for layer in kinds:
        if layer not in ("full_attention", "sliding_attention"):
            raise InputError(
                f"{path}: 'layer_types' has {short(layer)}, which is not modelled; give a model "
                "whose layers all have full attention or a sliding window"
            )
    is_switched = kind.startswith("qwen")
    default = None if kind in _WITHOUT_WINDOW else _FAMILY_WINDOW
    window = raw.get("sliding_window", default)
    if is_switched and not raw.get("use_sliding_window"):
        window = None
    windowed = sum(layer == "sliding_attention" for layer in kinds)
    if windowed:
        found = raw.get("sliding_window")
        window = _FAMILY_WINDOW if found is None else found
    if window is None or (type(window) is int and window >= context):
        return 0, 0
    if 0 < windowed < len(kinds) == layers and type(window) is int and window > 0:
        return windowed, window
    switch = "'use_sliding_window' to false" if is_switched else "'sliding_window' to null"
    raise InputError(
        f"{path}: 'sliding_window' is {short(window)}, no window as long as the context "
        f"of {context}: shorter ones are modelled only where 'layer_types' has some layers of "
        f"{layers} with them; give another model, or set {switch} if your engine attends to the "
        "whole context"
    )


def _context_of(path: Path, raw: Section, positions: int) -> int:
    """Tokens of prompt and output that engines take: `positions` of the config.json, which rotary
    scaling stretches (vLLM's rule). YaRN's factor is of the context that the model was trained at,
    other factors are of `positions`; Llama 3.1's and LongRoPE's are in `positions` already.
    """
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = raw.get(name) or {}
        if not isinstance(given, dict):
            raise InputError(f"{path}: {name!r} is {short(given)}, no table; mend it")
        rope |= given
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in _STRETCHED_ALREADY:
        return positions
    factor = rope.get("factor", 1.0)
    first = rope.get("original_max_position_embeddings", positions) if kind == "yarn" else positions
    for name, value in (("factor", factor), ("original_max_position_embeddings", first)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 31:
            raise InputError(
                f"{path}: {name!r} of the rotary scaling is {short(value)}, no number above 0; "
                "mend it"
            )
    return max(1, min(int(first * factor), (1 << 31) - 1))


def _tower_parameters(path: Path, whole: Section) -> int:
    """Weights of a model's vision or audio towers, 0 where the file at `path` has none: for each,
    layers × (4·width² of attention + 2·width·mlp, or 3·width·mlp where it is gated), the matrices
    of a transformer's encoder (Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021).

    Biases, embeddings and what joins a tower to the decoder are left out: 7 % of Qwen2-VL's 675 M.
    InputError for a tower that does not say how large it is.
    """
    usual = str(whole.get("model_type"))  # of a tower that does not say its own
    return sum(_tower(path, name, whole[name], usual) for name in _TOWERS if whole.get(name))


def _tower(path: Path, name: str, tower: Any, usual_kind: str) -> int:
    if not isinstance(tower, dict):
        raise InputError(f"{path}: {name!r} is {short(tower)}, no table; mend it")

    def size(names: tuple[str, ...], usual: float | None) -> int:
        found = next((one for one in names if tower.get(one) is not None), names[0])
        value: Any = usual if tower.get(found) is None else tower[found]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 1 <= value <= _LARGEST_TOWER and value == int(value):
            return int(value)
        said = "is missing" if value is None else f"is {short(value)}"
        raise InputError(
            f"{path}: {found!r} of {name!r} {said}, so what the tower weighs cannot be counted; "
            f"give it, or remove {name!r} to count the decoder alone"
        )

    kind = str(tower.get("model_type", usual_kind))
    usual = _TOWER_DEFAULTS.get(kind, (None, None, None))
    layers, width = size(_TOWER_LAYERS, usual[0]), size(_TOWER_WIDTH, usual[1])
    ratio = tower.get("mlp_ratio")
    mlp = size(_TOWER_MLP, ratio * width if isinstance(ratio, int | float) else usual[2])
    matrices = 3 if kind in _GATED_TOWERS else 2
    return layers * (4 * width * width + matrices * width * mlp)
