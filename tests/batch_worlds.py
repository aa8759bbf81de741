"""A batch file, a small model with its tokenizer, and `blendsim run` on both. The functions that
make something are fixtures of the modules that use them.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal
from typer.testing import CliRunner

from blendsim.cli.app import app

Told = tuple[str, str, int, int]  # text, finish reason, tokens of prompt and answer

CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[answer]"
HEAD = "you answer questions about the quick brown fox in as few words as you can."
REQUESTS = 90


def body(i: int) -> dict[str, Any]:
    """Every third request draws its tokens, the others take the likeliest; prompts share a head."""
    asked = f"what does number {i} of the foxes do?" * (1 + i % 5)
    messages = [{"role": "system", "content": HEAD}, {"role": "user", "content": asked}]
    temperature = 1.0 if i % 3 == 0 else 0.0
    return {
        "model": "fox",
        "messages": messages,
        "max_tokens": 5 + i * 7 % 60,
        "temperature": temperature,
        "seed": i,
    }


def line_of(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "custom_id": f"request-{i}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body(i) | changes,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def make_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama with a tokenizer of bytes and a few words, as it would be shared."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([HEAD, "what does number of the foxes do?"] * 20, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    words = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT}
    (directory / "tokenizer_config.json").write_text(json.dumps(words))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        # More ends than a model has, so that answers of a random one end by themselves.
        eos_token_id=[1, *range(20, 34)],
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def make_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the batch."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "batch.jsonl", [line_of(i) for i in range(REQUESTS)])
    return tmp_path


def run(model: Path, *arguments: str, batch: str = "batch.jsonl") -> Any:
    return CliRunner().invoke(
        app, ["run", batch, "-o", "out.jsonl", "--model", str(model), *arguments]
    )


def complaint(model: Path, *arguments: str, batch: str = "batch.jsonl") -> str:
    """The one line of a run that is refused."""
    return refusal(run(model, *arguments, batch=batch))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    found = {row["custom_id"]: row["response"] for row in rows}
    assert len(found) == len(rows)
    return found


def answers_of_transformers(model: Path) -> dict[str, Told]:
    """Text, finish reason and token counts of the likeliest answers, by `transformers`."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    answers = {}
    for i in range(REQUESTS):
        if body(i)["temperature"] > 0:
            continue
        prompt = tokenizer.apply_chat_template(
            body(i)["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens = theirs.generate(
                prompt, do_sample=False, pad_token_id=0, max_new_tokens=body(i)["max_tokens"],
                attention_mask=torch.ones_like(prompt),
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
        is_over = tokens[-1] in theirs.config.eos_token_id
        text = tokenizer.decode(tokens[:-1] if is_over else tokens, skip_special_tokens=True)
        answers[f"request-{i}"] = (
            text, "stop" if is_over else "length", prompt.shape[1], len(tokens),
        )  # fmt: skip
    return answers


def told(response: dict[str, Any]) -> Told:
    choice, usage = response["body"]["choices"][0], response["body"]["usage"]
    return (
        choice["message"]["content"],
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
