"""The serving core without compiled kernels: each replaced by its plain-Python function."""

import pkgutil
from importlib import import_module

import pytest

from blendsim import serving

#: Stay compiled, in their own module and where they are used: slow otherwise, with tests of their
#: own.
_PRICES = "blendsim.serving.price"


def plain_twins(patch: pytest.MonkeyPatch) -> int:
    """Replace every serving kernel but prices, wherever the core uses it; returns how many.

    All modules, since one that kept a kernel would have it compiled when it is first called, and
    that fails where what the kernel calls is replaced.
    """
    names = {f"{serving.__name__}.{found.name}" for found in pkgutil.iter_modules(serving.__path__)}
    names.remove(_PRICES)
    count = 0
    for module in map(import_module, sorted(names)):
        for name, value in list(vars(module).items()):
            if hasattr(value, "py_func") and value.py_func.__module__ in names:
                patch.setattr(module, name, value.py_func)
                count += 1
    return count
