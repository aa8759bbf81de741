"""The source package as it is found on disk: the installed `aiconfigurator_core` (Apache-2.0), a
parquet file a table, version and backend, and a YAML file a GPU.
"""

import importlib.util
import re
from collections.abc import Iterable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from blendsim.errors import Unavailable
from blendsim.files import sha256

PACKAGE = "aiconfigurator_core"
#: Its names of our GPUs.
SYSTEMS = {
    "a100-80g": "a100_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "b200": "b200_sxm",
}
_BACKENDS = ("vllm", "sglang")  # NOTE: never trtllm: its A100 attention exceeds the chip's peak.

Row = dict[str, Any]


def systems_directory() -> Path:
    """Where its tables are. Unavailable if it is not installed."""
    # NOTE: found, not imported: importing it pulls in pandas, and only its files are needed.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Unavailable(
            f"the {PACKAGE} package is not installed; run `pip install aiconfigurator-core`"
        )
    return Path(spec.origin).parent / "systems"


def source() -> str:
    """Name, version and licence."""
    return f"{PACKAGE} {package_version(PACKAGE.replace('_', '-'))} (NVIDIA, Apache-2.0)"


def system_file(systems: Path, gpu: str) -> str:
    """The text of a GPU's YAML file."""
    return (systems / f"{SYSTEMS[gpu]}.yaml").read_text()


def field_of(system: str, name: str) -> float:
    """A number in the text of a GPU's YAML file."""
    found = re.search(rf"^\s*{name}:\s*([0-9.eE+-]+)", system, re.MULTILINE)
    assert found, f"the package's system file gives {name}"
    return float(found[1])


def backend_of(data: Path, gpu: str) -> str:
    """The backend whose tables are read of a GPU, which has them under `data`. Unavailable if there
    is none.
    """
    for backend in _BACKENDS:
        if (data / "gemm" / backend).is_dir():
            return backend
    raise Unavailable(f"{PACKAGE} has no vLLM or SGLang tables for {gpu}")


def newest(directory: Path, table: str) -> Path:
    """The table of the newest collected version. Unavailable if there is none."""
    found = list(directory.glob(f"*/{table}.parquet"))
    if not found:
        raise Unavailable(f"{PACKAGE} has no {table} under {directory.name}; install 0.12")
    return max(found, key=lambda path: version_numbers(path.parent.name))


def version_numbers(text: str) -> list[int]:
    """To compare versions by."""
    return [int(n) for n in re.findall(r"\d+", text)]


def rows_of(path: Path) -> list[Row]:
    """All rows of a table."""
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def provenance(version: str, counted: str, rows: Iterable[Row], *files: Path) -> str:
    """What meta.toml says of rows: the backend and its version, how many there are, kernels, files'
    hashes.
    """
    kernels = "/".join(sorted({str(row["kernel_source"]) for row in rows}))
    hashes = ", ".join(sha256(path)[:16] for path in files)
    return f"{version}, {counted}, kernel {kernels}, sha256 {hashes}"
