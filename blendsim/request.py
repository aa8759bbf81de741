"""Workload: a pool of requests as columns. Row i of every column is request i; 400 k rows are
usual.

Prompts are kept as far as they may be shared: `Prompts.units` holds token ids or block hashes, and
prompt tokens beyond the listed units belong to that request alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError

MOST_TOKENS = 10_000_000  # no model's context comes near; more is a unit mistake or damage


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Shareable prompt content of n requests, in CSR form.

    Request i lists `units[offsets[i]:offsets[i + 1]]`; each unit stands for `unit_tokens[space[i]]`
    tokens (1 for token ids, 16 for Bailian's blocks, 512 for Mooncake's); the last may be partly
    filled. Two requests can share only inside one space (one tokenizer, one hash function).
    `common_tokens` of two requests of a space is min(common units × unit_tokens, both prompt
    lengths). Columns may be given as lists; InputError for what cannot be.
    """

    offsets: Ints  # (n + 1,)
    units: NDArray[Any]  # int32 or int64, (offsets[n],)
    space: NDArray[np.int32]  # (n,)
    unit_tokens: NDArray[np.int32]  # (spaces,)
    space_names: tuple[str, ...]  # (spaces,); equal names are one space when workloads are pooled

    def __post_init__(self) -> None:
        for name, kind in _PROMPT_COLUMNS.items():
            given = getattr(self, name)
            column = _whole_column(given, kind, f"Prompts: {name}")
            if column is not given:
                object.__setattr__(self, name, column)
        for is_right, what in (
            (len(self.offsets) == len(self.space) + 1, "offsets must be one more than space"),
            (self.offsets[:1].sum() == 0, "offsets must begin with 0"),
            (bool((self.offsets[1:] >= self.offsets[:-1]).all()), "offsets must not fall"),
            (
                self.offsets[-1:].sum() == len(self.units),
                "the last of offsets must be the number of units",
            ),
            (
                len(self.unit_tokens) == len(self.space_names),
                "unit_tokens and space_names must be one of each a space",
            ),
            (bool((self.unit_tokens >= 1).all()), "unit_tokens must be at least 1"),
            (
                not len(self.space)
                or (self.space.min() >= 0 and self.space.max() < len(self.space_names)),
                "space must be rows of space_names, from 0",
            ),
        ):
            if not is_right:
                raise InputError(f"Prompts: {what}; mend it")

    @classmethod
    def unshared(cls, n: int) -> "Prompts":
        """Prompts of n requests whose content is not known: nothing is shared."""
        return cls(
            np.zeros(n + 1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(n, np.int32),
            np.ones(1, np.int32),
            ("unknown",),
        )


#: Columns of Prompts and their types; units are of either whole kind.
_PROMPT_COLUMNS: dict[str, type[np.signedinteger[Any]] | None] = {
    "offsets": np.int64,
    "units": None,
    "space": np.int32,
    "unit_tokens": np.int32,
}


def _whole_column(
    given: object, kind: type[np.signedinteger[Any]] | None, where: str
) -> NDArray[Any]:
    """`given` as a column of that whole kind (None: int32 if it is that, else int64), itself if it
    is one; InputError that begins with `where` for what is none.
    """
    try:
        column = np.asarray(given)
    except (ValueError, OverflowError):  # rows of several lengths
        column = np.zeros((0, 0))
    if not column.size and column.ndim == 1:
        column = column.astype(kind or np.int32, copy=False)  # an empty list is one of floats
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise InputError(
            f"{where}: is not whole numbers in one line but {column.dtype} of shape "
            f"{column.shape}; give those"
        )
    wanted = kind or (np.int32 if column.dtype == np.int32 else np.int64)
    if column.dtype == wanted:
        return column
    limits = np.iinfo(wanted)
    if column.size and not (limits.min <= int(column.min()) and int(column.max()) <= limits.max):
        raise InputError(f"{where}: has numbers beyond {limits.bits} bits; give smaller ones")
    return column.astype(wanted)


#: Of a Workload, a row a request.
_COLUMNS = (
    "ids",
    "prompt_len",
    "output_len",
    "has_output",
    "output_limit",
    "is_known",
    "arrival",
    "source",
)


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """n requests in columns; lengths in tokens, arrival in seconds.

    `output_len` is the true length where `has_output`, else 0. Planning may read it only for rows
    that are sampled or `is_known` (the length follows from the request's parameters, as in video
    generation).
    """

    ids: NDArray[np.str_]  # (n,), unique
    prompt_len: Ints  # (n,), ≥ 1
    output_len: Ints  # (n,), ≥ 1 where has_output, else 0
    has_output: Bools  # (n,)
    output_limit: Ints  # (n,), the request's max_tokens; 0 = none given
    is_known: Bools  # (n,), implies has_output
    arrival: Floats  # (n,), seconds from the first request
    source: NDArray[np.int32]  # (n,), index into source_names
    source_names: tuple[str, ...]
    prompts: Prompts
    origin: tuple[str, ...] = ()  # the files or names it was read from, in order
    notes: tuple[str, ...] = ()  # what reading changed or guessed, one sentence each
    #: Of the same sources, in no pool any more: planning may read their lengths, and nothing else.
    answered: "Workload | None" = None

    def __len__(self) -> int:
        return len(self.prompt_len)

    def check(self) -> None:
        """Assert the invariants of the columns; readers have already refused what a user can get
        wrong.
        """
        n = len(self)
        for name in _COLUMNS:
            assert len(getattr(self, name)) == n, (
                f"{name} has {len(getattr(self, name))} rows, expected {n}"
            )
        assert len(self.prompts.space) == n, "prompts cover all requests"
        assert bool((self.prompt_len >= 1).all()), "prompts have at least one token"
        assert bool((self.output_len[self.has_output] >= 1).all()), (
            "given outputs have at least one token"
        )
        assert bool((self.output_len[~self.has_output] == 0).all()), (
            "an output that is not given is 0"
        )
        assert not bool((self.is_known & ~self.has_output).any()), "a known length is given"
        units = np.diff(self.prompts.offsets)
        listed = units * self.prompts.unit_tokens[self.prompts.space]
        slack = self.prompts.unit_tokens[self.prompts.space] - 1
        assert bool((listed <= self.prompt_len + slack).all()), (
            "no more units than the prompt holds"
        )
        if self.answered is not None:
            self.answered.check()
            assert bool(self.answered.has_output.all()), "an answer has a length"
            assert self.answered.answered is None, "who is answered stands in one place"
            assert self.answered.source_names == self.source_names, "sources are the pool's"


def token_counts(values: object, where: str) -> Ints:
    """`values` as the numbers of tokens that prompts or answers have, one a request; InputError
    that begins with `where` for what is none.
    """
    try:
        given = np.asarray(values)
    except ValueError:  # rows of several lengths
        given = np.zeros((0, 0))
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: numbers of tokens are whole ones in one line, not {given.dtype} of shape "
            f"{given.shape}; give one a request"
        )
    fine = (given >= 1) & (given <= MOST_TOKENS)
    if given.dtype.kind == "f":
        fine &= given == np.floor(given)
    if not fine.all():
        row = int(np.argmin(fine))
        raise InputError(f"{where}[{row}] is {given[row]}; {_why_no_count(float(given[row]))}")
    return given.astype(np.int64, copy=False)


