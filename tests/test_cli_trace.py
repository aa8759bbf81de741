"""trace list, info and fetch, and profile import."""

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import run

from blendsim.perf import package
from blendsim.traces import catalog

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
PROFILES = Path(__file__).resolve().parents[1] / "profiles"


def test_list_names_every_source() -> None:
    from blendsim.traces.demo import DEMOS

    told = json.loads(run("trace", "list", "--json"))
    assert [row["name"] for row in told["demo"]] == [f"demo:{name}" for name in DEMOS]
    assert [row["name"] for row in told["public"]] == [row.name for row in catalog.CATALOG]
    text = run("trace", "list")
    assert all(row["name"] in text for rows in told.values() for row in rows)
    assert "CC-BY-4.0" in text


def test_info_counts_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n100,10\n300,30\n")
    told = json.loads(run("trace", "info", str(path), "--json"))
    assert (told["requests"], told["input_tokens"], told["output_tokens"]) == (2, 400, 40)
    # (Σ 2(p + d)P / peak) / (Σ (p·d + d²/2) KV bytes / bandwidth) of Llama-3.1-8B on an A100
    compute = 2 * 440 * 8_030_261_248 / 312e12
    memory = (100 * 10 + 50 + 300 * 30 + 450) * 131_072 / 2.039e12
    assert told["density"] == pytest.approx(compute / memory)
    assert f"Density: {told['density']:.2f}" in run("trace", "info", str(path))


def test_info_of_a_pool_has_a_line_a_source_and_one_for_all() -> None:
    text = run("trace", "info", "demo:azure-code?n=50", "demo:mmlu?n=50")
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["azure-code", "mmlu", "all"]


def test_info_without_output_lengths_has_no_density(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    body = {"prompt": "say it", "max_tokens": 5}
    path.write_text(json.dumps({"custom_id": "a", "url": "/v1/completions", "body": body}))
    assert json.loads(run("trace", "info", str(path), "--json"))["density"] is None
    assert "Density: unknown" in run("trace", "info", str(path))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local server with one trace, known to the catalogue as `good`, `bad`, `odd` and `gone`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "gone" in self.path else 200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as local:
        url = f"http://127.0.0.1:{local.server_port}"
        digest = hashlib.sha256(CONTENT).hexdigest()
        sources = tuple(
            catalog.Source(name, f"{url}/{name}.csv", "azure-csv", "CC-BY-4.0", "us", "it", known)
            for name, known in (("good", digest), ("bad", "0" * 64), ("odd", None), ("gone", None))
        )
        monkeypatch.setattr(catalog, "CATALOG", sources)
        thread = threading.Thread(target=local.serve_forever)
        thread.start()
        yield
        local.shutdown()
        thread.join()


@pytest.mark.usefixtures("server")
def test_fetched_trace_is_checked_and_stored(tmp_path: Path) -> None:
    text = run("trace", "fetch", "good", "-o", str(tmp_path))
    assert text.splitlines()[1].endswith("as expected")
    assert (tmp_path / "good.csv").read_bytes() == CONTENT
    told = json.loads(run("trace", "fetch", "odd", "-o", str(tmp_path), "--json"))
    assert told["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert "not known beforehand" in run("trace", "fetch", "odd", "-o", str(tmp_path))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("name", "words"), [("bad", "expected 0000"), ("gone", "404"), ("none", "unknown trace")]
)
def test_failed_fetch_is_one_line_and_leaves_nothing(tmp_path: Path, name: str, words: str) -> None:
    line = run("trace", "fetch", name, "-o", str(tmp_path), code=2)
    assert words in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_import_without_the_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "PACKAGE", "no_such_package")
    line = run("profile", "import", "-o", str(tmp_path), code=2)
    assert line.startswith("error: the no_such_package package is not installed")
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None,
    reason="the extra `profiles` is not installed",
)
def test_import_writes_the_committed_profiles(tmp_path: Path) -> None:
    choice = ["--gpu", "a100-80g", "--model", "llama-3.1-8b"]
    told = json.loads(run("profile", "import", "-o", str(tmp_path), *choice, "--json"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.parent) for path in files} == set(told["written"])
    assert files
    for path in files:
        assert path.read_bytes() == (PROFILES / path.relative_to(tmp_path)).read_bytes()
    assert "profiles written" in run("profile", "import", "-o", str(tmp_path), *choice)
