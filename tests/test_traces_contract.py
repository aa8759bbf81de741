"""What every reader promises, checked on one small file of each format."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from blendsim.errors import BlendsimError, InputError
from blendsim.request import Workload, from_lengths, pool
from blendsim.traces import FORMATS, ReadOptions, load, load_pool, write_workload
from blendsim.traces.load import format_of

Rows = list[tuple[str, str]]  # prompt and output length as they stand in the file


def azure_2023(rows: Rows) -> str:
    lines = [f"2023-11-16 18:17:{i:02}.9799600,{p},{d}" for i, (p, d) in enumerate(rows)]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n"


def azure_2024(rows: Rows) -> str:
    lines = [f"2024-05-10 00:00:{i:02}+00:00,{p},{d}" for i, (p, d) in enumerate(rows)]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines])


def burstgpt(rows: Rows) -> str:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    lines = [f"{5 + i},ChatGPT,{p},{d},9,Conversation log" for i, (p, d) in enumerate(rows)]
    return "\n".join([head, *lines]) + "\n"


def burstgpt_sessions(rows: Rows) -> str:
    head = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type"
    )
    lines = [f"{5.5 + i},,1.5,GPT-4,{p},{d},9,API log" for i, (p, d) in enumerate(rows)]
    return "\r\n".join([head, *lines]) + "\r\n"


def vidur(rows: Rows) -> str:
    lines = [f"{0.5 * i},{p},{d}" for i, (p, d) in enumerate(rows)]
    return "\n".join(["arrived_at, num_prefill_tokens, num_decode_tokens", *lines]) + "\n"


def pairs(rows: Rows) -> str:
    return "\n".join(["prompt_tokens,response_tokens", *(f"{p},{d}" for p, d in rows)]) + "\n"


def lengths_csv(rows: Rows) -> str:
    lines = [f"{p},{d},{0.5 * i},a{i}" for i, (p, d) in enumerate(rows)]
    return "\n".join(["Input_Tokens,num_output_tokens,arrival_time,id", *lines]) + "\n"


def prefixes_csv(rows: Rows) -> str:
    lines = [f"{p},{d},{'ab'[i % 2]},1" for i, (p, d) in enumerate(rows)]
    return "\n".join(["prompt_len,completion_tokens,prefix_id,prefix_tokens", *lines]) + "\n"


def _json_number(text: str) -> str:
    return {"": "null", "nan": "NaN"}.get(text, text if text != "many" else '"many"')


def mooncake(rows: Rows) -> str:
    return "".join(
        f'{{"timestamp": {1000 * i}, "input_length": {_json_number(p)}, '
        f'"output_length": {_json_number(d)}, "hash_ids": [7]}}\n'
        for i, (p, d) in enumerate(rows)
    )


def bailian(rows: Rows) -> str:
    return "".join(
        f'{{"chat_id": {i}, "parent_chat_id": -1, "timestamp": {i}.5, '
        f'"input_length": {_json_number(p)}, "output_length": {_json_number(d)}, '
        f'"type": "text", "turn": 1, "hash_ids": [7]}}\n'
        for i, (p, d) in enumerate(rows)
    )


def mooncake_bare(rows: Rows) -> str:
    return "".join(
        f'{{"input_length": {_json_number(p)}, "output_length": {_json_number(d)}, '
        f'"hash_ids": [7]}}\n'
        for p, d in rows
    )


def lengths_jsonl(rows: Rows) -> str:
    return "".join(
        f'{{"input_length": {_json_number(p)}, "output_tokens": {_json_number(d)}, "id": {i}, '
        f'"arrived_at": {i}.5, "prefix_id": "{"ab"[i % 2]}", "prefix_tokens": 1}}\n'
        for i, (p, d) in enumerate(rows)
    )


class Case(NamedTuple):
    format: str
    make: Callable[[Rows], str]
    prompt: str
    output: str
    first_row: int = 2  # line of the first request


CASES = {
    "azure-2023": Case("azure-csv", azure_2023, "ContextTokens", "GeneratedTokens"),
    "azure-2024": Case("azure-csv", azure_2024, "ContextTokens", "GeneratedTokens"),
    "burstgpt": Case("burstgpt-csv", burstgpt, "Request tokens", "Response tokens"),
    "burstgpt-sessions": Case(
        "burstgpt-csv", burstgpt_sessions, "Request tokens", "Response tokens"
    ),
    "vidur": Case("vidur-csv", vidur, "num_prefill_tokens", "num_decode_tokens"),
    "pairs": Case("lengths-csv", pairs, "prompt_tokens", "response_tokens"),
    "lengths": Case("lengths-csv", lengths_csv, "Input_Tokens", "num_output_tokens"),
    "prefixes": Case("lengths-csv", prefixes_csv, "prompt_len", "completion_tokens"),
    "mooncake-bare": Case("mooncake-jsonl", mooncake_bare, "input_length", "output_length", 1),
    "lengths-jsonl": Case("lengths-jsonl", lengths_jsonl, "input_length", "output_tokens", 1),
    "mooncake": Case("mooncake-jsonl", mooncake, "input_length", "output_length", 1),
    "bailian": Case("bailian-jsonl", bailian, "input_length", "output_length", 1),
}
GOOD: Rows = [("40", "3"), ("16", "1"), ("700", "25")]


def write(path: Path, text: str) -> Path:
    path.write_text(text, newline="")
    return path


def openai(path: Path) -> Path:
    rows = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i, body in enumerate(
            [
                {"messages": [{"role": "user", "content": "What is a prefix?"}], "max_tokens": 9},
                {"messages": [{"role": "user", "content": "What is a suffix?"}]},
            ]
        )
    ]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def prompts(path: Path) -> Path:
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": "What is a prefix?"}]},
        {"id": 2, "prompt": "What is a suffix?", "max_tokens": 9, "output_tokens": 4},
        {"prompt": [5, 6, 7]},
    ]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def sharegpt(path: Path) -> Path:
    rows = [
        {"id": f"c{i}", "conversations": [{"from": "human", "value": asked}, answer]}
        for i, asked in enumerate(["What is a prefix?", "What is a suffix?"])
        for answer in [{"from": "gpt", "value": "A part of a word."}]
    ]
    return write(path, json.dumps(rows, indent=2))


def sample(name: str, directory: Path) -> Path:
    """A good file of each format, named so that its name does not give it away."""
    path = directory / f"{name}.trace"
    if name == "openai":
        return openai(path)
    if name == "prompts":
        return prompts(path)
    if name == "sharegpt":
        return sharegpt(path)
    if name == "workload":
        write_workload(from_lengths([5, 6], [1, 2]), path)
        return path
    return write(path, CASES[name].make(GOOD))


EVERY = [*CASES, "openai", "prompts", "sharegpt", "workload"]
FORMAT_OF = {name: case.format for name, case in CASES.items()} | {
    "openai": "openai-batch",
    "prompts": "prompts-jsonl",
    "sharegpt": "sharegpt",
    "workload": "workload",
}


def columns(workload: Workload) -> list[object]:
    arrays = [
        getattr(workload, name).tolist()
        for name in ("ids", "prompt_len", "output_len", "has_output", "output_limit", "arrival")
    ]
    prompts = workload.prompts
    return [*arrays, prompts.units.tolist(), prompts.offsets.tolist(), prompts.space_names]


def test_every_format_has_a_case() -> None:
    assert {form.name for form in FORMATS} == set(FORMAT_OF.values())


@pytest.mark.parametrize("name", EVERY)
def test_the_content_tells_the_format(name: str, tmp_path: Path) -> None:
    assert format_of(sample(name, tmp_path)).name == FORMAT_OF[name]


@pytest.mark.parametrize("name", EVERY)
def test_a_good_file_keeps_the_invariants(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    workload = load(str(path))
    workload.check()
    assert len(set(workload.ids.tolist())) == len(workload)
    assert workload.origin == (str(path),)
    assert workload.arrival.min() == 0


@pytest.mark.parametrize("name", EVERY)
def test_reading_twice_gives_the_same_columns(name: str, tmp_path: Path) -> None:
    path = str(sample(name, tmp_path))
    assert columns(load(path)) == columns(load(path))


@pytest.mark.parametrize("name", EVERY)
def test_columns_are_writable_so_that_kernels_compile_once(name: str, tmp_path: Path) -> None:
    workload = load(str(sample(name, tmp_path)))
    assert workload.prompts.units.flags.writeable
    assert workload.prompts.offsets.flags.writeable
    assert workload.prompt_len.flags.writeable
    assert workload.prompts.units.dtype == np.int32


@pytest.mark.parametrize("name", [*CASES, "openai", "prompts", "sharegpt"])
def test_gzip_and_plain_read_alike(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    packed = tmp_path / f"{name}.trace.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert columns(load(str(packed))) == columns(load(str(path)))


@pytest.mark.parametrize("name", EVERY)
def test_a_file_pools_with_itself(name: str, tmp_path: Path) -> None:
    path = str(sample(name, tmp_path))
    pooled = load_pool([path, path])
    assert len(pooled) == 2 * len(load(path))
    assert pooled.source_names[1].endswith("#2")


@pytest.mark.parametrize("name", CASES)
def test_lengths_come_as_they_stand(name: str, tmp_path: Path) -> None:
    workload = load(str(sample(name, tmp_path)))
    assert workload.prompt_len.tolist() == [40, 16, 700]
    assert workload.output_len.tolist() == [3, 1, 25]


@pytest.mark.parametrize("name", EVERY)
def test_a_truncated_gzip_is_refused(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    packed = tmp_path / "cut.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(InputError, match=r"cut\.gz: .*gzip|cut\.gz: not a Parquet"):
        load(str(packed), ReadOptions(format=FORMAT_OF[name]))


JUNK = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\n", "is empty"),
    "binary": (b"\x00\xff\xfe\x81" * 999, "unknown format.*azure-csv.*openai-batch.*workload"),
    "prose": (b"Once upon a time\n", "unknown format, it begins 'Once upon a time'"),
    "broken json": (b'{"timestamp": 0, "input_le\n', "unknown format"),
    "other json": (b'{"text": "hello"}\n', "unknown format"),
    "list": (b"[1, 2]\n", "unknown format"),
    "other csv": (b"a,b,c\n1,2,3\n", "unknown format"),
    "prompt lengths alone": (
        b"id,ISL\na,5\n",
        "line 1: no column .*length of the output; name one",
    ),
    "output lengths alone": (b'{"osl": 5}\n', "line 1: no column .*length of the prompt; name one"),
    "gzip of junk": (gzip.compress(b"\x00\x01\xff"), "unknown format"),
    "parquet magic only": (b"PAR1 and no more\n", "not a Parquet file"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_is_refused_with_what_was_tried(kind: str, tmp_path: Path) -> None:
    data, message = JUNK[kind]
    path = tmp_path / "junk"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        load(str(path))


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("name", [form.name for form in FORMATS])
def test_junk_under_a_forced_format_is_one_clear_error(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "junk"
    path.write_bytes(JUNK[kind][0])
    with pytest.raises(InputError, match="junk") as caught:
        load(str(path), ReadOptions(format=name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_directory_and_a_pipe_are_named(tmp_path: Path) -> None:
    import os

    with pytest.raises(InputError, match="no such file"):
        load(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="is a directory"):
        load(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe"):
        load(str(tmp_path / "pipe"))
    with pytest.raises(InputError, match="cannot be read"):
        load("x" * 5000)


def test_no_trace_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no trace given"):
        load_pool([])


def test_an_unknown_format_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BlendsimError, match="azure-csv"):
        load(str(sample("pairs", tmp_path)), ReadOptions(format="azure"))


def test_a_public_traces_name_is_told_how_to_be_fetched() -> None:
    with pytest.raises(InputError, match="trace fetch azure-2023-code"):
        load("azure-2023-code")


BAD = {
    "": "is missing",
    "-5": "[^ ]*-5[^ ]* is negative",
    "nan": "[^ ]* is not a number",
    "20000000": "[^ ]*20000000[^ ]* is absurd",
    "many": "'many' is not a number",
    "2.5": "[^ ]*2.5[^ ]* is not a whole number",
    "0": "[^ ]*0[^ ]* is zero",
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", CASES)
def test_a_bad_prompt_length_is_named_with_line_and_column(
    name: str, value: str, tmp_path: Path
) -> None:
    case = CASES[name]
    path = write(tmp_path / "bad", case.make([*GOOD, (value, "3"), *GOOD]))
    where = f"bad, line {case.first_row + 3}, column '{case.prompt}'(:.*)? {BAD[value]}"
    with pytest.raises(InputError, match=where) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", CASES)
def test_a_bad_output_length_is_named_with_line_and_column(
    name: str, value: str, tmp_path: Path
) -> None:
    case = CASES[name]
    path = write(tmp_path / "bad", case.make([*GOOD, ("30", value), *GOOD]))
    if value == "0" and case.format == "burstgpt-csv":
        assert len(load(str(path))) == 6
        return
    where = f"bad, line {case.first_row + 3}, column '{case.output}'(:.*)? {BAD[value]}"
    with pytest.raises(InputError, match=where):
        load(str(path))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.first_row == 2])
def test_a_header_without_rows_is_an_empty_trace(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bare", CASES[name].make([]))
    with pytest.raises(InputError, match="bare: holds no requests"):
        load(str(path))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.first_row == 2])
def test_a_row_with_too_few_fields_is_named(name: str, tmp_path: Path) -> None:
    text = CASES[name].make(GOOD).rstrip()
    path = write(tmp_path / "short", text[: text.rindex(",")] + "\n")
    with pytest.raises(InputError, match=r"short, line 4: has \d fields?; the header has"):
        load(str(path))


def test_sources_of_all_formats_make_one_pool(tmp_path: Path) -> None:
    paths = [str(sample(name, tmp_path)) for name in EVERY]
    pooled = load_pool(paths)
    assert len(pooled) == sum(len(load(path)) for path in paths)
    assert columns(pooled) == columns(pool([load(path) for path in paths]))


def test_paths_are_taken_as_texts_and_as_paths(tmp_path: Path) -> None:
    file = tmp_path / "tiny.csv"
    file.write_text("input_tokens,output_tokens\n5,1\n7,2\n")
    for given in (load(str(file)), load(file), load_pool(file), load_pool([file])):
        assert given.prompt_len.tolist() == [5, 7]
        assert given.origin == (str(file),)


def test_a_name_by_itself_is_one_source() -> None:
    assert load_pool("demo:mmlu?n=5").origin == ("demo:mmlu?n=5",)


@pytest.mark.parametrize("given", [5, None, b"tiny.csv"])
def test_what_is_neither_path_nor_name_is_refused_in_a_line(given: Any) -> None:
    with pytest.raises(InputError, match="is no trace; give the path of a file or a demo: name"):
        load(given)


def test_paths_of_read_options_are_taken_as_texts_and_as_paths(tmp_path: Path) -> None:
    batch, results = tmp_path / "batch.jsonl", tmp_path / "results.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    batch.write_text(json.dumps({"custom_id": "a", "url": "/v1/chat/completions", "body": body}))
    usage = {"completion_tokens": 7}
    results.write_text(json.dumps({"custom_id": "a", "response": {"body": {"usage": usage}}}))
    for given in (str(results), results):
        assert load(batch, ReadOptions(lengths=given)).output_len.tolist() == [7]
    options = ReadOptions(tokenizer=tmp_path)  # type: ignore[arg-type]
    assert options.tokenizer == str(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load(batch, ReadOptions(lengths="nowhere.jsonl"))
    with pytest.raises(InputError, match="ReadOptions: lengths = 5 is not of type Path"):
        ReadOptions(lengths=5)  # type: ignore[arg-type]
