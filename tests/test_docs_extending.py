"""The recipes of docs/extending.md and for a trace format, carried out as they stand: their blocks
are put into copies of the files that they name, and their commands are run with these.
"""

import csv
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXTENDING = REPOSITORY / "docs" / "extending.md"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

#: Runs the command line with the changed files in the place of the repository's. All others, the
#: compiled kernels' among them, are the repository's own: a whole copy would compile them anew.
START = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

root = Path(sys.argv.pop(1))

class Changed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        file = root.joinpath(*name.split(".")).with_suffix(".py")
        return spec_from_file_location(name, file) if file.exists() else None

sys.meta_path.insert(0, Changed)
from blendsim.__main__ import main
main()
"""


class Blocks:
    """The blocks of one section of a page, by language, to be used in their order."""

    def __init__(self, page: Path, heading: str) -> None:
        text = page.read_text()
        section = text[text.index(f"\n## {heading}\n") :][1:]
        found = BLOCK.findall(section.split("\n## ")[0])
        self._left = [(language, textwrap.dedent(body)) for _, language, body in found]

    def take(self, language: str) -> str:
        """The next block of that language."""
        at = next(k for k, (name, _) in enumerate(self._left) if name == language)
        return self._left.pop(at)[1]

    def commands(self) -> list[tuple[list[str], list[str]]]:
        """The next console block's commands, as arguments, each with the lines shown below it."""
        parts = re.split(r"^\$ ", self.take("console"), flags=re.MULTILINE)[1:]
        lines = [part.splitlines() for part in parts]
        return [(shlex.split(first), rest) for first, *rest in lines]


class Copy:
    """A repository of which only the changed files are copied."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, name: str) -> str:
        place = self.root / name
        return (place if place.exists() else REPOSITORY / name).read_text()

    def write(self, name: str, text: str) -> None:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def put(self, name: str, block: str, above: str | None = None) -> None:
        """The block above a line of the file, or at its end; its imports to the others."""
        text = self.text(name)
        imports = "".join(re.findall(r"^from .*\n", block, re.MULTILINE))
        rest = re.sub(r"^from .*\n", "", block, flags=re.MULTILINE).strip()
        at = text.index("\nfrom ") + 1
        text = text[:at] + imports + text[at:]
        if above is None:
            self.write(name, f"{text}\n\n{rest}\n")
        else:
            assert text.count(f"\n{above}\n") == 1
            self.write(name, text.replace(f"\n{above}\n", f"\n{rest}\n\n\n{above}\n"))

    def put_row(self, name: str, row: str, table: str) -> None:
        """The row at the end of the table that begins with the line `table`."""
        before, after = self.text(name).split(f"\n{table}\n")
        indent = re.match(" *", table)
        assert indent is not None
        end = re.search(rf"^{indent[0]}[)}}]", after, re.MULTILINE)
        assert end is not None
        kept = row.strip().rstrip(",")
        self.write(
            name, f"{before}\n{table}\n{after[: end.start()]}{kept},\n{after[end.start() :]}"
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """What a command of `blendsim` prints; its error where one is expected."""
        place = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", START, str(self.root), *arguments],
            env=place,
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def follow(self, blocks: Blocks) -> None:
        """Run the next console block's commands of ours; they print the lines that it shows."""
        for (program, *arguments), shown in blocks.commands():
            if program == "blendsim":
                is_error = any(line.startswith("error:") for line in shown)
                told = self.run(*arguments, code=2 if is_error else 0)
                for line in shown:
                    parts = [re.escape(part) for part in line.split("…")]
                    assert re.search(".*".join(parts), told), (line, told)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_policy(copy: Copy) -> None:
    blocks = Blocks(EXTENDING, "A policy")
    copy.put("blendsim/planner/orders.py", blocks.take("python"))
    copy.put("blendsim/planner/make.py", blocks.take("python"), above="_POLICIES = {")
    copy.put_row("blendsim/planner/make.py", blocks.take("python"), "_POLICIES = {")
    baselines = "BASELINES: tuple[Baseline, ...] = ("
    copy.put_row("blendsim/baselines.py", blocks.take("python"), baselines)
    copy.follow(blocks)


def test_engine(copy: Copy) -> None:
    blocks = Blocks(EXTENDING, "An engine")
    place, below = "blendsim/serving/flavour.py", "def engine_name(name: str) -> str:"
    copy.put(place, blocks.take("python"), above=below)
    copy.follow(blocks)


def double_times(source: Path, place: Path) -> None:
    """A table of kernel times, all of them doubled: what stands right of a row's first column."""
    with source.open() as text:
        head, *rows = csv.reader(text)
    with place.open("w", newline="") as text:
        doubled = [[at, *(us and repr(2 * float(us)) for us in times)] for at, *times in rows]
        csv.writer(text).writerows([head, *doubled])


def test_gpu_with_tables_made_by_hand(copy: Copy) -> None:
    blocks = Blocks(EXTENDING, "A GPU")
    copy.put_row("blendsim/specs.py", blocks.take("python"), "    for gpu in (")
    # Profiles are found beside the package, so that this file has to lie in the copy.
    copy.write("blendsim/perf/store.py", copy.text("blendsim/perf/store.py"))
    shape = "llama-3.1-8b/tp1"
    copy.write(f"profiles/a30/{shape}/meta.toml", blocks.take("toml"))
    for table in ("gemm.csv", "decode_attention.csv", "prefill_attention.csv"):
        source = REPOSITORY / "profiles" / "a100-80g" / shape / table
        double_times(source, copy.root / "profiles" / "a30" / shape / table)
    copy.follow(blocks)


def test_model_by_its_config_and_by_a_row(copy: Copy) -> None:
    blocks = Blocks(EXTENDING, "A model")
    commands = blocks.commands()
    assert commands[0][0] == ["cat", "my-model/config.json"]
    copy.write("my-model/config.json", "\n".join(commands[0][1]))
    copy.follow(Blocks(EXTENDING, "A model"))
    copy.put_row("blendsim/specs.py", blocks.take("python"), "    for model in (")
    copy.follow(blocks)


def test_trace_format(copy: Copy) -> None:
    blocks = Blocks(REPOSITORY / "docs" / "traces.md", "A new format")
    lengths = "blendsim/traces/lengths_csv.py"
    formats = "CSV_FORMATS = (AZURE, BURSTGPT, VIDUR, LENGTHS_CSV)"
    text = copy.text(lengths)
    (line,) = [line for line in text.splitlines() if line.startswith(formats)]
    copy.write(lengths, text.replace(line, blocks.take("python")))
    commands = blocks.commands()
    assert commands[0][0] == ["cat", "ours.csv"]
    copy.write("ours.csv", "\n".join(commands[0][1]) + "\n")
    copy.follow(Blocks(REPOSITORY / "docs" / "traces.md", "A new format"))


def test_search_parameter(copy: Copy) -> None:
    blocks = Blocks(EXTENDING, "A search parameter")
    gains = "_GAINS: dict[str, tuple[float, ...]] = {  # of pacing.Gains"
    copy.put_row("blendsim/search/space.py", blocks.take("python"), gains)
    copy.follow(blocks)
