"""What executes steps, and the libraries that it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from blendsim.errors import InputError, Unavailable

#: Libraries that the extra `runtime` brings.
_LIBRARIES = frozenset({"torch", "safetensors", "tokenizers", "jinja2"})


class Engine(StrEnum):
    """What executes the steps."""

    BLENDRT = "blendrt"
    VLLM = "vllm"


def require_vllm_if_plain(engine: Engine, is_plain: bool) -> None:
    """InputError for --plain with an engine whose only scheduler is the plan's."""
    if is_plain and engine is not Engine.VLLM:
        raise InputError(f"--plain is for --engine vllm, not {engine.value}; drop it")


@contextmanager
def libraries(command: str) -> Iterator[None]:
    """Unavailable for a library that is not installed, and the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        raise Unavailable(
            f"blendsim {command} needs {error.name}: pip install 'blendsim[runtime]'"
        ) from error
