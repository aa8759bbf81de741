"""What a measurement's code does, as text to hash: syntax trees without docstrings and comments,
and of a claim module only what its `measure` and its parts reach. So a verdict may be reworded
without measuring again.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOM = Path(__file__).parent
MEASURES = ("measure", "parts", "part")  # where measuring starts


def whole(path: Path) -> str:
    """A module's code."""
    return ast.dump(_bare(path))


def reached(path: Path) -> str:
    """What of a claim module measuring reaches, and the modules of this room that this imports
    from, whole.
    """
    tree = _bare(path)
    parts = {name: node for node in tree.body for name in _defined(node)}
    found: dict[str, ast.stmt] = {}
    waiting = [*MEASURES]
    while waiting:
        name = waiting.pop()
        if name in found or name not in parts:
            continue
        found[name] = parts[name]
        nodes = ast.walk(parts[name])
        waiting += [node.id for node in nodes if isinstance(node, ast.Name)]
    kept = sorted({ast.dump(node) for node in found.values()})
    rooms = {
        str(node.module).partition(".")[2]
        for node in found.values()
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{ROOM.name}.")
    }
    return "\n".join([*kept, *(whole(ROOM / f"{room}.py") for room in sorted(rooms))])


def imported(roots: Iterable[Path], package: Path) -> set[Path]:
    """Files of the package that the roots import, wherever in their code, and what those do: all
    that can run when they run.
    """
    found: set[Path] = set()
    waiting = [file for root in roots for file in _imports(root, package)]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file, package)
    return found


def _imports(file: Path, package: Path) -> list[Path]:
    """The package's files that one file's import statements name, and their packages' own."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = []
    for name in names:
        parts = name.split(".")
        if parts[0] != package.name:
            continue
        for end in range(1, len(parts) + 1):
            place = package.parent.joinpath(*parts[:end])
            files += [place.with_suffix(".py"), place / "__init__.py"]
    return [file for file in files if file.is_file()]


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module's top level gives something to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    targets = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    return [name.id for name in targets if isinstance(name.ctx, ast.Store)]


def _bare(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1:] if has_docstring else node.body
    return tree
