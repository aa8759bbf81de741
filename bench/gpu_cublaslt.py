"""GEMMs by any algorithm of cuBLASLt's: the library that torch loaded, called by ctypes.

Row-major out = inputs · weightsᵀ (+ out) in bfloat16, summed in float32, which to the library is a
column-major product of the weights, transposed, and the inputs.
"""

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

WORKSPACE, WORKSPACE_ASKED, OFFERED = 64 << 20, 32 << 20, 64  # bytes, bytes, algorithms at most
# Of the library's header: a type, a way to compute, attributes of a description and a preference.
BFLOAT16, FLOAT32, COMPUTE_FLOAT32 = 14, 0, 68
TRANSPOSE_A, TRANSPOSED, MAX_WORKSPACE = 3, 1, 1


class Shape(NamedTuple):
    """Of a GEMM: what it makes of what, and whether it adds to what is there (a residual)."""

    outputs: int
    inputs: int
    adds: bool


class Offer(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


class Library:
    """cuBLASLt as torch loaded it, and what all GEMMs here share."""

    def __init__(self, torch: Any) -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        loaded = [line.split()[-1] for line in maps if "libcublasLt.so" in line]
        self.calls = ctypes.CDLL(loaded[0])
        self.calls.cublasLtGetVersion.restype = ctypes.c_size_t
        self.handle, self.product, self.preference = (ctypes.c_void_p() for _ in range(3))
        self.call("Create", ctypes.byref(self.handle))
        self.call("MatmulDescCreate", ctypes.byref(self.product), COMPUTE_FLOAT32, FLOAT32)
        self._set("MatmulDesc", self.product, TRANSPOSE_A, ctypes.c_int32(TRANSPOSED))
        self.call("MatmulPreferenceCreate", ctypes.byref(self.preference))
        most = ctypes.c_size_t(WORKSPACE_ASKED)
        self._set("MatmulPreference", self.preference, MAX_WORKSPACE, most)
        self.version = int(self.calls.cublasLtGetVersion())
        self.workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")

    def call(self, name: str, *given: Any) -> None:
        """A function of the library; RuntimeError if it fails."""
        if status := getattr(self.calls, f"cublasLt{name}")(*given):
            raise RuntimeError(f"cublasLt{name}: {status}")

    def _set(self, kind: str, place: ctypes.c_void_p, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self.call(f"{kind}SetAttribute", place, attribute, ctypes.byref(value), size)

    def layout(self, rows: int, columns: int) -> ctypes.c_void_p:
        """Of a matrix without gaps, its columns one after another."""
        made, sizes = ctypes.c_void_p(), (ctypes.c_uint64(rows), ctypes.c_uint64(columns))
        self.call("MatrixLayoutCreate", ctypes.byref(made), BFLOAT16, *sizes, ctypes.c_int64(rows))
        return made


class Gemm:
    """A GEMM of so many tokens, by any algorithm that the heuristic offers."""

    def __init__(self, library: Library, shape: Shape, tokens: int) -> None:
        self._library, self._scale = library, ctypes.c_float(float(shape.adds))
        sizes = ((shape.inputs, shape.outputs), (shape.inputs, tokens), (shape.outputs, tokens))
        self._layouts = [library.layout(*size) for size in sizes]
        offers, count = (Offer * OFFERED)(), ctypes.c_int()
        weights, rows, out = self._layouts
        which = (library.product, weights, rows, out, out, library.preference)
        found = (OFFERED, offers, ctypes.byref(count))
        library.call("MatmulAlgoGetHeuristic", library.handle, *which, *found)
        self.offers = [offer for offer in offers[: count.value] if offer.state == 0]

    def run(self, which: int, weights: Any, inputs: Any, out: Any, stream: int) -> None:
        """By one of the offers."""
        library, one = self._library, ctypes.c_float(1.0)
        a, b, d = self._layouts
        place = (ctypes.c_void_p(out.data_ptr()), d)
        factors = (ctypes.c_void_p(weights.data_ptr()), a, ctypes.c_void_p(inputs.data_ptr()), b)
        scratch = (ctypes.c_void_p(library.workspace.data_ptr()), ctypes.c_size_t(WORKSPACE))
        how = (ctypes.byref(self.offers[which].algorithm), *scratch, ctypes.c_void_p(stream))
        sum_of = (ctypes.byref(one), *factors, ctypes.byref(self._scale), *place, *place)
        library.call("Matmul", library.handle, library.product, *sum_of, *how)
