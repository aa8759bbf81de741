"""Files of no format that is read: what they are is told where their beginning shows it."""

from pathlib import Path

import pytest

from blendsim.errors import InputError
from blendsim.traces import load

#: What a beginning shows, and what to do then.
TOLD = {
    "UTF-16": ("input_tokens,output_tokens\n5,6\n".encode("utf-16"), "UTF-16 .*; save .* as UTF-8"),
    "UTF-16 JSON": ('{"prompt": "x"}\n'.encode("utf-16"), "text in UTF-16 or UTF-32; save the"),
    "Latin 1": ("größe,input_tokens\n".encode("latin-1"), "not UTF-8 text; save the file as UTF-8"),
    "Excel": (b"PK\x03\x04\x14\x00\n", "a ZIP archive or an Excel workbook; .* save it as CSV"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00\n", "compressed by zstd; decompress it"),
    "xz": (b"\xfd7zXZ\x00\n", "compressed by xz; decompress it"),
    "bzip2": (b"BZh91AY\n", "compressed by bzip2; decompress it"),
    "old Mac": (b"input_tokens,output_tokens\r5,6", "its lines end in CR alone; save it with LF"),
    "semicolons": (b"input_tokens;output_tokens\n5;6\n", "separated by semicolons; .* by commas"),
    "tabs": (b"input_tokens\toutput_tokens\n5\t6\n", "separated by tabs; .* by commas"),
    "a comment": (b"# a log; v2\ninput_tokens,output_tokens\n", "a comment; begin the file with"),
    "no header": (b"5,6.5\n7,8\n", "numbers where the names .* should be; begin the file with"),
    "JSON array": (b'[{"prompt": "x"}]\n', "a JSON array; write JSON Lines, one object a line"),
    "JSON over lines": (b'{\n "prompt": "x"\n}\n', "over several lines; write JSON Lines"),
    "a comma behind": (b'{"prompt": "x"},\n', "its first line is not JSON .*, character 16.; mend"),
    "no text": (b"\0" * 10_000, "nothing but NUL bytes, probably a damaged copy; fetch or write"),
    "many digits": (
        b'{"prompt": ' + b"9" * 5_000 + b"}\n",
        "is not JSON .* has 5000 digits.; mend",
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_a_file_of_another_kind_is_told_what_it_is(kind: str, tmp_path: Path) -> None:
    data, message = TOLD[kind]
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"other: unknown format, it begins .*: .*{message}") as e:
        load(str(path))
    assert "lengths-" not in str(e.value), "no list of formats: what is wrong is known"
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "text", "first", "last", "other_kind", "most"),
    [
        (
            "log.jsonl",
            '{"question": "what", "answer": "this"}\n',
            "openai-batch custom_id,body; prompts-jsonl prompt or messages;",
            "lengths-jsonl input_tokens,output_tokens or the like; rename them",
            "csv",
            400,
        ),
        (
            "log.csv",
            "colour,weight\nred,3\n",
            "azure-csv ContextTokens,GeneratedTokens; ",
            "lengths-csv input_tokens,output_tokens or the like; rename them",
            "jsonl",
            300,
        ),
    ],
    ids=["JSONL", "CSV"],
)
def test_files_of_other_names_are_told_those_of_their_own_kind(
    name: str, text: str, first: str, last: str, other_kind: str, most: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as e:
        load(str(path))
    told = str(e.value).removeprefix(str(path))
    assert first in told
    assert last in told
    assert other_kind not in told
    assert len(told) < most


@pytest.mark.parametrize("data", [bytes(range(256)), b"a text of some words\n"])
def test_what_is_neither_is_told_so(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"begins .*: none of azure-csv, .*, workload begins so"
    ) as e:
        load(str(path))
    assert len(str(e.value).removeprefix(str(path))) < 300
