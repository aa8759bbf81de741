"""Text to token ids: by a model's tokenizer, or byte by byte where none is given."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from blendsim.errors import InputError, Unavailable

TOKENS = "tokens:"  # how spaces of a model's tokens begin
GIVEN = "tokens:given"  # the space of ids that a file gives, where no tokenizer is named
BYTES = "bytes"  # the space of texts as bytes
_CHUNK = 4096  # texts encoded at a time, to bound what the tokenizer's objects hold


class Tokens(NamedTuple):
    """Token ids of some texts, and the space in which equal ids mean equal text."""

    lists: list[NDArray[np.int32]]
    space: str
    is_model: bool


class Encoder(Protocol):
    """Makes tokens of texts."""

    @property
    def note(self) -> str:
        """What a reader of the workload must know about these tokens."""
        ...

    def encode(self, texts: Sequence[str], has_special: bool = False) -> Tokens:
        """Token ids of each text, which may have its special tokens in it already."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """One UTF-8 byte is one token: needs nothing, and says that it counts too many."""

    note: str = (
        "no --tokenizer given, so one byte counts as one token: prompts come out about 4 times "
        "too long, which prefixes are shared is right"
    )

    def encode(self, texts: Sequence[str], has_special: bool = False) -> Tokens:
        """The bytes of each text; bytes have no special ones."""
        lists = [
            np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)
            for text in texts
        ]
        return Tokens(lists, BYTES, is_model=False)


@dataclass(frozen=True, slots=True)
class Model:
    """A `tokenizer.json` read by the `tokenizers` library."""

    tokenizer: Any
    space: str
    note: str = ""

    def encode(self, texts: Sequence[str], has_special: bool = False) -> Tokens:
        """The tokenizer's ids of each text, with those it puts around a single sequence unless the
        text has them.
        """
        lists: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = [_without_surrogates(text) for text in texts[start : start + _CHUNK]]
            encoded = self.tokenizer.encode_batch(chunk, add_special_tokens=not has_special)
            lists += [np.array(e.ids, np.int32) for e in encoded]
        return Tokens(lists, self.space, is_model=True)

    def text(self, ids: Sequence[int]) -> str:
        """What token ids say, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def encoder(path: str | None) -> Encoder:
    """The encoder for `--tokenizer PATH`, or bytes without one."""
    return Bytes() if path is None else model_tokens(path)


def model_tokens(path: str) -> Model:
    """The tokenizer at `path`, a tokenizer.json or a directory with one."""
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; --tokenizer takes a tokenizer.json or a directory with one"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise Unavailable(
            "--tokenizer needs the tokenizers package: pip install 'blendsim[tokenizers]'"
        ) from error
    data = file.read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except ValueError as error:
        raise InputError(
            f"{file}: not a tokenizer.json ({error}); give the one beside the model's weights"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Model(tokenizer, f"{TOKENS}{hashlib.sha256(data).hexdigest()[:16]}")


def _without_surrogates(text: str) -> str:
    """JSON can hold half a surrogate pair, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def made_otherwise(spaces: Sequence[str], tokenizer: str) -> str | None:
    """What texts of these spaces were made into, where that is not tokens of `tokenizer`."""
    made = {name for name in spaces if name == BYTES or name.startswith(TOKENS)} - {GIVEN}
    if not made or made == {model_tokens(tokenizer).space}:
        return None
    return "bytes" if BYTES in made else "another tokenizer's tokens"
