"""What people call the models, GPUs and engines of our tables, and the one rule that reads it.

Case, spaces, `-` and `_` do not count, and a maker's name may stand in front. Nothing else is
guessed: a name that means something that costs otherwise, or leaves open how much memory there is
(`H100 PCIe`; a quantised upload; `A100`, a card of 40 GB or of 80), is none of ours, and whoever
looks it up says the nearest, or all that are called so. A GPU's name without a form means its SXM
card.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from blendsim.formats import FP8, FP8_BLOCK


class Known(NamedTuple):
    """Further names of a row of a table."""

    maker: str  # may stand in front of any of them
    names: tuple[str, ...] = ()


NO_OTHERS: Mapping[str, Known] = {}

#: SXM cards, as drivers, clouds and their makers write them; the L40S has one form only.
GPU_NAMES: Mapping[str, Known] = {
    "a100-80g": Known("nvidia", ("A100-80GB", "A100-SXM-80GB", "A100-SXM4-80GB", "A100-80GB-SXM")),
    "h100": Known(
        "nvidia", ("H100-SXM", "H100-SXM5", "H100-80GB", "H100-80GB-HBM3", "H100-SXM5-80GB")
    ),
    "h200": Known("nvidia", ("H200-SXM", "H200-141GB", "H200-SXM-141GB")),
    "l40s": Known("nvidia", ("L40S-48GB",)),
    "b200": Known("nvidia", ("B200-SXM",)),
}

#: Cards that no row stands for, and whose short name could be taken for a row's.
OTHER_GPUS: Mapping[str, Known] = {
    "A100-40GB": Known("nvidia", ("A100-SXM-40GB", "A100-SXM4-40GB", "A100-PCIe-40GB")),
    "A100-80GB-PCIe": Known("nvidia", ("A100-PCIe-80GB",)),
}


def _distilled(model: str) -> tuple[str, ...]:
    """DeepSeek's names of what it made of another maker's model."""
    name = f"DeepSeek-R1-Distill-{model}"
    return name, f"deepseek-ai/{name}"


#: Their names on Hugging Face: the weights that have the row's shape and context, in bf16.
#: Organisations other than the makers' keep quantised and changed models under the same names.
MODEL_NAMES: Mapping[str, Known] = {
    "llama-2-7b": Known("meta-llama/", ("Llama-2-7b-hf", "Llama-2-7b-chat", "Llama-2-7b-chat-hf")),
    "llama-3.1-8b": Known(
        "meta-llama/",
        (
            "Llama-3.1-8B-Instruct",
            "Meta-Llama-3.1-8B",
            "Meta-Llama-3.1-8B-Instruct",
            *_distilled("Llama-8B"),
        ),
    ),
    "llama-3.1-70b": Known(
        "meta-llama/",
        (
            "Llama-3.1-70B-Instruct",
            "Meta-Llama-3.1-70B",
            "Meta-Llama-3.1-70B-Instruct",
            "Llama-3.3-70B",
            "Llama-3.3-70B-Instruct",
            *_distilled("Llama-70B"),
        ),
    ),
    "llama-3.2-3b": Known("meta-llama/", ("Llama-3.2-3B-Instruct",)),
    "qwen-2.5-7b": Known("Qwen/"),
    "qwen-2.5-7b-instruct": Known("Qwen/"),
    "qwen-2.5-14b": Known("Qwen/", _distilled("Qwen-14B")),
    "qwen-2.5-14b-instruct": Known("Qwen/", ("Qwen2.5-Coder-14B", "Qwen2.5-Coder-14B-Instruct")),
    "qwen-2.5-32b": Known("Qwen/", _distilled("Qwen-32B")),
    "qwen-2.5-32b-instruct": Known("Qwen/", ("Qwen2.5-Coder-32B", "Qwen2.5-Coder-32B-Instruct")),
    "qwq-32b": Known("Qwen/"),
    "qwen-2.5-72b": Known("Qwen/"),
    "qwen-2.5-72b-instruct": Known("Qwen/"),
    "qwen3-4b": Known("Qwen/"),
    "qwen3-4b-2507": Known("Qwen/", ("Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507")),
    "qwen3-8b": Known("Qwen/"),
    "qwen3-14b": Known("Qwen/"),
    "qwen3-32b": Known("Qwen/"),
    "deepseek-67b": Known("deepseek-ai/", ("deepseek-llm-67b-base", "deepseek-llm-67b-chat")),
    # Earlier uploads have another vocabulary, and v0.1 a window.
    "mistral-7b": Known("mistralai/", ("Mistral-7B-v0.3", "Mistral-7B-Instruct-v0.3")),
    "mistral-small-24b": Known(
        "mistralai/",
        ("Mistral-Small-24B-Base-2501", "Mistral-Small-24B-Instruct-2501"),
    ),
    "mistral-small-3.1-24b": Known(
        "mistralai/",
        (
            "Mistral-Small-3.1-24B-Base-2503",
            "Mistral-Small-3.1-24B-Instruct-2503",
            "Mistral-Small-3.2-24B",
            "Mistral-Small-3.2-24B-Instruct-2506",
        ),
    ),
    "phi-4": Known("microsoft/"),
    "mixtral-8x7b": Known("mistralai/", ("Mixtral-8x7B-v0.1", "Mixtral-8x7B-Instruct-v0.1")),
    # The upload Mixtral-8x22B-v0.1 has another vocabulary.
    "mixtral-8x22b": Known("mistralai/", ("Mixtral-8x22B-Instruct-v0.1", "Mixtral-8x22B-v0.3")),
    "qwen3-30b-a3b": Known("Qwen/"),
    "qwen3-30b-a3b-2507": Known(
        "Qwen/",
        (
            "Qwen3-30B-A3B-Instruct-2507",
            "Qwen3-30B-A3B-Thinking-2507",
            "Qwen3-Coder-30B-A3B",
            "Qwen3-Coder-30B-A3B-Instruct",
        ),
    ),
    "qwen3-235b-a22b": Known("Qwen/"),
    "qwen3-235b-a22b-2507": Known(
        "Qwen/", ("Qwen3-235B-A22B-Instruct-2507", "Qwen3-235B-A22B-Thinking-2507")
    ),
    "qwen3-coder-480b-a35b": Known("Qwen/", ("Qwen3-Coder-480B-A35B-Instruct",)),
    "minimax-m2": Known("MiniMaxAI/"),
    "gpt-oss-20b": Known("openai/"),
    "gpt-oss-120b": Known("openai/"),
    "deepseek-v3": Known(
        "deepseek-ai/",
        ("DeepSeek-V3-0324", "DeepSeek-V3.1", "DeepSeek-R1", "DeepSeek-R1-0528"),
    ),
    "kimi-k2": Known("moonshotai/", ("Kimi-K2-Instruct", "Kimi-K2-Base")),
    "kimi-k2-thinking": Known("moonshotai/"),
    "kimi-k2.5": Known("moonshotai/", ("Kimi-K2.6",)),
    "qwen3.5-9b": Known("Qwen/"),
    "qwen3.5-27b": Known("Qwen/", ("Qwen3.6-27B",)),
    "qwen3.5-35b-a3b": Known("Qwen/", ("Qwen3.6-35B-A3B",)),
    "qwen3.5-122b-a10b": Known("Qwen/"),
    "qwen3.5-397b-a17b": Known("Qwen/"),
}

#: Models that are no row's, though they are called almost so, and what is not modelled of them.
OTHER_MODELS: Mapping[str, str] = {
    f"DeepSeek-V3.2{ending}": "its attention is sparse, to a part of the context"
    for ending in ("", "-Exp", "-Exp-Base", "-Speciale")
}

#: Uploads in fp8 of the same weights: who makes them, what follows the model's name, and how they
#: are quantised. What KV is in is for their files to say.
_FP8_UPLOADS = (
    ("Qwen/", "-FP8", FP8_BLOCK),
    *(
        (maker, ending, weights)
        for maker in ("RedHatAI/", "neuralmagic/")
        for ending, weights in (("-FP8", FP8), ("-FP8-dynamic", FP8), ("-FP8-block", FP8_BLOCK))
    ),
    ("nvidia/", "-FP8", FP8),
)


class Upload(NamedTuple):
    """A quantised upload of a model: its row, and the format of its weights (formats.WEIGHTS)."""

    row: str
    weights: str


def canonical(
    name: str, table: Iterable[str], others: Mapping[str, Known] = NO_OTHERS
) -> str | None:
    """The name in `table` that is meant by `name`, or None."""
    wanted = _key(name)
    for row in table:
        maker, names = others.get(row, Known(""))
        keys = {_key(one) for one in (row, *names)}
        if wanted in keys or wanted.removeprefix(_key(maker)) in keys:
            return row
    return None


def fp8_upload(name: str, table: Iterable[str], others: Mapping[str, Known]) -> Upload | None:
    """The upload in fp8 of a model of `table` that is meant by `name`, or None."""
    rows = list(table)
    for maker, ending, weights in _FP8_UPLOADS:
        of_maker = [row for row in rows if others.get(row, Known("")).maker == maker]
        is_theirs = name.lower().startswith(maker.lower())
        plain = name[len(maker) :] if is_theirs else name
        if not plain.lower().endswith(ending.lower()):
            continue
        # NOTE: a name without an organisation is the maker's, as those in bf16 are.
        row = canonical(plain[: -len(ending)], rows if is_theirs else of_maker, others)
        if row is not None:
            return Upload(row, weights)
    return None


def not_modelled(name: str) -> str | None:
    """Why a model of OTHER_MODELS is none of ours; None for any other name."""
    short = _key(name.rsplit("/", 1)[-1])
    return next((why for other, why in OTHER_MODELS.items() if _key(other) == short), None)


def called_so(name: str, table: Iterable[str], others: Mapping[str, Known]) -> tuple[str, ...]:
    """What goes by `name` for short if that is more than one thing (`qwen3`; `A100`): names of
    `table`, then of `others` without a row. Shortened is after a word, so `llama-3` means none.
    """
    wanted, found = _key(name), []
    for one in dict.fromkeys((*table, *others)):
        maker, names = others.get(one, Known(""))
        short = {key for each in (one, *names) for key in _beginnings(each)}
        if wanted in short or wanted.removeprefix(_key(maker)) in short:
            found.append(one)
    return tuple(found) if len(found) > 1 else ()


def is_called(name: str, row: str) -> bool:
    """Whether the two are alike but for case, spaces, `-` and `_`, and a maker in front."""
    return _key(name.rsplit("/", 1)[-1]) == _key(row.rsplit("/", 1)[-1])


def _beginnings(name: str) -> set[str]:
    """Keys of a name's first words, but for all of them."""
    return {_key(name[: gap.start()]) for gap in re.finditer(r"[\s_-]+", name)}


def _key(name: str) -> str:
    """The part of a name that counts."""
    return re.sub(r"[\s_-]+", "", name).lower()
