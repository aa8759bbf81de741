"""The catalog of public traces, and fetching from a server on this machine."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from blendsim.errors import InputError, Unavailable, UnknownName
from blendsim.traces import CATALOG, FORMATS, fetch, load
from blendsim.traces.catalog import Source, find

DATA = b"prompt_tokens,response_tokens\n5,6\n"
SUM = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """`/cut…` promises more than it sends, `/gone…` is not there, the rest is DATA."""

    def do_GET(self) -> None:
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA) + 99 * self.path.startswith("/cut")))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


def source(url: str, checksum: str | None = None) -> list[Source]:
    return [Source("mine", url, "lengths-csv", "CC0", "nobody", "five and six", checksum)]


def test_a_good_checksum_stores_the_file(server: str, tmp_path: Path) -> None:
    path = fetch("mine", tmp_path, source(f"{server}/a.csv", SUM))
    assert path == tmp_path / "a.csv"
    assert path.read_bytes() == DATA
    assert load(str(path)).prompt_len.tolist() == [5]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_pipe_or_link_is_not_replaced(server: str, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "a.csv"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("kept")
    with pytest.raises(InputError, match=f"is a {kind}"):
        fetch("mine", tmp_path, source(f"{server}/a.csv", SUM))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_is_no_directory_to_fetch_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="file is no directory"):
        fetch("mine", tmp_path / "file", source("http://127.0.0.1:9/a.csv", SUM))


def test_a_bad_checksum_stores_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"SHA-256 {SUM[:16]}.*expected 0000.*nothing was stored"):
        fetch("mine", tmp_path, source(f"{server}/a.csv", "0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_checksum_is_stored(server: str, tmp_path: Path) -> None:
    assert fetch("mine", tmp_path, source(f"{server}/a.csv")).read_bytes() == DATA


def test_a_right_file_is_kept_and_a_wrong_one_replaced(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(DATA)
    assert fetch("mine", tmp_path, source("http://127.0.0.1:9/a.csv", SUM)).exists()
    (tmp_path / "a.csv").write_bytes(b"old")
    assert fetch("mine", tmp_path, source(f"{server}/a.csv", SUM)).read_bytes() == DATA


def test_a_download_that_breaks_off_stores_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"the download broke off \(34 of 133 bytes came\)"):
        fetch("mine", tmp_path, source(f"{server}/cut.csv"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_no_is_quoted(server: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the server answered 404 Not Found"):
        fetch("mine", tmp_path, source(f"{server}/gone.csv"))


def test_without_a_network_one_line_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = r"mine: cannot be fetched.*give the local file"
    with pytest.raises(Unavailable, match=message) as caught:
        fetch("mine", tmp_path, source(f"http://127.0.0.1:{port}/a.csv"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_named_before_downloading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        fetch("mine", tmp_path / "none", source("http://127.0.0.1:9/a.csv"))


def test_an_unknown_trace_gets_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="azure-2023-code"):
        fetch("azure-code", tmp_path)


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_an_entry_is_complete(entry: Source) -> None:
    assert entry.url.startswith("https://")
    assert entry.format in {form.name for form in FORMATS}
    assert entry.licence
    assert entry.cite
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert find(entry.name) is entry


def test_names_and_files_are_unique() -> None:
    assert len({entry.name for entry in CATALOG}) == len(CATALOG)
    assert len({entry.url.rpartition("/")[2] for entry in CATALOG}) == len(CATALOG)
