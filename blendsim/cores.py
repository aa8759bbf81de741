"""Work on all cores at once, in threads: compiled code runs outside the interpreter's lock."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_mine = threading.local()  # `cores`: how many the work of this thread may take


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset may make fewer than there
    are.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_all_cores(call: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    """What `call` gives for each item, in order. Inside a call that another one of these runs, on
    its share of the cores: one after another where that has a thread for every core, so that there
    are never more threads, each with its run's memory, than cores.
    """
    work = list(items)
    cores: int = getattr(_mine, "cores", None) or usable_cores()
    workers = min(cores, len(work))
    if workers <= 1:
        return [call(item) for item in work]

    def begin() -> None:
        _mine.cores = cores // workers

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        return list(pool.map(call, work))
