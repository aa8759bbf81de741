"""Orders of one's own, as `--order FILE` gives them: which there are, and the rows of the pool that
they list.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from blendsim.errors import InputError
from blendsim.printable import printable

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.arrays import Ints
    from blendsim.cli.options import Asked
    from blendsim.cli.progress import Progress
    from blendsim.request import Workload
    from blendsim.traces.order_file import Listed


class Ordered(NamedTuple):
    """A pool, and orders of its rows by their names."""

    pool: "Workload"
    own: "dict[str, Ints]"


def read_orders(paths: Sequence[Path] | None) -> "dict[str, Listed]":
    """What the files list, by the files' names without endings; InputError for a name that two
    have, or a policy.
    """
    if not paths:
        return {}
    from blendsim.planner.own import require_name
    from blendsim.traces.order_file import read_listed

    named: dict[str, Path] = {}
    for path in paths:
        name = printable(Path(path.name.removesuffix(".gz")).stem)
        try:
            require_name(name)
        except InputError as error:
            raise InputError(f"--order {path}: {error}") from error
        if name in named:
            raise InputError(
                f"--order {path}: its row would be called {name!r}, as that of {named[name]}; "
                "rename one of the files"
            )
        named[name] = path
    return {name: read_listed(path) for name, path in named.items()}


def load_ordered(asked: "Asked", listed: "Mapping[str, Listed]", say: "Progress") -> Ordered:
    """The pool, and its rows as they are listed."""
    whole = asked.load_whole(say)
    pool = asked.kept(whole)
    if not listed:
        return Ordered(pool, {})
    from blendsim.traces.order_file import rows_of

    say("looking for the requests that --order lists")
    return Ordered(pool, {name: rows_of(each, whole, pool) for name, each in listed.items()})
