"""The results file of a run: a line an answer, appended as answers end, so that a run that broke
off can go on where it was.

What is complete in the file is kept whatever happens. A line counts once its end is written; what
a break left of one is cut off when the run goes on.
"""

import fcntl
import os
from collections.abc import Collection, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from blendsim.errors import InputError
from blendsim.files import replacing, require_place
from blendsim.traces.answers import digest_answered
from blendsim.traces.counts import shown
from blendsim.traces.jsonl import is_object, json_object
from blendsim.traces.results import result

_BEGINNING = b'{"id": "batch_req_'  # of each line that we write


class ResultsFile:
    """An open results file that no other run writes meanwhile."""

    def __init__(self, path: Path, file: FileIO, done: dict[str, int]) -> None:
        self.done = done  # tokens generated for each custom_id that was answered before
        self._path = path
        self._file = file

    @classmethod
    def open(cls, path: Path, digests: Mapping[str, str], *, resume: bool = False) -> Self:
        """The results of the batch whose requests ask for this by id (`Asked.digest`): a new file,
        or with `resume` one that is there (or not yet), without its failed requests and without
        half a line at its end. InputError where an answer is to another request of the same id.
        """
        path = Path(os.path.realpath(path))
        require_place(path)
        file = _opened(path)
        try:
            done: dict[str, int] = {}
            if os.fstat(file.fileno()).st_size:
                if not resume:
                    raise InputError(
                        f"{path}: holds something already; give --resume to go on, or another -o"
                    )
                found = _found(path, digests)
                done = found.done
                file = _mended(path, file, found)
        except BaseException:
            file.close()
            raise
        return cls(path, file, done)

    def write(self, line: str) -> None:
        """Append one result. It is the operating system's when this returns: a crash of ours does
        not lose it.
        """
        assert "\n" not in line, "a result is one line"
        _append(self._file, f"{line}\n".encode(), self._path)

    def close(self) -> None:
        """Have all results on the disk and let go of the file."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and os.fstat(self._file.fileno()).st_size == 0:
            self._path.unlink(missing_ok=True)  # a run that failed before it began leaves nothing
        self.close()


class _Found(NamedTuple):
    """What stands in a results file."""

    done: dict[str, int]
    end: int  # bytes of the lines that are complete
    lacks_newline: bool  # the last of them has all but its end
    failed: frozenset[int]  # the numbers of the lines that are no answers, from 1


def _opened(path: Path) -> FileIO:
    """The file, for us alone."""
    try:
        file = FileIO(path, "a+")
    except OSError as error:
        raise InputError(
            f"{path}: cannot write there ({error.strerror}); choose another -o"
        ) from error
    try:
        _lock(file, path)
        # NOTE: a run that goes on may have put a new file in this one's place since it was opened.
        if not os.path.exists(path) or not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            raise _taken(path)
    except BaseException:
        file.close()
        raise
    return file


def _lock(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _taken(path) from error
    except OSError:
        pass  # a file system without locks; there it is up to the user


def _taken(path: Path) -> InputError:
    return InputError(f"{path}: another run is writing it; wait for that, or choose another -o")


def _append(file: FileIO, data: bytes, path: Path) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room and go on with --resume"
        ) from error


def _found(path: Path, digests: Mapping[str, str]) -> _Found:
    """InputError unless the file is results of the batch with these ids and requests."""
    done: dict[str, int] = {}
    first: dict[str, int] = {}
    failed: set[int] = set()
    end, lacks_newline = 0, False
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            if not line.endswith(b"\n"):
                if not is_object(line):
                    _require_ours(line, end, where)
                    break
                lacks_newline = True
            end += len(line)
            if not line.strip():
                continue
            row = json_object(line, where)
            if "response" not in row:
                raise InputError(f"{where}: is no result of a request; choose another -o")
            custom_id, tokens, *_ = result(row, where)
            _require_new(custom_id, where, digests, first)
            first[custom_id] = number
            if tokens is None:
                failed.add(number)
            else:
                _require_same(row, where, digests[custom_id])
                done[custom_id] = tokens
    return _Found(done, end, lacks_newline, frozenset(failed))


def _require_ours(torn: bytes, end: int, where: str) -> None:
    """Do not cut what may be no results at all. After complete results, anything may be left."""
    if end == 0 and not torn.startswith(_BEGINNING[: len(torn)]):
        raise InputError(f"{where}: is no result of a request; choose another -o")


def _require_same(row: dict[str, Any], where: str, digest: str) -> None:
    """InputError where the line tells that it answers another request than that of `digest`."""
    answered = digest_answered(row)
    if digest and answered is not None and answered != digest:
        raise InputError(
            f"{where}, column 'custom_id': {shown(row['custom_id'])} asks for something else in "
            "the batch now than when it was answered; remove this line to have it answered anew, "
            "give the batch as it was, or another -o"
        )


def _require_new(custom_id: str, where: str, ids: Collection[str], first: dict[str, int]) -> None:
    where = f"{where}, column 'custom_id': {shown(custom_id)}"
    if custom_id not in ids:
        raise InputError(
            f"{where} is not in the batch; give the batch these results are of, or another -o"
        )
    if custom_id in first:
        raise InputError(
            f"{where} was answered before in line {first[custom_id]}; remove one of them"
        )


def _mended(path: Path, file: FileIO, found: _Found) -> FileIO:
    """The file with complete answers only, ready for more."""
    if found.failed:
        return _without_failed(path, file, found)
    file.truncate(found.end)
    if found.lacks_newline:
        _append(file, b"\n", path)
    return file


def _without_failed(path: Path, file: FileIO, found: _Found) -> FileIO:
    """A new file in the place of `file`, which is closed. It is locked before it is there."""
    with replacing(path) as temporary:
        new = FileIO(temporary, "a+")
        try:
            _lock(new, path)
            _copy(path, new, found)
            os.fsync(new.fileno())
        except BaseException:
            new.close()
            raise
    file.close()
    return new


def _copy(path: Path, new: FileIO, found: _Found) -> None:
    done = 0
    with path.open("rb") as old:
        for number, line in enumerate(old, start=1):
            done += len(line)
            if done > found.end:
                break
            if number not in found.failed:
                _append(new, line if line.endswith(b"\n") else line + b"\n", path)
