"""Schedule: the order of a step's pieces on two lanes of the GPU, as data.

A step is cut into nano-batches A and B. While the GEMMs of one run, so does the decode attention of
the other; w is the whole GPU, where nothing runs beside a piece:

    gemm        w:start A  start B │ rest A, start A' │ rest B, start B' │ … w:rest B
    attention              decode A│ decode B         │ decode A'        │ …

A piece runs after the pieces before it on its lane and after those it waits for. That is all that
orders them: `reads` and `writes` say what a piece touches, and a test holds that every two pieces
that touch the same thing are ordered.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

NANO_BATCHES = 2


class Lane(Enum):
    """Where a piece is put. Pieces on WHOLE and GEMM are never meant to run beside each other."""

    WHOLE = "whole"  # all SMs, the caller's stream
    GEMM = "gemm"  # the partition of the GEMMs
    ATTENTION = "attention"  # the partition of decode attention


class Piece(Enum):
    """What is computed, of one nano-batch in one layer."""

    START = "start"  # norm, qkv, rotation, KV write, then attention of the prefill chunks
    DECODE = "decode"  # attention of the decodes
    REST = "rest"  # o, norm, gate-up, activation, down


class Task(NamedTuple):
    """One piece and the tasks on other lanes that have to be done before it begins."""

    lane: Lane
    piece: Piece
    nano: int
    layer: int
    waits: tuple[int, ...]


class Thing(NamedTuple):
    """Something that pieces read and write: a kind of tensor of one nano-batch in one layer."""

    kind: str
    nano: int
    layer: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tasks in the order they are issued, and which of them others wait for."""

    tasks: tuple[Task, ...]
    awaited: frozenset[int]


def build_schedule(layers: int) -> Schedule:
    """The schedule of a step through `layers` layers."""
    tasks: list[Task] = []
    last: dict[tuple[Piece, int], int] = {}  # latest task of a piece and nano-batch
    on_lane: dict[Lane, int] = {}

    def add(lane: Lane, piece: Piece, nano: int, layer: int, after: list[int]) -> None:
        waits = {i for i in after if tasks[i].lane is not lane}
        tasks.append(Task(lane, piece, nano, layer, tuple(sorted(waits))))
        last[piece, nano] = on_lane[lane] = len(tasks) - 1

    def start(nano: int, layer: int) -> None:
        # NOTE: also after the start of the nano-batch before: a chunk cut in two, or chunks that
        # share a prefix in this very step, read KV that the earlier one writes.
        lane = Lane.WHOLE if nano == layer == 0 else Lane.GEMM
        before = [last[Piece.START, 0]] if nano else []
        own = [last[Piece.REST, nano]] if layer else []
        add(lane, Piece.START, nano, layer, before + own)

    def rest(nano: int, layer: int) -> None:
        is_last = layer == layers - 1 and nano == NANO_BATCHES - 1
        lane = Lane.WHOLE if is_last else Lane.GEMM
        # The whole GPU is free only when the partition of the GEMMs has nothing left.
        others = [on_lane[Lane.GEMM]] if is_last else []
        # The decodes' attention comes after the nano-batch's start, so the start is not waited for.
        add(lane, Piece.REST, nano, layer, [last[Piece.DECODE, nano], *others])

    def decode(nano: int, layer: int) -> None:
        add(Lane.ATTENTION, Piece.DECODE, nano, layer, [last[Piece.START, nano]])

    for layer in range(layers):
        for nano in range(NANO_BATCHES):
            if layer:
                rest(nano, layer - 1)
            start(nano, layer)
            decode(nano, layer)
    for nano in range(NANO_BATCHES):
        rest(nano, layers - 1)
    return Schedule(tuple(tasks), frozenset(i for task in tasks for i in task.waits))


def reads(task: Task) -> set[Thing]:
    """What a task reads, beside weights."""
    nano, layer = task.nano, task.layer
    if task.piece is Piece.START:
        # Prefill chunks of a nano-batch may attend to what the ones before it have written.
        earlier = {Thing("kv", n, layer) for n in range(nano)}
        return {Thing("hidden", nano, layer), *earlier}
    if task.piece is Piece.DECODE:
        return {Thing("queries", nano, layer), Thing("kv", nano, layer)}
    kinds = ("hidden", "attended prefill", "attended decodes")
    return {Thing(kind, nano, layer) for kind in kinds}


def writes(task: Task) -> set[Thing]:
    """What a task writes. Things of a layer are its own, though they may lie where those of the
    layer before lay. The hidden rows do: REST adds to them, and what they were is gone.
    """
    nano, layer = task.nano, task.layer
    if task.piece is Piece.START:
        return {Thing(kind, nano, layer) for kind in ("queries", "kv", "attended prefill")}
    if task.piece is Piece.DECODE:
        return {Thing("attended decodes", nano, layer)}
    return {Thing("hidden", nano, layer), Thing("hidden", nano, layer + 1)}
