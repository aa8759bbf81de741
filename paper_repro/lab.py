"""The laboratory: where measurements get their pools and systems from, and keep what costs minutes.

A `Lab` is the few things a whole run has in common. Parts of measurements and the pools that many
of them take are kept under build/paper_repro/ by a fingerprint of all code and data they depend on.
"""

import fcntl
import hashlib
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from blendsim import __version__, search
from blendsim.files import replacing, sha256
from blendsim.perf.measured import IMPORTED
from blendsim.request import Workload
from blendsim.settings import Settings
from blendsim.synth.blend import blend
from blendsim.synth.recipes import Recipe, recipe
from blendsim.synth.sources import NAMES, open_source
from blendsim.system import System
from paper_repro.code import imported, whole
from paper_repro.table import Table, read_facts, read_table, write_table

REPOSITORY = Path(__file__).resolve().parents[1]
STORE = REPOSITORY / "build" / "paper_repro"
POOLS = STORE / "pools"
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
        """Settings on this lab's GPU and seed, by kernels from one package on all GPUs."""
        return Settings(gpu=self.gpu, seed=self.seed, profile=IMPORTED, **changes)

    def pool(
        self,
        wanted: str | Recipe,
        requests: int | None = None,
        system: System | None = None,
    ) -> Workload:
        """A blended pool: a recipe or the name of one (trace1 … trace4), its density that of
        `system` (None: the paper's, Llama-3.1-8B on an A100).

        `requests` None means the recipe's own number, or QUICK_REQUESTS of a name in a quick run.
        A named recipe's pool is kept on disk: many measurements take it.
        """
        is_named = isinstance(wanted, str)
        made = recipe(wanted) if isinstance(wanted, str) else wanted
        if requests is None and is_named and self.quick:
            requests = QUICK_REQUESTS
        made = replace(made, seed=self.seed, requests=requests or made.requests)
        place = _pools(self.data) if is_named else None
        return _blended(made, system or Settings().system, self.data, place)

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

    def kept(self, name: str, of: Sequence[Any], code: str) -> "Kept":
        """Where the table `name` of these inputs is kept, which `code` measures."""
        text = json.dumps([name, of, self.fingerprint(code)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Kept(STORE / f"{name}-{digest}.csv", {"module": name, "of": list(of)})

    def fingerprint(self, *code: str) -> str:
        """Hash of the simulator, its profiles, the traces, this lab's settings, what all
        measurements go through, and of `code`.
        """
        parts = [json.dumps([self.quick, self.seed, self.gpu]), _code_hash(), _data_hash(self.data)]
        parts += [*map(whole, SHARED), *code]
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


class Kept(NamedTuple):
    """A table that is measured once by whoever asks first."""

    path: Path
    facts: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """How long it took to measure; None if it is not there."""
        return read_facts(self.path)["seconds"] if self.path.exists() else None

    def table(self, measure: Callable[[], Table]) -> Table:
        """What `measure` gives, or gave before."""
        with _alone(self.path):
            if not self.path.exists():
                start = time.perf_counter()
                found = measure()
                took = round(time.perf_counter() - start, 2)
                write_table(found, self.path, {**self.facts, "seconds": took})
            return read_table(self.path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds back other processes that want the same file, so that one makes it for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _code_hash() -> str:
    """Of every module that can run in a measurement, and of the profiles and their calibrations."""
    roots = (REPOSITORY / "paper_repro").glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(imported(roots, REPOSITORY / "blendsim")):
        digest.update(f"{path.relative_to(REPOSITORY)} {whole(path)}".encode())
    profiles = REPOSITORY / "profiles"
    for path in sorted((*profiles.rglob("*.csv"), *profiles.rglob("*.toml"))):
        digest.update(f"{path.relative_to(REPOSITORY)} {sha256(path)}".encode())
    return digest.hexdigest()


@cache
def _data_hash(data: Path | None) -> str:
    if data is None:
        return "generators"
    return " ".join(f"{p.name} {sha256(p)}" for p in sorted(data.iterdir()) if p.is_file())


@cache
def _pools(data: Path | None) -> Path:
    """Where pools of this code and data are kept."""
    digest = hashlib.sha256(f"{_code_hash()} {_data_hash(data)}".encode()).hexdigest()[:16]
    return POOLS / digest


@lru_cache(maxsize=2)
def _blended(made: Recipe, system: System, data: Path | None, place: Path | None) -> Workload:
    """The recipe's pool, read from the directory `place` if it is there and left there if not."""
    if place is None:
        return blend(made, system, data).workload
    digest = hashlib.sha256(repr((made, system)).encode()).hexdigest()[:16]
    path = place / f"{digest}.pickle"
    with _alone(path):
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(pickle.dumps(blend(made, system, data).workload, protocol=5))
    found = pickle.loads(path.read_bytes())
    assert isinstance(found, Workload), f"{path} holds a workload"
    return found


@cache
def _sources(data: Path | None, seed: int) -> tuple[tuple[str, str], ...]:
    return tuple((name, open_source(name, data, seed, 0).origin) for name in NAMES)
