"""What an error tells to do instead works, and does not lead into the next error."""

import json
import re
from pathlib import Path

import pytest
from command_line import invoke, refusal, run, run_json
from test_model_config import SHAPE

from blendsim.errors import InputError, ProfileError
from blendsim.perf.model import step_model
from blendsim.settings import Settings
from blendsim.specs import find_gpu, find_model
from blendsim.system import System


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("prompt_len,output_len\n" + "100,10\n" * 20)
    return path


def refused(trace: Path, *asked: object) -> str:
    return refusal(invoke("plan", "--trace", trace, "--planner", "dfs", *asked))


@pytest.mark.parametrize(
    ("asked", "instead"),
    [
        (("--model", "deepseek-v3", "--gpu", "h200", "--tp", "8", "--quantization", "none"),
         ["--quantization auto"]),
        (("--model", "deepseek-v3", "--tp", "8"), ["--gpu h200", "--gpu b200"]),
        (("--model", "deepseek-v3", "--tp", "8", "--quantization", "nvfp4"),
         ["--gpu h200 --quantization auto", "--gpu b200 --quantization auto"]),
        (("--model", "llama-3.1-70b"), ["--tp 2", "--gpu h100 --tp 2", "--gpu h200 --tp 2"]),
        (("--model", "qwen-2.5-72b", "--gpu", "l40s"),
         ["--tp 4", "--tp 2 --quantization fp8", "--gpu a100-80g --tp 2"]),
        (("--model", "deepseek-v3", "--gpu", "h200", "--dp", "2", "--ep", "2"),
         ["--dp 8 --ep 8", "--gpu b200 --tp 4 --dp 1 --ep 4"]),
        (("--model", "deepseek-v3", "--gpu", "h200", "--dp", "8"), ["--ep 8", "--gpu b200 --ep 8"]),
        (("--model", "kimi-k2", "--gpu", "h200", "--dp", "8", "--ep", "8"),
         ["--tp 4 --dp 2", "--gpu b200"]),
        (("--model", "llama-3.1-70b", "--dp", "4"),
         ["--tp 2 --dp 2", "--gpu h100 --tp 2 --dp 2", "--gpu h200 --tp 2 --dp 2"]),
        (("--model", "qwen3.5-9b"), ["--gpu h100", "--gpu h200", "--gpu l40s"]),
        (("--model", "llama-3.1-8b", "--kv-cache-dtype", "fp8"),
         ["--gpu h100", "--gpu h200", "--gpu l40s"]),
        (("--model", "qwen3-30b-a3b", "--tp", "8"),
         ["--tp 4 --dp 2", "--gpu h100", "--gpu h200"]),
        (("--model", "deepseek-v3", "--gpu", "h200", "--tp", "16"),
         ["--tp 8 --dp 2", "--gpu b200 --tp 8 --dp 2"]),
    ],
)  # fmt: skip
def test_what_is_to_be_asked_for_instead_runs(
    trace: Path, asked: tuple[str, ...], instead: list[str]
) -> None:
    told = refused(trace, *asked).partition("; use ")[2].split(", or ")
    assert told == instead
    given = dict(zip(asked[::2], asked[1::2], strict=True))
    for way in told:
        words = way.split()
        options = given | dict(zip(words[::2], words[1::2], strict=True))
        values = {
            k.removeprefix("--").replace("-", "_"): int(v) if v.isdigit() else v
            for k, v in options.items()
        }
        system = Settings(**values).system  # type: ignore[arg-type]
        assert step_model(system).best_layer_seconds_per_token > 0


def test_a_model_that_nothing_runs_is_told_so(tmp_path: Path, trace: Path) -> None:

    large = SHAPE | {"num_hidden_layers": 5_000, "hidden_size": 16_384, "num_attention_heads": 128}
    (tmp_path / "config.json").write_text(json.dumps(large))
    assert refused(trace, "--model", tmp_path / "config.json").endswith(
        "; nothing that was measured runs it; choose another --model"
    )


def test_gpus_that_were_not_measured_together_are_told_with_those_that_were() -> None:
    system = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"), 16)
    with pytest.raises(
        ProfileError,
        match=r"no all-reduce measured for --tp 16; choose one of "
        r"--tp 1, 2, 4, 8, and more replicas with --dp$",
    ):
        step_model(system)


@pytest.mark.parametrize(
    "name", ["DeepSeek-V3.2", "deepseek-v3.2", "deepseek-ai/DeepSeek-V3.2-Exp"]
)
def test_a_model_of_sparse_attention_is_not_taken_for_its_forerunner(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"{name} is not modelled: its attention is sparse"
    ) as said:
        find_model(name)
    assert "deepseek-v3," not in str(said.value)


def test_a_model_by_another_name_is_told_by_both(trace: Path) -> None:
    asked = ("--gpu", "h200", "--tp", "4", "--model")
    said = refused(trace, *asked, "deepseek-r1")
    assert said.startswith(
        "error: deepseek-r1 has the sizes of deepseek-v3: deepseek-v3 needs 676 "
    )
    assert "has the sizes" not in refused(trace, *asked, "deepseek-ai/DeepSeek-V3")
    name = "meta-llama/Llama-3.1-8B-Instruct"
    shown = run("plan", "--trace", trace, "--planner", "dfs", "--model", name)
    assert "meta-llama/Llama-3.1-8B-Instruct (llama-3.1-8b) on 1 × a100-80g" in " ".join(
        shown.split()
    )


def test_options_that_are_only_a_little_alike_are_not_offered() -> None:
    said = refusal(invoke("compare", "--trace", "demo:mixed", "--engins", "vllm"))
    assert "(Possible options: --engine, --engines" in said
    assert "Possible" not in refusal(invoke("plan", "--trace", "demo:mixed", "--max-requests", 4))


def test_lengths_that_are_lacking_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_text('{"custom_id": "a", "body": {"prompt": "hello"}}\n')
    asked = ("--trace", path, "--planner", "dfs", "-o", tmp_path / "plan.parquet")
    notes = run_json("plan", *asked)["notes"]
    notes_simulated = run_json("simulate", tmp_path / "plan.parquet")["notes"]
    for said in (notes, notes_simulated):
        lacking = [note for note in said if re.search("output length", note)]
        assert len(lacking) == 1
        assert "RESULTS.jsonl of an earlier run of these requests does better" in lacking[0]
        assert "for new requests --output-guess TOKENS takes the mean of a batch" in lacking[0]
