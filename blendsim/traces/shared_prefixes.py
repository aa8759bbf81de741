"""Prompts of which only the lengths are known, and which prefix each begins with: the columns
`prefix_id` and `prefix_tokens`.

Rows with the same prefix_id share their first prefix_tokens tokens, and nothing else. A prompt then
lists one unit, its prefix, that stands for all of these tokens. A unit has one size in a space, so
prefixes of one length are a space: exact, and four bytes a row.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError
from blendsim.request import Prompts
from blendsim.traces.counts import are_wrong, compact, fault, is_missing, shown
from blendsim.traces.jsonl import line_of
from blendsim.traces.length_names import Extras
from blendsim.traces.seam import source_name


class Prefixes(NamedTuple):
    """The prefixes of n rows."""

    codes: Ints  # (n,), equal where the prefix is the same, −1 where there is none
    tokens: Floats  # (n,), its length; NaN where the file says none

    def are_wrong(self, prompt: Floats, out: Bools) -> Bools:
        """Which rows, but for those in `out`, break a rule that `Rules` has words for."""
        tokens = np.nan_to_num(self.tokens, nan=0.0)
        are_given = self.codes >= 0
        wrong = are_wrong(tokens, least=0) | (are_given & np.isnan(self.tokens))
        wrong |= (tokens > prompt) | (~are_given & (tokens > 0))
        counted = are_given & ~out
        of_prefix = np.zeros(int(self.codes.max(initial=0)) + 1)
        of_prefix[self.codes[counted]] = tokens[counted]  # of any row: all must have the same
        wrong[counted] |= of_prefix[self.codes[counted]] != tokens[counted]
        return wrong & ~out

    def prompts(self, path: Path, digest: str, out: Bools) -> Prompts:
        """The prompts of a file with this digest, once no row is wrong; rows in `out` share
        nothing.
        """
        tokens = np.where(out, 0, np.nan_to_num(self.tokens, nan=0.0)).astype(np.int64)
        shares = tokens > 0
        if not shares.any():
            return Prompts.unshared(len(tokens))
        lengths, of_length = np.unique(tokens[shares], return_inverse=True)
        space = np.zeros(len(tokens), np.int32)
        space[shares] = of_length
        name = f"prefixes:{source_name(path)}:{digest}"
        return Prompts(
            offsets=np.concatenate(([0], np.cumsum(shares))).astype(np.int64),
            units=compact(self.codes[shares]),
            space=space,
            unit_tokens=lengths.astype(np.int32),
            space_names=tuple(f"{name}:{length}" for length in lengths.tolist()),
        )


def from_columns(names: pa.ChunkedArray, tokens: Floats) -> Prefixes:
    """The prefixes of rows with these texts as prefix_id; an empty one is none."""
    trimmed = pc.utf8_trim_whitespace(names.cast(pa.large_string()))
    encoded = trimmed.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if "" in words:
        codes[codes == words.index("")] = -1
    return Prefixes(codes, tokens)


class Rules:
    """The rules of the two columns, row by row, for saying which row breaks one."""

    def __init__(self, extras: Extras) -> None:
        self.extras = extras
        self._seen: dict[str, tuple[float, str]] = {}  # tokens of a prefix, and the row's place

    def fault(self, name: str, tokens: object, prompt: float, where: str) -> str | None:
        """What is wrong with a row, beginning with `where`, or None. `prompt` is its length."""
        place = f"{where}, column {self.extras.prefix_tokens!r}"
        place += "" if tokens is None else f": {shown(tokens)}"
        lacks_tokens = tokens is None or is_missing(str(tokens))
        if not name and lacks_tokens:
            return None
        reason = fault(tokens, "prefix")
        if reason is not None:
            return f"{place} {reason}"
        number = float(str(tokens))
        if not name:
            why = f"is given without {self.extras.prefix_id!r}: give both or neither"
            return f"{place} {why}" if number else None
        if number > prompt:
            return f"{place} is more than the prompt's {prompt:.0f} tokens: mend one of them"
        before, row = self._seen.setdefault(name, (number, line_of(where)))
        if before != number:
            return (
                f"{place} is not the {before:.0f} of prefix {shown(name)} in line {row}: rows of "
                "one prefix share the same number of tokens"
            )
        return None


def require_pair(given: Collection[str], extras: Extras, where: str) -> None:
    """InputError beginning with `where` if one of the two columns is there without the other."""
    pair = (extras.prefix_id, extras.prefix_tokens)
    there = [name for name in pair if name in given]
    if len(there) == 1:
        lacks = next(name for name in pair if name not in given)
        raise InputError(
            f"{where}: column {there[0]!r} is there without {lacks!r}; give both or neither"
        )
