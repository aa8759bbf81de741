"""OpenAI batch files: text to tokens, limits, and lengths of an earlier run."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blendsim.errors import InputError, Unavailable
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import MOST_TOKENS, Workload
from blendsim.traces import ReadOptions, load, load_pool


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(directory: Path, *rows: object, **options: Any) -> Workload:
    return load(str(lines(directory / "batch.jsonl", *rows)), ReadOptions(**options))


def prompt(workload: Workload, row: int) -> bytes:
    prompts = workload.prompts
    return bytes(prompts.units[prompts.offsets[row] : prompts.offsets[row + 1]].tolist())


def tokenizer(directory: Path) -> Path:
    """A word tokenizer, made here."""
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers extra is not installed")
    words = ["[UNK]", "what", "is", "a", "prefix", "suffix", "user", "assistant"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(3)
    made.enable_padding(length=50)
    made.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"


def test_chat_is_written_in_the_stated_template(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé?"}]
    workload = read(tmp_path, request("a", messages=messages))
    text = "<|system|>\nBe brief.\n<|user|>\nHé?\n<|assistant|>\n"
    assert prompt(workload, 0) == text.encode()
    assert workload.prompt_len.tolist() == [len(text.encode())]


def test_the_byte_fallback_says_what_it_does(tmp_path: Path) -> None:
    workload = read(tmp_path, request("a", prompt="abc"))
    assert workload.prompts.space_names == ("bytes",)
    assert any("one byte counts as one token" in note for note in workload.notes)
    assert any("4 times too long" in note for note in workload.notes)


def test_output_lengths_are_absent_and_limits_kept(tmp_path: Path) -> None:
    workload = read(
        tmp_path,
        request("a", prompt="x", max_tokens=7),
        request("b", prompt="x", max_completion_tokens=8),
        request("c", input="x", max_output_tokens=9),
        request("d", prompt="x"),
    )
    assert workload.has_output.tolist() == [False] * 4
    assert workload.output_len.tolist() == [0] * 4
    assert workload.output_limit.tolist() == [7, 8, 9, 0]
    note = workload.notes[-1]
    assert "4 of 4 requests have no output length" in note
    assert "4 of 4 requests have no output length" in note
    assert "--lengths RESULTS.jsonl of an earlier run of these requests does better" in note


def test_prompt_forms_read_alike(tmp_path: Path) -> None:
    workload = read(
        tmp_path,
        request("a", prompt="abc"),
        request("b", prompt=["abc"]),
        request("c", input="abc"),
        request("d", input=[{"role": "user", "content": [{"type": "input_text", "text": "abc"}]}]),
        request("e", messages=[{"content": "abc"}]),
        request("f", input="abc", instructions="Be brief."),
    )
    assert [prompt(workload, row) for row in range(3)] == [b"abc"] * 3
    assert prompt(workload, 3) == prompt(workload, 4) == b"<|user|>\nabc\n<|assistant|>\n"
    assert prompt(workload, 5) == b"<|system|>\nBe brief.\n<|user|>\nabc\n<|assistant|>\n"


def test_token_ids_in_the_file_are_a_space_of_their_own(tmp_path: Path) -> None:
    workload = read(
        tmp_path,
        request("a", prompt=[97, 98]),
        request("b", prompt="ab"),
        request("c", prompt=[[97, 98]]),
    )
    assert workload.prompt_len.tolist() == [2, 2, 2]
    assert [workload.prompts.space_names[s] for s in workload.prompts.space] == [
        "tokens:given",
        "bytes",
        "tokens:given",
    ]
    assert shareable_tokens(workload, sort_prompts(workload)) == 2


def test_parts_that_are_not_text_are_noted(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "u"}}]
    said = {"messages": [{"role": "user", "content": parts}]}
    for n, requests in ((1, "1 request"), (2, "2 requests")):
        workload = read(tmp_path, *(request(f"{k}", **said) for k in range(n)))
        told = f"parts of {requests} are not text (images, files), and their tokens are not counted"
        assert any(note.endswith(told) for note in workload.notes)


def test_a_tokenizer_makes_its_own_space_and_is_not_cut_or_padded(tmp_path: Path) -> None:
    file = tokenizer(tmp_path)
    rows = [request("a", prompt="what is a prefix"), request("b", prompt="what is a suffix")]
    workload = read(tmp_path, *rows, tokenizer=str(file))
    assert workload.prompts.units.tolist() == [1, 2, 3, 4, 1, 2, 3, 5]
    assert workload.prompts.space_names[0].startswith("tokens:")
    assert not any("byte" in note for note in workload.notes)
    by_directory = read(tmp_path, *rows, tokenizer=str(tmp_path))
    assert by_directory.prompts.space_names == workload.prompts.space_names


def test_two_files_of_one_tokenizer_share(tmp_path: Path) -> None:
    options = ReadOptions(tokenizer=str(tokenizer(tmp_path)))
    one = lines(tmp_path / "one.jsonl", request("a", prompt="what is a prefix"))
    two = lines(tmp_path / "two.jsonl", request("a", prompt="what is a suffix"))
    pooled = load_pool([str(one), str(two)], options)
    assert pooled.ids.tolist() == ["one/a", "two/a"]
    assert shareable_tokens(pooled, sort_prompts(pooled)) == 3


def test_half_a_surrogate_pair_does_not_stop_reading(tmp_path: Path) -> None:
    row = request("a", prompt="what \ud800 is")
    assert read(tmp_path, row, tokenizer=str(tokenizer(tmp_path))).prompt_len[0] >= 2
    assert read(tmp_path, row).prompt_len[0] >= 8


def test_a_bad_tokenizer_is_named(tmp_path: Path) -> None:
    row = request("a", prompt="abc")
    with pytest.raises(InputError, match="no such file; --tokenizer takes"):
        read(tmp_path, row, tokenizer=str(tmp_path / "none.json"))
    pytest.importorskip("tokenizers", reason="the tokenizers extra is not installed")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad\.json: not a tokenizer\.json"):
        read(tmp_path, row, tokenizer=str(tmp_path / "bad.json"))


def test_a_missing_tokenizers_package_is_named(tmp_path: Path, monkeypatch) -> None:
    import sys

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(Unavailable, match=r"blendsim\[tokenizers\]"):
        read(tmp_path, request("a", prompt="abc"), tokenizer=str(tmp_path))


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    file = tokenizer(tmp_path)
    with pytest.raises(InputError, match="makes no tokens of 'b' of its 2 requests; remove"):
        read(tmp_path, request("a", prompt="is"), request("b", prompt=" "), tokenizer=str(file))


BAD = {
    "duplicate": (request("good", prompt="x"), "column 'custom_id': 'good' .* line 1"),
    "no id": ({"custom_id": None, "body": {}}, "column 'custom_id': nothing is not a name"),
    "no body": ({"custom_id": "b"}, "column 'body': nothing is not a request object"),
    "no prompt": (request("b", model="m"), "neither text, messages nor token ids"),
    "empty": (request("b", prompt=""), "the prompt is empty"),
    "no messages": (request("b", messages=[]), "is not a list of messages"),
    "bad message": (request("b", messages=["hi"]), "'hi' is not a message"),
    "bad content": (request("b", messages=[{"content": 5}]), "content 5 is neither text nor"),
    "two prompts": (request("b", prompt=["x", "y"]), "of one prompt"),
    "negative token": (request("b", prompt=[-1]), "of one prompt"),
    "limit": (request("b", prompt="x", max_tokens=-1), r"'body.max_tokens': -1 is negative"),
    "zero limit": (request("b", prompt="x", max_tokens=0), "is zero: remove it"),
    "text limit": (request("b", prompt="x", max_tokens=[5]), "is not a number"),
    "answers": (request("b", prompt="x", n=3), "column 'body.n': 3 answers"),
    "no number of answers": (request("b", prompt="x", n=True), "column 'body.n': True answers"),
    "embedding": (
        {"custom_id": "b", "url": "/v1/embeddings", "body": {"input": "x"}},
        "generates no tokens",
    ),
    "speech": (
        {"custom_id": "b", "url": "/v1/audio/speech", "body": {"input": "x"}},
        "generates no tokens",
    ),
    "absurd": (
        request("b", prompt="é" * (MOST_TOKENS // 2 + 1)),
        "a prompt of 10,000,002 bytes; no request has more than 10,000,000 tokens",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_is_named(kind: str, tmp_path: Path) -> None:
    row, message = BAD[kind]
    with pytest.raises(InputError, match=rf"batch\.jsonl, line 2.*{message}"):
        read(tmp_path, request("good", prompt="x"), row)


@pytest.mark.parametrize("kind", ["batch", "plain"])
def test_all_lines_that_cannot_be_planned_are_counted(kind: str, tmp_path: Path) -> None:
    def row(k: int) -> dict[str, Any]:
        body = {"prompt": "x", "n": 4} if k in (2, 1_003) else {"prompt": "x" * (k % 3 != 0)}
        return request(f"r{k}", **body) if kind == "batch" else body

    for n, told in (
        (3, r"line 3.*n'?: 4 answers .* \(1 of 2 lines cannot be planned\)"),
        (
            4,
            r"line 3.*n'?: 4 .* \(2 of 3 lines cannot be planned: 3, 4; mend or remove all of them",
        ),
        (
            1_005,
            r"line 3.*n'?: 4 .* \(336 of 1,004 lines cannot be planned: 3, 4, 7, 10, 13 and 331",
        ),
    ):
        path = lines(tmp_path / "batch.jsonl", *(row(k) for k in range(1, n)))
        path.write_text("\n" + path.read_text())
        with pytest.raises(InputError, match=told) as raised:
            load(str(path))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["batch", "plain"])
def test_several_models_are_noted(kind: str, tmp_path: Path) -> None:
    def notes(*models: object) -> list[str]:
        bodies = [{"prompt": "x", "model": model} for model in models]
        rows = [request(f"{k}", **body) for k, body in enumerate(bodies)]
        workload = read(tmp_path, *(rows if kind == "batch" else bodies))
        return [note for note in workload.notes if "asked for" in note]

    assert notes("a", "a", None, 5, "") == []
    told = f"{tmp_path}/batch.jsonl: 2 models are asked for: a, b; planned as one"
    assert notes("b", "a", "b", None) == [told]
    assert notes(*"gfedcba")[0].endswith(": a, b, c, d, e and 2 more; planned as one")


def result(custom_id: str, tokens: object, **more: Any) -> dict[str, Any]:
    body = {"usage": {"completion_tokens": tokens}}
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": body}} | more


def test_lengths_come_from_an_earlier_run(tmp_path: Path) -> None:
    results = lines(
        tmp_path / "results.jsonl",
        result("b", 12),
        result("elsewhere", 5),
        {"custom_id": "c", "response": None, "error": {"code": "expired"}},
        {"custom_id": "d", "response": {"status_code": 500, "body": {}}},
        {"custom_id": "a", "response": {"body": {"usage": {"output_tokens": 3}}}},
    )
    rows = [request(name, prompt="x", max_tokens=99) for name in "abcd"]
    workload = read(tmp_path, *rows, lengths=results)
    assert workload.output_len.tolist() == [3, 12, 0, 0]
    assert workload.has_output.tolist() == [True, True, False, False]
    assert not workload.is_known.any()
    assert "2 of 4 requests have no output length" in workload.notes[-1]


def test_all_lengths_given_leaves_nothing_to_guess(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", result("a", 12))
    workload = read(tmp_path, request("a", prompt="x"), lengths=results)
    assert not any("guess" in note for note in workload.notes)


def test_lengths_do_not_change_lengths_that_are_given(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", result("a", 12), result("0", 99))
    batch = lines(tmp_path / "batch.jsonl", request("a", prompt="x"))
    (tmp_path / "pairs.csv").write_text("prompt_tokens,response_tokens\n5,6\n")
    pooled = load_pool([str(batch), str(tmp_path / "pairs.csv")], ReadOptions(lengths=results))
    assert pooled.output_len.tolist() == [12, 6]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([result("z", 5)], "none of its 1 results belongs"),
        ([result("a", -5)], "column 'response.body.usage.completion_tokens': -5 is negative"),
        (
            [result("a", None)],
            "line 1: response.body.usage counts no generated tokens; results need",
        ),
        ([result("a", 0)], "line 1: response.body.usage counts no generated tokens; results need"),
        (
            [{"custom_id": "a", "response": {"body": {}}}],
            "line 1: response.body.usage counts no generated tokens; results need",
        ),
        ([{"id": "a"}], "column 'custom_id': nothing is not a name; results are lines of"),
        ([], "is empty|holds no requests"),
    ],
)
def test_bad_results_are_refused(rows: list[Any], message: str, tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", *rows)
    with pytest.raises(InputError, match=message):
        read(tmp_path, request("a", prompt="x"), lengths=results)


def test_results_of_another_batch_are_good_for_their_mean(tmp_path: Path) -> None:
    failed = {"custom_id": "w", "response": None, "error": {"code": "expired"}}
    results = lines(tmp_path / "results.jsonl", result("y", 6), result("z", 3_000), failed)
    told = (
        "results.jsonl: none of its 2 results belongs to a request without output length; give "
        "the results of this batch, or in place of those of another batch of the same kind "
        "--output-guess 1503, their mean"
    )
    with pytest.raises(InputError, match=f"{re.escape(told)}$"):
        read(tmp_path, request("a", prompt="x"), lengths=results)
    bare = r"give the results of this batch, or leave --lengths out$"
    with pytest.raises(InputError, match=bare):
        read(tmp_path, {"prompt": "x", "output_tokens": 5}, lengths=results)
    lines(results, failed)
    with pytest.raises(InputError, match=bare):
        read(tmp_path, request("a", prompt="x"), lengths=results)


def test_results_that_could_be_of_two_batches_are_refused(tmp_path: Path) -> None:
    one = lines(tmp_path / "one.jsonl", *(request(name, prompt="x") for name in "abcde"))
    two = lines(tmp_path / "two.jsonl", *(request(name, prompt="x") for name in "fedcb"))
    results = lines(tmp_path / "results.jsonl", *(result(name, 6) for name in "afbcde"))
    told = (
        f"{results}: {one} and {two} both have requests called 'e', 'd', 'c' and 1 more, so that "
        "it cannot be told whose results they are; make ids unique, or plan the files apart"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load_pool([str(one), str(two)], ReadOptions(lengths=results))
    lines(results, result("a", 6), result("f", 7))
    pooled = load_pool([str(one), str(two)], ReadOptions(lengths=results))
    assert pooled.output_len.tolist() == [6, 0, 0, 0, 0, 7, 0, 0, 0, 0]


def test_a_token_pool_and_a_hash_pool_sort_in_one_call(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", *(request(n, prompt="what is a") for n in "ab"))
    hashes = lines(
        tmp_path / "m.jsonl",
        *(
            {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [97, i]}
            for i in (1, 2)
        ),
    )
    pooled = load_pool([str(batch), str(hashes), "demo:mmlu?n=50", "demo:mooncake?n=50"])
    ordered = sort_prompts(pooled)
    assert np.array_equal(np.sort(ordered.order), np.arange(104))
    row_source = pooled.source[ordered.order]
    inside = [int(ordered.common[row_source == code].sum()) for code in range(2)]
    assert inside == [len("what is a"), 512]


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("kind", ["batch", "plain"])
def test_reading_tells_how_far_it_is(tmp_path: Path, kind: str, is_compressed: bool) -> None:
    n = 2_500
    rows = [
        request(f"r{k}", prompt=f"number {k}") if kind == "batch" else {"prompt": f"number {k}"}
        for k in range(n)
    ]
    path = lines(tmp_path / "file.jsonl", *rows)
    if is_compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    told: dict[str, list[float]] = {}
    load_pool([str(path)], told=lambda what, share: told.setdefault(what, []).append(share))
    reading, making = (
        told[f"{what} {path}"] for what in ("reading", "making tokens of the prompts of")
    )
    assert len(reading) == 2
    assert making == [*(done / n for done in range(0, n, 512)), 1.0]
    assert reading == sorted(reading)
    assert all(0 < share <= 1 for share in reading)
    if not is_compressed:
        assert reading == pytest.approx([0.4, 0.8], abs=0.15)  # it reads ahead


@pytest.mark.parametrize("kind", ["batch", "plain"])
def test_a_token_that_stops_leaves_an_answers_length_open(kind: str, tmp_path: Path) -> None:
    body = {"max_tokens": 40, "ignore_eos": True, "stop_token_ids": [7]}
    row = request("a", prompt="x", **body) if kind == "batch" else {"prompt": "x"} | body
    assert not read(tmp_path, row).has_output.any()


@pytest.mark.parametrize(
    "end",
    ["embeddings", "moderations", "images/generations", "audio/speech", "score", "rerank"],
)
def test_endpoints_that_generate_no_text_are_refused(end: str, tmp_path: Path) -> None:
    row = request("a", prompt="x") | {"url": f"/v1/{end}"}
    with pytest.raises(InputError, match="generates no tokens"):
        read(tmp_path, row)
