"""What all tests share: Hypothesis without deadlines (compiled code is slow the first time) and
without surprises from one run to the next; and fixtures that several files use.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("blendsim", deadline=None, derandomize=True)
settings.load_profile("blendsim")


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> int:
    """Every serving kernel replaced by its plain-Python function; gives how many there are."""
    from plain_kernels import plain_twins

    return plain_twins(monkeypatch)


@pytest.fixture(scope="module")
def plain_throughout() -> Iterator[None]:
    """The same for all tests of a file. Compiled kernels are compared to them elsewhere."""
    from plain_kernels import plain_twins

    with pytest.MonkeyPatch.context() as patch:
        assert plain_twins(patch) > 0
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Operators as small as tests' are slower on several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
