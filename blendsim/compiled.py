"""How hot loops are compiled: numba, with a cache on disk that survives the process and never goes
stale.

numba keys a cached kernel on its own file only, so a kernel that calls one in another file would
keep the old callee, and one that reads a constant of another file the old value. We put the cache
in a directory named after a hash of every source that a kernel can have something from instead.
"""

import atexit
import functools
import hashlib
import os
import pickle
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
import numba.extending
from numba.core import config, event
from numba.core.caching import FunctionCache

#: What reading a damaged kernel may raise: files that cannot be opened, pickles (which raise nearly
#: anything), and LLVM's parser of bitcode.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)

#: An import of the package's own modules: `from blendsim.x import (a, b)` or `import blendsim.x`.
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n(]+)"
    rb"|import[ \t]+(?P<modules>[^\n]+))",
    re.MULTILINE,
)


def _sources_hash() -> str:
    """SHA-256 over the package's sources that define kernels and, since kernels freeze the global
    constants that they read, over all those that they import, in path order.
    """
    root = Path(__file__).parent
    texts = {path: path.read_bytes() for path in root.rglob("*.py")}
    found = {
        path
        for path, text in texts.items()
        if b"kernel\ndef " in text or b"@kernel_where(" in text or path == Path(__file__)
    }
    ahead = list(found)
    while ahead:
        fresh = set(_imported(texts[ahead.pop()], root)) & texts.keys() - found
        found |= fresh
        ahead += fresh
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(found):
        digest.update(texts[path])
    return digest.hexdigest()[:16]


def _imported(text: bytes, root: Path) -> Iterator[Path]:
    """Where the modules of the package at `root` that a source imports would lie; a name that is
    imported may be a module, too.
    """
    for one in _IMPORT.finditer(text):
        dotted = [part.split()[0] for part in (one["modules"] or b"").split(b",") if part.strip()]
        if base := one["base"]:
            names = re.sub(rb"#[^\n]*", b"", one["names"])
            dotted = [base, *(base + b"." + name for name in re.findall(rb"\w+", names))]
        for module in dotted:
            top, *inside = module.decode().split(".")
            if top == root.name and inside:
                yield root.joinpath(*inside).with_suffix(".py")
                yield root.joinpath(*inside, "__init__.py")


def cache_directory() -> Path | None:
    """Where compiled kernels are kept: `$BLENDSIM_CACHE`, else the user's cache directory; None for
    a user without one, as a container's may be that is but a number.
    """
    base = os.environ.get("BLENDSIM_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # no $HOME, and none in the list of users
            return None
    return Path(base) / "blendsim" / f"kernels-{_sources_hash()}"


def _usable(directory: Path | None) -> str | None:
    """`directory` if it can be written, else one that lasts as long as the process and begins with
    the kernels of `directory`; None where there can be none.
    """
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                return str(directory)
        except OSError:
            pass
    # NOTE: left to itself numba would fall back to __pycache__, whose kernels go stale.
    try:
        passing = tempfile.mkdtemp(prefix="blendsim-kernels-")
    except OSError:  # nothing can be written anywhere
        return None
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    if directory is not None:
        with suppress(OSError):
            _link(directory, Path(passing))
    return passing


def _link(kept: Path, passing: Path) -> None:
    """Have the kernels of a directory that cannot be written in another one, too: a newer one takes
    the link's place.
    """
    for file in kept.absolute().rglob("*"):
        if file.is_file():
            link = passing / file.relative_to(kept.absolute())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)


_CACHE = _usable(cache_directory())


