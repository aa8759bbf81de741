"""What is said of systems that no whole run was held against the model on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blendsim.cli.ranges import CHECKED_ONCE, PRICED_LOW, unchecked
from blendsim.settings import Settings

CHECKED = Settings(gpu="h200")
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "validation.md").read_text()


def test_nothing_is_said_of_what_was_checked() -> None:
    assert unchecked([CHECKED]) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpu": "a100-80g"}, "on a100-80g was held"),
        ({"tp": 2}, "with tensor parallel was held"),
        ({"pp": 2, "engine": "vllm"}, "in a pipeline was held"),
        ({"quantization": "fp8"}, "with quantised weights was held"),
        ({"kv_cache_dtype": "fp8"}, "with quantised KV was held"),
        ({"model": "qwen3-8b"}, "of qwen3-8b was held"),
        ({"model": "qwen-2.5-7b", "quantization": "fp8"}, "with quantised weights was held"),
        ({"gpu": "h100", "model": "qwen3-8b"}, "on h100 or of qwen3-8b was held"),
        ({"gpu": "b200", "tp": 2}, "on b200 or with tensor parallel was held"),
    ],
)
def test_what_was_not_checked_is_named(asked: dict[str, object], said: str) -> None:
    [told] = unchecked([replace(CHECKED, **asked)])  # type: ignore[arg-type]
    assert f"no whole run {said} against it (docs/validation.md)." in told


def test_of_a_model_that_was_checked_once_it_is_told_how_far_the_model_was_off() -> None:
    [told] = unchecked([CHECKED, replace(CHECKED, model=CHECKED_ONCE)])
    assert told.startswith(f"One whole run alone of {CHECKED_ONCE} was held against the model")
    assert f"priced {PRICED_LOW} too low" in told
    row = f"| seventh-qwen | trace2-filled, dfs, overlap | measured | -{PRICED_LOW} |"
    assert row.replace(" %", "%") in PAGE


def test_several_systems_are_named_once() -> None:
    gpus = ("h100", "b200", "h200")
    [told] = unchecked([replace(CHECKED, gpu=gpu, tp=tp) for gpu in gpus for tp in (1, 2)])
    assert "no whole run on h100 or b200 or with tensor parallel was held" in told


def test_a_model_of_the_same_sizes_was_checked_under_any_name(tmp_path: Path) -> None:
    own = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 8_192,
    }
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert unchecked([replace(CHECKED, model=str(tmp_path))]) == []
    (tmp_path / "config.json").write_text(json.dumps(own | {"num_hidden_layers": 31}))
    assert unchecked([replace(CHECKED, model=str(tmp_path))]) != []
