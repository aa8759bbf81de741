"""`python -m figures RESULTS OUT NAME …`: draw the figures of these modules from their tables.

A module `figures.fig07` has `draw(tables, out)`; modules of paper_repro without a figure are passed
over.
"""

import pkgutil
import sys
from pathlib import Path

from paper_repro.table import read_facts, read_table, tables_of


def main() -> int:
    """Draw all that are asked for and give the exit status."""
    results, out, *names = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    for name in names:
        if not Path(__file__).with_name(f"{name}.py").exists():
            continue
        paths = tables_of(name, Path(results))
        tables = {read_facts(path)["table"]: read_table(path) for path in paths}
        pkgutil.resolve_name(f"figures.{name}").draw(tables, Path(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
