"""Traces: files and built-in sources become one columnar Workload.

`load` and `load_pool` are the door. Behind it stand one small reader a format, the seeded `demo:`
generators, and the catalog of public traces that `fetch` downloads.
"""

from blendsim.traces.catalog import CATALOG, fetch
from blendsim.traces.limits import oversize, without_oversize
from blendsim.traces.load import FORMATS, load, load_pool
from blendsim.traces.seam import ReadOptions
from blendsim.traces.workload_file import read_workload, write_workload

__all__ = [
    "CATALOG",
    "FORMATS",
    "ReadOptions",
    "fetch",
    "load",
    "load_pool",
    "oversize",
    "read_workload",
    "without_oversize",
    "write_workload",
]
