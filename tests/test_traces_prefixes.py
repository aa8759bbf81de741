"""The columns prefix_id and prefix_tokens: rows of one prefix share so many tokens, exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, select
from blendsim.traces import load, load_pool, read_workload, write_workload
from blendsim.traces.shared_prefixes import Prefixes

HEAD = "prompt_tokens,response_tokens,prefix_id,prefix_tokens\n"


def read(directory: Path, text: str) -> Workload:
    path = directory / "log"
    path.write_text(text, newline="")
    return load(str(path))


def sharing(workload: Workload) -> int:
    return shareable_tokens(workload, sort_prompts(workload))


def test_rows_of_one_prefix_share_it_and_others_nothing(tmp_path: Path) -> None:
    rows = "40,1,a,7\n50,1,b,7\n7,1,a,7\n40,1,,\n41,1,,0\n60,1,b,7\n90,1,c,33\n90,1,d,0\n"
    workload = read(tmp_path, HEAD + rows)
    assert sharing(workload) == 7 + 7
    assert sharing(select(workload, np.array([0, 1, 6]))) == 0
    assert np.diff(workload.prompts.offsets).tolist() == [1, 1, 1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    "head",
    [
        "ContextTokens,GeneratedTokens,prefix_id,prefix_tokens\n",
        "input_len,output_len,Prefix_ID,PREFIX_TOKENS\n",
        "num_prefill_tokens,num_decode_tokens,prefix_id,prefix_tokens\n",
    ],
)
def test_every_csv_format_may_have_prefixes(tmp_path: Path, head: str) -> None:
    assert sharing(read(tmp_path, head + "40,1,a,7\n50,1, a ,7.0\n")) == 7


def test_json_lines_may_have_prefixes(tmp_path: Path) -> None:
    row = {"input_len": 40, "output_len": 1, "prefix_id": 5, "prefix_tokens": 9}
    rows = [
        row,
        row,
        row | {"prefix_id": None, "prefix_tokens": None},
        row | {"prefix_id": "\ud800"},
    ]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    assert sharing(read(tmp_path, text)) == 9


def test_json_lines_without_a_prefix_may_come_first(tmp_path: Path) -> None:
    bare = {"input_len": 40, "output_len": 1}
    for name in ("a", 7):
        row = bare | {"prefix_id": name, "prefix_tokens": 9}
        assert (
            sharing(read(tmp_path, "".join(json.dumps(one) + "\n" for one in (bare, row, row))))
            == 9
        )


def test_failed_calls_have_no_prefix(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,prefix_id,prefix_tokens\n"
    rows = "1,m,40,5,a,7\n2,m,40,0,a,900\n3,m,40,5,a,7\n"
    assert sharing(read(tmp_path, head + rows)) == 7


def test_two_files_never_share_and_one_file_twice_does(tmp_path: Path) -> None:
    for name, more in (("a", ""), ("b", "9,9,,\n")):
        (tmp_path / name).write_text(HEAD + "40,1,p,7\n40,1,q,8\n" + more)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert sharing(load_pool([a, b])) == 0
    assert sharing(load_pool([a, a])) == 15


def test_a_parquet_workload_keeps_prefixes(tmp_path: Path) -> None:
    workload = read(tmp_path, HEAD + "40,1,p,7\n40,1,p,7\n40,1,q,8\n50,1,q,8\n")
    write_workload(workload, tmp_path / "w.parquet")
    assert sharing(read_workload(tmp_path / "w.parquet")) == 15


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("9,1,a,3", "'3' is not the 5 of prefix 'a' in line 2: rows of one prefix share the same"),
        ("9,1,b,10", "'10' is more than the prompt's 9 tokens: mend one"),
        ("9,1,b,", "'' is missing: give a whole number"),
        ("9,1,b,NA", "'NA' is not a number"),
        ("9,1,b,-2", "'-2' is negative"),
        ("9,1,b,2.5", "'2.5' is not a whole number"),
        ("9,1,b,many", "'many' is not a number"),
        ("9,1,b,99999999", "'99999999' is absurd"),
        ("9,1,,4", "'4' is given without 'prefix_id': give both or neither"),
    ],
)
def test_a_prefix_that_cannot_be_is_named_with_its_line(
    tmp_path: Path, row: str, words: str
) -> None:
    where = r"log, line 5, column 'prefix_tokens': "
    with pytest.raises(InputError, match=where + words) as caught:
        read(tmp_path, HEAD + "9,1,a,5\n9,1,,NA\n\n" + row + "\n9,1,a,5\n")
    assert "\n" not in str(caught.value)
    prompt, output, name, tokens = row.split(",")
    if tokens not in ("NA", "many"):
        keys = ("input_len", "output_len", "prefix_id", "prefix_tokens")
        values = (int(prompt), int(output), name, json.loads(tokens) if tokens else None)
        rows = [dict(zip(keys, one, strict=True)) for one in ((9, 1, "a", 5), values)]
        with pytest.raises(InputError, match=r"log, line 2, column 'prefix_tokens'(:| is missing)"):
            read(tmp_path, "".join(json.dumps(one) + "\n" for one in rows))


@pytest.mark.parametrize("column", ["prefix_id", "prefix_tokens"])
def test_one_column_of_the_two_is_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(InputError, match=f"line 1: column '{column}' is there without 'prefix_"):
        read(tmp_path, f"prompt_tokens,response_tokens,{column}\n5,6,1\n")


prefixes = st.lists(st.integers(0, 60), min_size=1, max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefixes, st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), min_size=1))
def test_the_shared_tokens_are_those_that_the_columns_say(
    tmp_path: Path, lengths: list[int], rows: list[tuple[int, int]]
) -> None:
    named = [(which if which < len(lengths) else None, own) for which, own in rows]
    text = "".join(
        f"{own},1,,\n" if which is None else f"{lengths[which] + own},1,p{which},{lengths[which]}\n"
        for which, own in named
    )
    counts = [sum(which == k for which, _ in named) for k in range(len(lengths))]
    said = sum(max(0, n - 1) * tokens for n, tokens in zip(counts, lengths, strict=True))
    workload = read(tmp_path, HEAD + text)
    workload.check()
    assert sharing(workload) == said


def test_a_prompt_takes_one_unit_however_long_its_prefix_is() -> None:
    n = 1000
    tokens = np.repeat([700.0, 701.0], n // 2)
    found = Prefixes(np.repeat([0, 1], n // 2), tokens)
    assert not found.are_wrong(tokens, np.zeros(n, np.bool_)).any()
    prompts = found.prompts(Path("log"), "0", np.zeros(n, np.bool_))
    assert (len(prompts.units), prompts.unit_tokens.tolist()) == (n, [700, 701])