def _why_no_count(value: float) -> str:
    if value < 1:
        return "a prompt and an answer have at least 1 token each: give more, or no such request"
    if value > MOST_TOKENS:
        return f"no request has more than {MOST_TOKENS:,} tokens; check the unit"
    return "numbers of tokens are whole; round it, or leave the request out"


def from_lengths(
    prompt_len: Sequence[int] | Ints,
    output_len: Sequence[int] | Ints,
    *,
    source: str = "lengths",
    prompts: Prompts | None = None,
    arrival: Sequence[float] | Floats | None = None,
    is_known: bool = False,
    ids: Sequence[str] | NDArray[np.str_] | None = None,
    origin: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Workload:
    """A one-source workload with all output lengths given. Ids default to the row number.
    InputError for what cannot be.
    """
    prompt_len = token_counts(prompt_len, "from_lengths: prompt_len")
    output_len = token_counts(output_len, "from_lengths: output_len")
    n = len(prompt_len)
    # NOTE: what a file holds is its reader's to refuse: of a batch file no line may be left.
    if not n and not origin:
        raise InputError("from_lengths: there is no request; give the lengths of at least one")
    if len(output_len) != n:
        raise InputError(
            f"from_lengths: {n:,} prompt_len and {len(output_len):,} output_len; give one of each "
            "a request"
        )
    if prompts is not None:
        _require_fit(prompts, prompt_len)
    names = np.arange(n).astype(np.str_) if ids is None else _ids(ids, n)
    # NOTE: a reader has refused them already, with their lines.
    if ids is not None and not origin and len(set(names.tolist())) < n:
        kinds, times = np.unique(names, return_counts=True)
        raise InputError(
            f"from_lengths: ids: {str(kinds[times > 1][0])!r:.40} is given twice; give each once"
        )
    workload = Workload(
        ids=names,
        prompt_len=prompt_len,
        output_len=output_len,
        has_output=np.ones(n, np.bool_),
        output_limit=np.zeros(n, np.int64),
        is_known=np.full(n, is_known),
        arrival=np.zeros(n) if arrival is None else _seconds(arrival, n),
        source=np.zeros(n, np.int32),
        source_names=(source,),
        prompts=Prompts.unshared(n) if prompts is None else prompts,
        origin=origin,
        notes=notes,
    )
    workload.check()
    return workload


def _require_fit(prompts: Prompts, prompt_len: Ints) -> None:
    """InputError unless the prompts are of as many requests, and list what these have room for."""
    if not isinstance(prompts, Prompts):
        raise InputError(
            f"from_lengths: prompts are {type(prompts).__name__}, not blendsim.request.Prompts; "
            "give those"
        )
    n = len(prompts.space)
    if n != len(prompt_len):
        raise InputError(
            f"from_lengths: prompts of {n:,} requests and {len(prompt_len):,} prompt_len; give "
            "one of each a request"
        )
    tokens = prompts.unit_tokens[prompts.space]
    units = np.diff(prompts.offsets)
    is_over = units * tokens >= prompt_len + tokens  # the last unit may be partly filled
    if is_over.any():
        row = int(np.argmax(is_over))
        raise InputError(
            f"from_lengths: prompts: row {row} lists {units[row]:,} units of {tokens[row]:,} "
            f"tokens, more units than its prompt_len of {prompt_len[row]:,} holds; mend one"
        )


def _ids(given: object, n: int) -> NDArray[np.str_]:
    """n names as a column."""
    try:
        names = np.asarray(given, np.str_)
    except ValueError:  # rows of several lengths
        names = np.zeros((0, 0), np.str_)
    if names.shape != (n,):
        raise InputError(
            f"from_lengths: ids of shape {names.shape} and {n:,} requests; give one a request"
        )
    return names


def _seconds(given: object, n: int) -> Floats:
    """n times as a column."""
    try:
        times = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        times = np.full(0, np.nan)
    if times.shape != (n,) or not np.isfinite(times).all():
        raise InputError(f"from_lengths: arrival is not {n:,} numbers; give seconds, one a request")
    return times


def select(workload: Workload, rows: NDArray[Any]) -> Workload:
    """The requests `rows` (indices or a mask), in that order."""
    index = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, np.int64)
    prompts = workload.prompts
    counts = np.diff(prompts.offsets)[index]
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    gather = np.repeat(prompts.offsets[index] - offsets[:-1], counts) + np.arange(offsets[-1])
    chosen = replace(
        prompts, offsets=offsets, units=prompts.units[gather], space=prompts.space[index]
    )
    return replace(
        workload, prompts=chosen, **{name: getattr(workload, name)[index] for name in _COLUMNS}
    )


