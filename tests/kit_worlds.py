"""A kit small enough for tests: wheels of a few bytes, found on disk, and stand-ins for what takes
long (compiling kernels, making plans).
"""

import struct
import zipfile
from pathlib import Path

from kit_contents import Kit, pieces
from kit_pieces import Piece
from kit_weights import MIB

REPOSITORY = Path(__file__).resolve().parents[1]
PINS = {
    "there": {"python": "3.12", "glibc": 39},
    "packages": {
        "flashinfer": "flashinfer-python==0.1",
        "beside_flashinfer": ["tvm-ffi==0.1"],
        "to_build": [],
        "to_build_fa3": [],
        "vllm": ["vllm==0.1", "beside==0.1"],
        "vllm_archs": [90],
        "vllm_left_out": ["vllm/large.so", "vllm/third_party"],
    },
}


CODE, PTX = 2, 1  # kinds of entries of a fat binary


def fat_binary(*entries: tuple[int, int, bytes], entry_header: int = 64) -> bytes:
    """Entries of (kind, architecture, payload) as nvcc puts them into a library."""
    packed = b"".join(
        struct.pack("<HHIQ12xI", kind, 0x101, entry_header, len(payload), arch)
        + bytes(entry_header - 32)
        + payload
        for kind, arch, payload in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(packed)) + packed


def write_wheel(
    folder: Path, name: str, files: dict[str, bytes], tag: str = "py3-none-any"
) -> None:
    """A wheel of version 0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    told = f"{name}-0.1.dist-info"
    about = {
        f"{told}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n".encode(),
        f"{told}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        f"{told}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{name}-0.1-{tag}.whl", "w") as wheel:
        for path, content in (files | about).items():
            wheel.writestr(path, content)


def write_wheels(folder: Path, noise: bytes) -> None:
    """All that PINS asks for; one of them is for the other machine alone."""
    write_wheel(folder, "flashinfer_python", {"flashinfer/__init__.py": b""})
    write_wheel(
        folder, "tvm_ffi", {"tvm_ffi/core.so": b"code"}, "cp312-cp312-manylinux_2_24_x86_64"
    )
    code = fat_binary((CODE, 80, b"Ampere"), (CODE, 90, b"Hopper"))
    kept = {"vllm/__init__.py": b"", "vllm/noise.bin": noise, "vllm/_C.abi3.so": b"ELF" + code}
    left = {"vllm/large.so": b"large", "vllm/third_party/deep.h": b"deep"}
    write_wheel(folder, "vllm", kept | left, "cp38-abi3-manylinux_2_35_x86_64")
    write_wheel(folder, "beside", {"beside.py": b""})


def kit_in(folder: Path, **asked: object) -> Kit:
    """A kit in a folder; `asked` replaces what it is by itself."""
    given = {
        "out": folder / "kit",
        "pools": ("trace1-filled",),
        "policies": ("dfs", "paced"),
        "gpu": "h200",
        "profile": "measured",
        "kernels": ("decode", "fa2"),
        "with_vllm": True,
        "jobs": 1,
        "limit": 64 * MIB,
        "tree": MIB,
        "pins": PINS,
    }
    return Kit(**(given | asked))  # type: ignore[arg-type]


def quick_pieces(kit: Kit) -> list[Piece]:
    """The kit's pieces, with stand-ins for compiling and planning."""

    def kernels(part: Path) -> None:
        library = part / "flashinfer" / "data" / "aot" / "decode" / "decode.so"
        library.parent.mkdir(parents=True)
        library.write_bytes(b"machine code")
        (part / "flashinfer" / "__init__.py").write_text("")

    def plans(part: Path) -> None:
        for name in ("trace1-filled", "trace1-filled-dfs", "trace1-filled-paced"):
            (part / f"{name}.parquet").write_text(name)
        (part / "settings.toml").write_text("")

    fills = {"kernels": kernels, "plans of trace1-filled": plans}
    return [one._replace(fill=fills.get(one.name, one.fill)) for one in pieces(kit)]
