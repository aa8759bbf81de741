"""`blendsim run` on a GPU: is every request of a batch answered, and are the answers the model's?

    python bench/gpu_run.py [--requests 600] [-o gpu-run]
    python bench/gpu_run.py --device cpu --quick        # the same path, small, without a GPU

Makes a random Llama of 1.1 billion parameters and a tokenizer of whole words, whose texts and
tokens tell each other, and a batch of chats with short prompts and long answers beside long prompts
of one head with short answers. Answers the batch by the command, and holds some of the answers
against `transformers` in float32: at each of their tokens, how far its logit is below the best one,
in standard deviations of all logits there, which for a model in bfloat16 is next to nothing. Prints
one JSON object; all else stays in the output folder but for the weights. Exit 1 where a request has
no answer, or an answer is not the model's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

VOCAB, SPECIAL = 32_000, 2  # words; the first two are the beginning and the end
LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
LARGE |= {"num_attention_heads": 16, "num_key_value_heads": 4}
SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1}
CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"
CHECKED = 24  # answers
#: Of the logits' deviation: bfloat16 rounds each of a few thousand terms to 1 in 256, so the best
#: logits change places with others this near at most; another model's token lies 3 to 5 below.
MOST_BELOW = 0.25


def word(token: int) -> str:
    """What the tokenizer makes of a token."""
    return f"w{token}"


def make_model(place: Path, shape: dict[str, int], device: str) -> None:
    """A Hugging Face directory: random weights in bfloat16, and the tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    words = {word(token): token for token in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=word(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        **shape,
        vocab_size=VOCAB,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(place)
    tokenizer.save(str(place / "tokenizer.json"))
    told = {"eos_token": word(1), "chat_template": CHAT}
    (place / "tokenizer_config.json").write_text(json.dumps(told))


def requests(number: int, scale: float, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of a batch file: every other chat has a long prompt behind the head of all of them, and
    a short answer.
    """
    rng = np.random.default_rng(seed)

    def text(tokens: float) -> str:
        return " ".join(word(k) for k in rng.integers(SPECIAL, VOCAB, max(1, round(tokens))))

    head, lines = text(500 * scale), []
    for k in range(number):
        is_long = k % 2 == 0
        asked = text(rng.integers(300, 2_000) * scale if is_long else rng.integers(10, 60))
        tokens = rng.integers(4, 40) if is_long else max(4, round(rng.integers(150, 700) * scale))
        messages = [{"role": "system", "content": head}] if is_long else []
        body = {
            "model": "random",
            "messages": [*messages, {"role": "user", "content": asked}],
            "max_tokens": int(tokens),
            "temperature": 0.0,
        }
        lines.append(
            {
                "custom_id": f"chat-{k}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        )
    return lines


def tokens_of(text: str) -> list[int]:
    """A text's tokens."""
    return [int(part[1:]) for part in text.split()]


def answered(place: Path) -> dict[str, list[int]]:
    """Tokens of every answer, by the request's own name."""
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    return {
        row["custom_id"]: tokens_of(row["response"]["body"]["choices"][0]["message"]["content"])
        for row in rows
        if row["response"]["status_code"] == 200
    }


def below_best(
    model: Path, lines: list[dict[str, Any]], answers: dict[str, list[int]], device: str
) -> list[float]:
    """Of every token of these answers, how far below the best logit it is, in deviations."""
    import torch
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).to(device).eval()
    found: list[float] = []
    for line in lines:
        prompt = [t for message in line["body"]["messages"] for t in tokens_of(message["content"])]
        answer = answers[line["custom_id"]]
        with torch.inference_mode():
            every = torch.tensor([[*prompt, *answer]], device=device)
            logits = theirs(every).logits[0, len(prompt) - 1 : -1].double()
        chosen = logits.gather(1, torch.tensor(answer, device=device)[:, None])[:, 0]
        found += ((logits.max(1).values - chosen) / logits.std(1)).tolist()
    return found


def main() -> None:
    """Make, answer, check, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a small model and short chats")
    parser.add_argument("--requests", type=int, help="by itself 600, or 24")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-run"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    model, batch = given.output / "model", given.output / "batch.jsonl"
    out, log = given.output / "answers.jsonl", given.output / "steps.parquet"
    began = time.perf_counter()
    make_model(model, SMALL if given.quick else LARGE, given.device)
    number = given.requests or (24 if given.quick else 600)
    lines = requests(number, 0.02 if given.quick else 1.0)
    batch.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    made = time.perf_counter()
    command = [sys.executable, "-m", "blendsim", "run", str(batch), "-o", str(out)]
    command += ["--model", str(model), "--log", str(log), "--json"]
    command += ["--gpu"] if given.device == "cuda" else []
    out.unlink(missing_ok=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    ran = time.perf_counter()
    answers = answered(out)
    step = max(1, len(lines) // CHECKED)
    below = below_best(
        model,
        [line for line in lines[::step] if line["custom_id"] in answers],
        answers,
        given.device,
    )
    limits = {line["custom_id"]: line["body"]["max_tokens"] for line in lines}
    told = {
        "requests": len(lines),
        "answered": len(answers),
        "as_long_as_asked": sum(len(answers[name]) == limits[name] for name in answers),
        "checked_tokens": len(below),
        "best": float(np.mean(np.array(below) == 0)) if below else 0.0,
        "most_below_best_deviations": max(below, default=float("inf")),
        "seconds": {"making": made - began, "command": ran - made},
        "run": json.loads(done.stdout),
    }
    (given.output / "found.json").write_text(json.dumps(told, indent=1))
    shutil.rmtree(model)
    print(json.dumps(told))
    if len(answers) < len(lines) or told["most_below_best_deviations"] > MOST_BELOW:
        sys.exit(1)


if __name__ == "__main__":
    main()
