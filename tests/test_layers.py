"""Who may import whom: strictly down the floors, except inside a room. Type-only imports count."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

#: Floor of each room. A room is a package, or a set of modules that may import each other.
FLOORS = {
    "errors": 0,
    "arrays": 0,
    "batch": 0,
    "compiled": 0,
    "cores": 0,
    "ground": 1,
    "plan": 2,
    "perf": 2,
    "traces": 2,
    "serving": 3,
    "synth": 3,
    "report": 3,
    "planner": 4,
    "sim": 4,
    "blendrt": 4,
    "baselines": 5,
    "settings": 5,
    "blendrt.replay.asked": 6,  # above the rest of its package, which reads no settings
    "search": 6,
    "live": 7,
    "cli": 8,
    "__main__": 9,  # `python -m blendsim`
    "paper_repro": 8,
    "bench": 8,
    "figures": 9,  # draws the tables of paper_repro
}
GROUND = {
    "cutting",
    "fields",
    "files",
    "gpu_file",
    "pacing",
    "request",
    "specs",
    "system",
    "names",
    "model_spec",
    "model_config",
    "formats",
    "wording",
    "steplog",
    "soundness",
    "prefix",
    "topology",
}
ERRORS = {"errors", "printable"}
PACKAGES = {"blendsim", "blendrt", "paper_repro", "bench", "figures"}

#: Heavy or far-reaching libraries and the only rooms (or modules) that may import them.
HELD = {
    # The three scripts by themselves, beside the runtime: one makes a model's directory.
    "torch": {
        "blendrt",
        "bench.experiments",
        "bench.gpu_gemms",
        "bench.gpu_run",
        "bench.host_loop",
    },
    "flashinfer": {"blendrt"},
    "vllm": {"blendrt"},
    "triton": {"blendrt", "bench.experiments"},
    "simpy": {"sim"},
    "matplotlib": {"report.plots", "figures"},
    "numba": {"compiled"},
    "typer": {"cli"},
    "tokenizers": {"traces", "bench.gpu_run"},
    "jinja2": {"traces"},
    "aiconfigurator": {"perf"},
    "aiconfigurator_core": {"perf"},
}


class Import(NamedTuple):
    """One import statement: who (dotted module), whom, and the line."""

    importer: str
    imported: str
    line: int


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every Python module of the project under `root`, as (dotted name, path)."""
    for base, folder in (
        (root, "blendsim"),
        (root / "runtime", "blendrt"),
        (root, "paper_repro"),
        (root, "bench"),
        (root, "figures"),
    ):
        for path in sorted((base / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            yield ".".join(parts), path


def imports(name: str, path: Path) -> Iterator[Import]:
    """All imports of a module wherever they stand, `importlib.import_module("…")` included."""
    package = name.removesuffix(".__init__").split(".")
    if not name.endswith(".__init__"):
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(name, f"{target}.{alias.name}", node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            argument = node.args[0]
            if called.endswith(("import_module", "__import__")):
                assert isinstance(argument, ast.Constant), f"{path}: cannot see what it imports"
                yield Import(name, str(argument.value), node.lineno)


def room(dotted: str) -> str | None:
    """The room a dotted project name lies in; None for the bare package and for other libraries."""
    parts = dotted.split(".")
    if parts[0] not in PACKAGES:
        return None
    if parts[0] != "blendsim":
        apart = ".".join(parts[:3])
        return apart if apart in FLOORS else parts[0]
    if len(parts) == 1 or parts[1] in ("__init__", "__version__"):
        return None
    if parts[1] in ERRORS:
        return "errors"
    return "ground" if parts[1] in GROUND else parts[1]


def violations(root: Path) -> list[str]:
    """Every import that breaks the rules, one sentence each."""
    found = []
    for name, path in modules(root):
        here = room(name)
        for item in imports(name, path):
            where = f"{path.relative_to(root)}:{item.line}"
            top = item.imported.split(".")[0]
            if top in HELD and not _is_allowed(name, HELD[top]):
                found.append(f"{where}: {name} may not import {top}")
            there = room(item.imported)
            if here is None and there is not None:
                found.append(f"{where}: blendsim/__init__.py stands below all rooms")
            if here is None or there is None or here == there:
                continue
            if there not in FLOORS or here not in FLOORS:
                found.append(f"{where}: no floor is known for {here} or {there}")
            elif FLOORS[there] >= FLOORS[here]:
                found.append(f"{where}: {here} may not import {there} (not below it)")
    return found


def _is_allowed(name: str, rooms: set[str]) -> bool:
    inside = name.removeprefix("blendsim.")
    return any(inside == r or inside.startswith(f"{r}.") for r in rooms)


def test_imports_point_strictly_down() -> None:
    assert violations(REPOSITORY) == []


def test_all_rooms_of_the_package_have_a_floor() -> None:
    rooms = {room(name) for name, _ in modules(REPOSITORY)} - {None}
    assert rooms <= set(FLOORS)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for folder in ("blendsim/sim", "blendsim/planner", "blendsim/report", "runtime/blendrt"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


BROKEN = {
    "upwards": ("blendsim/plan.py", "from blendsim.search import choose"),
    "sideways": ("blendsim/sim/run.py", "from blendsim.planner.orders import dfs"),
    "sideways relative": ("blendsim/sim/run.py", "from ..planner import orders"),
    "type-only": (
        "blendsim/errors.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from blendsim.plan import Plan",
    ),
    "inside a function": ("blendsim/batch.py", "def f():\n    import blendsim.request"),
    "package attribute": ("blendsim/plan.py", "from blendsim import search"),
    "by name": ("blendsim/plan.py", "import importlib\nimportlib.import_module('blendsim.cli')"),
    "drivers": ("runtime/blendrt/engine.py", "from blendsim.sim import run"),
    "settings": ("runtime/blendrt/engine.py", "from blendsim.settings import Settings"),
    "a module above its package": (
        "runtime/blendrt/engine.py",
        "from blendrt.replay.asked import asked_job",
    ),
    "torch": ("blendsim/sim/run.py", "def f():\n    import torch.cuda"),
    "simpy": ("blendsim/planner/blend.py", "from simpy import Environment"),
    "matplotlib": ("blendsim/report/tables.py", "import matplotlib.pyplot as plt"),
    "the package itself": ("blendsim/__init__.py", "from blendsim.plan import Plan"),
    "a room without a floor": ("blendsim/attic.py", "from blendsim.errors import BlendsimError"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_checker_sees_a_violation(house: Path, kind: str) -> None:
    file, source = BROKEN[kind]
    (house / file).write_text(source)
    assert len(violations(house)) == 1, violations(house)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("blendsim/steplog.py", "from blendsim.files import replacing"),
        ("blendsim/sim/run.py", "import simpy\nfrom blendsim.sim.engine import Engine"),
        ("blendsim/report/plots.py", "import matplotlib.pyplot as plt"),
        ("blendsim/search.py", "from blendsim import __version__, planner"),
        ("runtime/blendrt/engine.py", "import torch\nfrom blendsim.serving import kv"),
    ],
)
def test_the_checker_lets_good_imports_pass(house: Path, file: str, source: str) -> None:
    (house / file).write_text(source)
    assert violations(house) == []