def set_apart(workload: Workload, is_answered: Bools) -> Workload:
    """`workload` without the requests in the mask, whose lengths planning may read all the same."""
    assert workload.answered is None, "some are answered already"
    if not is_answered.any():
        return workload
    answered = replace(select(workload, is_answered), notes=())
    return replace(select(workload, ~is_answered), answered=answered)


def joined(workload: Workload) -> Workload:
    """The requests of `workload` and, behind them, those that are answered."""
    answered = workload.answered
    if answered is None:
        return workload
    one, other = workload.prompts, answered.prompts
    prompts = replace(
        one,
        offsets=np.concatenate((one.offsets, other.offsets[1:] + one.offsets[-1])),
        units=np.concatenate((one.units, other.units)),
        space=np.concatenate((one.space, other.space)),
    )
    columns: dict[str, Any] = {
        name: np.concatenate((getattr(workload, name), getattr(answered, name)))
        for name in _COLUMNS
    }
    return replace(workload, prompts=prompts, answered=None, **columns)


def without_prompts(workload: Workload) -> Workload:
    """The same requests for who looks at their lengths alone: content takes most of the room."""
    answered = workload.answered
    return replace(
        workload,
        prompts=Prompts.unshared(len(workload)),
        answered=None if answered is None else without_prompts(answered),
    )


