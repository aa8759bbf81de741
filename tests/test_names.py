"""What users call models, GPUs and engines: which row each name means, and which mean none."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendsim.baselines import find_baselines
from blendsim.cli.app import app
from blendsim.cli.lists import read_systems
from blendsim.errors import InputError, UnknownName
from blendsim.names import GPU_NAMES, MODEL_NAMES, canonical
from blendsim.plan import read_plan
from blendsim.serving.flavour import FLAVOURS, find_flavour
from blendsim.settings import Settings, remembered
from blendsim.specs import GPUS, MODELS, find_gpu, find_model

GOOD = "num_prefill_tokens,num_decode_tokens\n" + "20,5\n" * 9


@pytest.mark.parametrize(
    ("called", "meant"),
    [
        ("a100-80G", "a100-80g"),
        ("a100-80gb", "a100-80g"),
        ("A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),  # as drivers say
        ("NVIDIA-A100-SXM4-80GB", "a100-80g"),  # as Kubernetes' labels say
        ("a100_80gb", "a100-80g"),
        ("H200", "h200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("nvidia l40s", "l40s"),
        ("B200", "b200"),
    ],
)
def test_gpu_is_found_by_what_it_is_called(called: str, meant: str) -> None:
    assert find_gpu(called) is GPUS[meant]


@pytest.mark.parametrize(
    "called",
    [
        "a100",  # of 40 GB in most clouds
        "A100-40GB",
        "A100-SXM4-40GB",
        "NVIDIA A100 80GB PCIe",  # slower memory
        "H100 PCIe",
        "NVIDIA H100 NVL",
        "H200 NVL",
        "GH200",
        "L40",
        "nvidia",
        "",
    ],
)
def test_gpu_that_may_be_another_card_is_none(called: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown GPU .*; (nearest|of these) known: "):
        find_gpu(called)


@pytest.mark.parametrize(
    ("called", "cards"),
    [
        ("A100", "a100-80g, A100-40GB, A100-80GB-PCIe"),
        ("NVIDIA A100", "a100-80g, A100-40GB, A100-80GB-PCIe"),
        ("a100-sxm4", "a100-80g, A100-40GB"),
    ],
)
def test_cards_that_share_a_short_name_are_all_told(called: str, cards: str) -> None:
    trace = ["plan", "--trace", "demo:clips?n=9", "--gpu", called]
    done = CliRunner().invoke(app, trace)
    assert done.exit_code == 2
    # NOTE: the first run on a machine says before that it compiles.
    assert done.stderr.splitlines()[-1] == (
        f"error: unknown GPU {called!r}: several are called so ({cards}); of these known: a100-80g"
    )


@pytest.mark.parametrize("called", ["H100", "NVIDIA H200", "l40s", "B200"])
def test_a_short_name_with_one_row_is_taken(called: str) -> None:
    assert find_gpu(called).name == called.lower().removeprefix("nvidia ")


@pytest.mark.parametrize(
    ("called", "models"),
    [
        ("llama-3.1", "llama-3.1-8b, llama-3.1-70b"),
        ("meta-llama/Llama-3.1", "llama-3.1-8b, llama-3.1-70b"),
        (
            "Qwen2.5",
            "qwen-2.5-7b, qwen-2.5-7b-instruct, qwen-2.5-14b, qwen-2.5-14b-instruct, "
            "qwen-2.5-32b, qwen-2.5-32b-instruct, qwen-2.5-72b, qwen-2.5-72b-instruct",
        ),
        (
            "qwen3",
            "qwen3-4b, qwen3-4b-2507, qwen3-8b, qwen3-14b, qwen3-32b, qwen3-30b-a3b, "
            "qwen3-30b-a3b-2507, qwen3-235b-a22b, qwen3-235b-a22b-2507, qwen3-coder-480b-a35b",
        ),
        ("qwen3-coder", "qwen3-30b-a3b-2507, qwen3-coder-480b-a35b"),
        ("mistral-small", "mistral-small-24b, mistral-small-3.1-24b"),
        ("mixtral", "mixtral-8x7b, mixtral-8x22b"),
    ],
)
def test_sizes_of_a_model_that_is_named_without_are_all_told(called: str, models: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_model(called)
    told = f"unknown model {called!r}: several are called so; nearest known: {models}"
    assert str(caught.value) == told


def test_a_short_name_is_no_other_version() -> None:
    """Llama 3 is not Llama 3.1."""
    with pytest.raises(UnknownName, match="unknown model 'llama-3'; nearest known: "):
        find_model("llama-3")


@pytest.mark.parametrize(
    ("called", "meant"),
    [
        ("Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("llama3.1-8b", "llama-3.1-8b"),
        ("qwen2.5-7b", "qwen-2.5-7b"),
        ("Qwen/Qwen2.5-7B", "qwen-2.5-7b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen-2.5-7b-instruct"),
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        ("qwen-3-8b", "qwen3-8b"),
        ("deepseek-ai/deepseek-llm-67b-chat", "deepseek-67b"),
        ("llama-3.3-70b", "llama-3.1-70b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b"),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral-small-3.1-24b"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-3.1-24b"),
        ("microsoft/phi-4", "phi-4"),
        ("Qwen/Qwen3-4B", "qwen3-4b"),
        ("Qwen/Qwen3-14B", "qwen3-14b"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "qwen3-coder-480b-a35b"),
        ("qwen3-coder-30b-a3b", "qwen3-30b-a3b-2507"),
    ],
)
def test_model_is_found_by_what_it_is_called(called: str, meant: str) -> None:
    assert find_model(called) is MODELS[meant]


@pytest.mark.parametrize(
    ("called", "sizes", "context"),
    [
        ("Qwen/Qwen2.5-14B-Instruct", "qwen-2.5-14b", 32_768),
        ("Qwen/Qwen2.5-Coder-14B-Instruct", "qwen-2.5-14b", 32_768),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "qwen-2.5-14b", 131_072),
        ("Qwen/Qwen2.5-32B-Instruct", "qwen-2.5-32b", 32_768),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen-2.5-32b", 32_768),
        ("Qwen/QwQ-32B", "qwen-2.5-32b", 40_960),
        ("DeepSeek-R1-Distill-Qwen-32B", "qwen-2.5-32b", 131_072),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b", 262_144),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", 262_144),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3-30b-a3b", 262_144),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "qwen3-235b-a22b", 262_144),
        ("mistralai/Mistral-Small-24B-Base-2501", "mistral-small-24b", 32_768),
    ],
)
def test_a_model_of_the_same_sizes_keeps_its_own_context(
    called: str, sizes: str, context: int
) -> None:
    found, like = find_model(called), MODELS[sizes]
    assert found.context == context
    assert replace(found, name=like.name, context=like.context) == like


@pytest.mark.parametrize(
    "called",
    [
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "Qwen/Qwen3-8B-FP8",
        "someone/Llama-3.1-8B-Instruct",  # may be anything
        "meta-llama/Llama-3.2-1B",
        "Qwen2.5-7B-Instruct-1M",
        "Qwen2.5-14B-Instruct-1M",
        "mistralai/Mistral-7B-v0.1",  # has a window
        "microsoft/Phi-4-reasoning",  # takes twice the context
        "Llama-3-8B",
        "meta-llama/",
    ],
)
def test_model_that_may_be_another_is_none(called: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown model .*; nearest known: "):
        find_model(called)


@pytest.mark.parametrize(
    ("called", "row", "weights"),
    [
        ("Qwen/Qwen3-30B-A3B-FP8", "qwen3-30b-a3b", "fp8-block"),
        ("Qwen/Qwen3-8B-FP8", "qwen3-8b", "fp8-block"),
        ("qwen3-8b-fp8", "qwen3-8b", "fp8-block"),  # the maker's
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", "fp8"),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8-block", "llama-3.1-8b", "fp8-block"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", "llama-3.1-70b", "fp8"),
        ("RedHatAI/Qwen3-8B-FP8-dynamic", "qwen3-8b", "fp8"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.1-70b", "fp8"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b-2507", "fp8-block"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-coder-480b-a35b", "fp8-block"),
    ],
)
def test_an_upload_in_fp8_is_told_by_the_option_for_it(called: str, row: str, weights: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_model(called)
    assert str(caught.value) == (
        f"unknown model {called!r}; nearest known: {row}; give --model {row} --quantization "
        f"{weights} for these weights, or the directory of its config.json"
    )


@pytest.mark.parametrize(
    "called", ["someone/Qwen3-8B-FP8", "nvidia/Qwen3-9B-FP8", "nvidia/Qwen3-8B-FP4", "Qwen/-FP8"]
)
def test_what_other_uploads_hold_is_not_told(called: str) -> None:
    with pytest.raises(UnknownName, match=r"; another one by the directory of its config\.json$"):
        find_model(called)


def test_no_name_means_two_rows() -> None:
    for table, others in ((GPUS, GPU_NAMES), (MODELS, MODEL_NAMES)):
        assert set(others) == set(table)
        for row, known in others.items():
            for name, maker in product((row, *known.names), ("", known.maker)):
                assert [one for one in table if canonical(maker + name, [one], others)] == [row]


def test_an_engine_is_found_whatever_its_case() -> None:
    assert find_flavour("vLLM") == FLAVOURS["vllm"]
    assert find_flavour("SGLang_mixed") == FLAVOURS["sglang-mixed"]
    assert find_baselines(["vLLM", "vllm"]) == find_baselines(["vllm"])
    with pytest.raises(UnknownName, match=r"unknown engine 'VLM'; nearest known: vllm"):
        find_flavour("VLM")


def test_settings_keep_the_names_of_the_tables() -> None:
    """So that what is planned for one system is equal whatever it was called."""
    asked = Settings(model="Qwen/Qwen3-8B", gpu="NVIDIA H200", engine="vLLM")
    plain = Settings(model="qwen3-8b", gpu="h200", engine="vllm")
    assert asked == plain
    assert replace(Settings(), gpu="H100").gpu == "h100"
    assert remembered({"gpu": "B200"}, "p").gpu == "b200"
    assert Settings().for_engine("VLLM").engine == "vllm"
    assert replace(plain, eviction="plan").for_engine("vLLM").eviction == "plan"
    assert plain.flavour("SGLang").name == "sglang"


def test_settings_keep_a_name_that_is_not_known_for_the_error() -> None:
    with pytest.raises(UnknownName, match="unknown GPU 'A100-40GB'"):
        _ = Settings(gpu="A100-40GB").system


def test_a_path_goes_before_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "Qwen" / "Qwen3-8B"
    here.mkdir(parents=True)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 99}
    more = {"num_attention_heads": 4, "max_position_embeddings": 512}
    (here / "config.json").write_text(json.dumps(shape | more))
    assert Settings(model="Qwen/Qwen3-8B").model == "Qwen/Qwen3-8B"
    assert find_model("Qwen/Qwen3-8B").vocab == 99
    assert find_model("Qwen3-8B") is MODELS["qwen3-8b"]  # no such path
    (here / "config.json").unlink()
    with pytest.raises(InputError, match=r"Qwen3-8B/config\.json: no such file"):
        find_model("Qwen/Qwen3-8B")


def test_a_list_of_gpus_has_each_once() -> None:
    assert read_systems("h200,H200, NVIDIA H100", None, None, None, None).gpus == ["h200", "h100"]


def test_plans_are_the_same_whatever_the_system_was_called(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text(GOOD)
    plans = []
    for model, gpu, engine in (
        ("llama-3.1-8b", "h200", "vllm"),
        ("meta-llama/Llama-3.1-8B", "NVIDIA H200", "vLLM"),
    ):
        path = tmp_path / f"{len(plans)}.parquet"
        options = ["--model", model, "--gpu", gpu, "--engine", engine, "--planner", "dfs"]
        done = CliRunner().invoke(app, ["plan", "--trace", str(trace), *options, "-o", str(path)])
        assert done.exit_code == 0, done.output
        assert "llama-3.1-8b on 1 × h200, engine vllm" in " ".join(done.stdout.split())
        plans.append(path)
    assert plans[0].read_bytes() == plans[1].read_bytes()
    assert read_plan(plans[1]).meta["settings"]["gpu"] == "h200"


def test_what_runs_steps_is_named_whatever_its_case() -> None:
    """A word that is none of them is refused before the plan is looked for."""
    done = CliRunner().invoke(app, ["replay", "no.parquet", "--engine", "vLLM", "--gpu"])
    assert done.stderr == "error: no.parquet: no such file; check the path\n"
