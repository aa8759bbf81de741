"""The laboratory: where measurements get their pools and systems from, and keep what costs minutes.

A `Lab` is the few things a whole run has in common. Rows that several claims need are kept under
build/paper_repro/ by a fingerprint of all code and data they depend on. Pools are not: reading one
back takes as long as blending it again.
"""

import ast
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from blendsim import __version__, search
from blendsim.files import sha256
from blendsim.request import Workload
from blendsim.settings import Settings
from blendsim.specs import System
from blendsim.synth.blend import Blend, blend
from blendsim.synth.recipes import Recipe, recipe
from blendsim.synth.sources import NAMES, open_source
from paper_repro.table import Table, read_table, write_table

REPOSITORY = Path(__file__).resolve().parents[1]
STORE = REPOSITORY / "build" / "paper_repro"
#: What every measurement goes through.
SHARED = tuple(
    REPOSITORY / "paper_repro" / f"{name}.py" for name in ("lab", "runs", "systems", "table")
)
QUICK_REQUESTS = 100_000  # of a named recipe in a quick run; the paper's are 400,000


@dataclass(frozen=True, slots=True)
class Lab:
    """What all measurements of a run share."""

    data: Path | None = None  # directory with real traces; None: seeded generators
    quick: bool = False  # smaller pools and fewer points: signs may differ, see the README
    seed: int = 0
    gpu: str = "a100-80g"

    def settings(self, **changes: Any) -> Settings:
        """Settings on this lab's GPU and seed."""
        return Settings(gpu=self.gpu, seed=self.seed, **changes)

    def pool(
        self,
        wanted: str | Recipe,
        requests: int | None = None,
        system: System | None = None,
    ) -> Workload:
        """A blended pool: a recipe or the name of one (trace1 … trace4), its density that of
        `system` (None: the paper's, Llama-3.1-8B on an A100).

        `requests` None means the recipe's own number, or QUICK_REQUESTS of a name in a quick run.
        """
        is_named = isinstance(wanted, str)
        made = recipe(wanted) if isinstance(wanted, str) else wanted
        if requests is None and is_named and self.quick:
            requests = QUICK_REQUESTS
        made = replace(made, seed=self.seed, requests=requests or made.requests)
        return _blended(made, system or Settings().system, self.data).workload

    def source(self, name: str, requests: int) -> Workload:
        """Requests of one source alone, with its system prompt of the recipes' length."""
        tokens = Recipe(1.0, 0.5).system_tokens
        return open_source(name, self.data, self.seed, tokens).requests(requests, 0)

    def sources(self) -> dict[str, str]:
        """Of each source, the file or generator that this lab's pools are drawn from."""
        return dict(_sources(self.data, self.seed))

    def problem(self, workload: Workload, **changes: Any) -> search.Problem:
        """The pool on the system of `settings(**changes)`, prepared for planning."""
        return search.prepare(workload, self.settings(**changes))

    def kept(self, name: str, inputs: dict[str, Any], measure: Callable[[], Table]) -> Table:
        """The table `measure` gives, measured once for these inputs by whoever asks first."""
        path = self._path(name, inputs)
        with _alone(path):
            if not path.exists():
                write_table(measure(), path, {"module": name, **inputs})
            return read_table(path)

    def fingerprint(self, *files: Path) -> str:
        """Hash of the simulator, its profiles, the traces, this lab's settings and of `files`."""
        parts = [json.dumps([self.quick, self.seed, self.gpu]), _code_hash(), _data_hash(self.data)]
        parts += [_code(path) for path in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """What the first line of a result table says of the lab."""
        return {
            "seed": self.seed,
            "quick": self.quick,
            "gpu": self.gpu,
            "blendsim": __version__,
            "sources": self.sources(),
        }

    def _path(self, name: str, inputs: dict[str, Any]) -> Path:
        text = json.dumps([name, inputs, self.fingerprint(*SHARED)], sort_keys=True)
        STORE.mkdir(parents=True, exist_ok=True)
        return STORE / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.csv"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds back other processes that want the same file, so that one makes it for all."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _code_hash() -> str:
    """Of every module that a simulated figure depends on, and of the kernel profiles."""
    package = REPOSITORY / "blendsim"
    code = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] != "cli"]
    whole = hashlib.sha256()
    for path in sorted(code):
        whole.update(f"{path.relative_to(REPOSITORY)} {_code(path)}".encode())
    for path in sorted((REPOSITORY / "profiles").rglob("*.csv")):
        whole.update(f"{path.relative_to(REPOSITORY)} {sha256(path)}".encode())
    return whole.hexdigest()


def _code(path: Path) -> str:
    """What a module does: its syntax tree without docstrings. Comments do not change a result."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


@cache
def _data_hash(data: Path | None) -> str:
    if data is None:
        return "generators"
    return " ".join(f"{p.name} {sha256(p)}" for p in sorted(data.iterdir()) if p.is_file())


@lru_cache(maxsize=2)
def _blended(made: Recipe, system: System, data: Path | None) -> Blend:
    return blend(made, system, data)


@cache
def _sources(data: Path | None, seed: int) -> tuple[tuple[str, str], ...]:
    return tuple((name, open_source(name, data, seed, 0).origin) for name in NAMES)
