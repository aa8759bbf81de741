"""Text that any stream, page or JSON reader takes: a file's name need not be Unicode, and neither
need what JSON holds.
"""

import re
from collections.abc import Sequence

_HALVES = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with escapes for what is no Unicode: `\\xff` for a byte of a file's name that is not
    UTF-8, `\\ud800` for half a pair of surrogates.
    """
    return _HALVES.sub(_escape, text)


def short(value: object) -> str:
    """A value on one line, and no long one."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def listed(names: Sequence[str], most: int) -> str:
    """The first of some names and how many more there are, for an error's one line."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "") or "none"


def json_escapes(text: str) -> str:
    """JSON text with the same as JSON's own escapes: Python's `json.loads` makes the name of them
    that `open` takes.
    """
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _escape(half: re.Match[str]) -> str:
    code = ord(half[0])
    # NOTE: Python holds byte b of such a name, from 0x80 on, as the half 0xdc00 + b.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