class _Kept(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, but never a reason to fail: a damaged kernel is compiled anew,
    and one that cannot be written (a full disk, a used-up quota) is not kept.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except _DAMAGED:
            with suppress(OSError):
                self.flush()  # else what replaces it could not be noted in a damaged index
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def is_warm() -> bool:
    """Whether kernels were compiled on this machine before, so that no compilation is to be waited
    for.
    """
    mark = _warm_mark()
    return mark is not None and mark.exists()


def mark_warm() -> None:
    """Note that a whole run has compiled all it needs."""
    mark = _warm_mark()
    if mark is not None:
        with suppress(OSError):  # a full disk: there may be no kernels, either
            mark.touch()


class _Patience(event.Listener):  # type: ignore[misc]
    """Hears when numba compiles, one kernel within another, and calls `tell` from a thread of its
    own once that has taken so many seconds.
    """

    def __init__(self, tell: Callable[[], None], seconds: float) -> None:
        self._tell = tell
        self._seconds = seconds
        self._depth = 0
        self._has_told = False
        self._timer = threading.Timer(seconds, self._fire)

    def on_start(self, event: Any) -> None:
        if self._depth == 0 and not self._has_told:
            self._timer = threading.Timer(self._seconds, self._fire)
            self._timer.daemon = True
            self._timer.start()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._timer.cancel()

    def _fire(self) -> None:
        self._has_told = True
        self._tell()


@contextmanager
def compiling_told(tell: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `tell`, once, if kernels are compiled for longer than so many seconds: a run may be the
    first that needs some of them, on a machine that is warm.
    """
    with event.install_listener("numba:compile", _Patience(tell, seconds)):
        yield


def _warm_mark() -> Path | None:
    """A file for this copy of the package: numba finds kernels again by the paths of their sources,
    so another copy of the same sources compiles its own.
    """
    if _CACHE is None:
        return None
    place = hashlib.sha256(os.fsencode(Path(__file__).resolve().parent)).hexdigest()[:16]
    return Path(_CACHE) / f"warm-{place}"


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on first call, with its result cached on disk. `.py_func` is its plain
    twin. It makes no arrays and returns none.
    """
    # NOTE: inlining by force: a State passed by value to a small function costs more than the
    # function (the loop takes a quarter of the time for it, and compiling a tenth longer).
    return _compiled(function, is_inlined=True, counts_references=False)


def rare_kernel(function: Callable[..., Any]) -> Any:
    """A kernel off the hot path: called, not inlined, so that its callers stay small and compile
    fast.
    """
    return _compiled(function, is_inlined=False, counts_references=False)


def allocating_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that makes arrays, for itself or to return them: called, not inlined."""
    return _compiled(function, is_inlined=False, counts_references=True)


def kernel_where(field: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a kernel for states whose tuple `field` is not empty; `otherwise`, with the same
    arguments, is what a call means for the others.

    Which of the two is compiled follows from the state's type, so that states without the field pay
    nothing and are never compiled with code that reads it. (A branch on the tuple's length would
    still be typed on both sides.)
    """

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def call(state: Any, *rest: Any) -> Any:
            return (function if getattr(state, field) else otherwise)(state, *rest)

        def choose(state: Any, *rest: Any) -> Any:
            held = state.types[state.fields.index(field)]
            return function if len(held) else otherwise

        numba.extending.overload(call, inline="always", strict=False)(choose)
        return call

    return decorate


def _compiled(function: Callable[..., Any], is_inlined: bool, counts_references: bool) -> Any:
    # NOTE: numba counts references to every array of a State that is handed on, by atomic
    # additions that were two thirds of a simulation's time. Whoever calls a kernel holds its
    # arrays while it runs, so that one which makes none has none to free; numba refuses to compile
    # one without counting that does make some.
    dispatcher = numba.njit(
        nogil=True,
        error_model="numpy",
        forceinline=is_inlined,
        _nrt=counts_references,
    )(function)
    if config.DISABLE_JIT or (_CACHE is None and not config.CACHE_DIR):
        return dispatcher
    before = config.CACHE_DIR
    config.CACHE_DIR = before or _CACHE
    try:
        # NOTE: what `cache=True` does, with a cache of ours.
        dispatcher._cache = _Kept(function)
    finally:
        config.CACHE_DIR = before
    return dispatcher