def pool(workloads: Sequence[Workload]) -> Workload:
    """Several workloads as one. Ids become `source/id`, and a repeated source name gets `#2`, `#3`,
    …
    """
    assert workloads, "a pool needs at least one workload"
    if len(workloads) == 1:
        return workloads[0]
    if any(workload.answered is not None for workload in workloads):
        wholes = [joined(workload) for workload in workloads]
        masks = [
            np.arange(len(whole)) >= len(w) for whole, w in zip(wholes, workloads, strict=True)
        ]
        return set_apart(pool(wholes), np.concatenate(masks))
    names: list[str] = []
    spaces: dict[tuple[str, int], int] = {}
    sources, ids, space_codes = [], [], []
    for workload in workloads:
        base = len(names)
        for name in workload.source_names:
            names.append(_unused(name, names))
        sources.append(workload.source + np.int32(base))
        labels = np.array(names[base:], np.str_)[workload.source]
        ids.append(np.char.add(np.char.add(labels, "/"), workload.ids))
        keys = zip(workload.prompts.space_names, workload.prompts.unit_tokens.tolist(), strict=True)
        codes = np.array([spaces.setdefault(key, len(spaces)) for key in keys], np.int32)
        space_codes.append(codes[workload.prompts.space])
    wide = np.result_type(*(w.prompts.units.dtype for w in workloads))
    ends = np.cumsum([0] + [len(w.prompts.units) for w in workloads])
    prompts = Prompts(
        offsets=np.concatenate(
            [np.zeros(1, np.int64)]
            + [w.prompts.offsets[1:] + end for w, end in zip(workloads, ends[:-1], strict=True)]
        ),
        units=np.concatenate([w.prompts.units.astype(wide, copy=False) for w in workloads]),
        space=np.concatenate(space_codes),
        unit_tokens=np.array([tokens for _, tokens in spaces], np.int32),
        space_names=tuple(name for name, _ in spaces),
    )
    columns = ("prompt_len", "output_len", "has_output", "output_limit", "is_known", "arrival")
    pooled = Workload(
        ids=np.concatenate(ids),
        source=np.concatenate(sources),
        source_names=tuple(names),
        prompts=prompts,
        origin=tuple(origin for w in workloads for origin in w.origin),
        notes=tuple(note for w in workloads for note in w.notes),
        answered=None,
        **{name: np.concatenate([getattr(w, name) for w in workloads]) for name in columns},
    )
    pooled.check()
    return pooled


def _unused(name: str, taken: Sequence[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"
