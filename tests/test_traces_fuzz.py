"""Damaged files are read or refused in one line; nothing else ever happens."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_traces_contract import EVERY, FORMAT_OF, sample

from blendsim.errors import InputError
from blendsim.traces import ReadOptions, load

_PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b"\n",
    b",",
    b'"',
    b"{",
    b"}",
    b"[",
    b"null",
    b"true",
    b"-",
    b"9" * 25,
    b"e9",
]


@pytest.mark.parametrize("name", EVERY)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    good = sample(name, tmp_path).read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(good)))
        length = data.draw(st.integers(0, 8))
        piece = data.draw(st.sampled_from(_PIECES) | st.binary(max_size=6))
        good = good[:start] + piece + good[start + length :]
    path = tmp_path / "damaged"
    path.write_bytes(good)
    message = refusal(path, FORMAT_OF[name])
    assert message is None or ("damaged" in message and "\n" not in message)


def refusal(path: Path, form: str) -> str | None:
    """What the error says, or None when the file is read and keeps the invariants."""
    try:
        load(str(path), ReadOptions(format=form)).check()
    except InputError as error:
        return str(error)
    return None
