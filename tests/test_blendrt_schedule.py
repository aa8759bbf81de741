"""The overlapped step's schedule: in every interleaving, reads come after what they read."""

from itertools import combinations

import numpy as np
import pytest

from blendrt.executor.schedule import (
    NANO_BATCHES,
    Lane,
    Piece,
    Schedule,
    Task,
    Thing,
    build_schedule,
    reads,
    writes,
)

A, B = range(NANO_BATCHES)


def ordered(schedule: Schedule) -> np.ndarray:
    """before[i, j]: task i is done when task j begins, whatever the lanes' speeds. Lanes run in
    order; the whole GPU's lane and the two partitions are three streams.
    """
    n = len(schedule.tasks)
    before = np.zeros((n, n), bool)
    last: dict[Lane, int] = {}
    for j, task in enumerate(schedule.tasks):
        for i in (*task.waits, *([last[task.lane]] if task.lane in last else [])):
            before[:, j] |= before[:, i]
            before[i, j] = True
        last[task.lane] = j
    return before


def races(schedule: Schedule) -> list[tuple[Task, Task]]:
    """Pairs of tasks that touch the same thing, one writing, and are not ordered."""
    before, tasks = ordered(schedule), schedule.tasks
    return [
        (tasks[i], tasks[j])
        for i, j in combinations(range(len(tasks)), 2)
        if (
            writes(tasks[i]) & (reads(tasks[j]) | writes(tasks[j]))
            or reads(tasks[i]) & writes(tasks[j])
        )
        and not before[i, j]
    ]


def find(schedule: Schedule, piece: Piece, nano: int, layer: int) -> int:
    keys = [(t.piece, t.nano, t.layer) for t in schedule.tasks]
    return keys.index((piece, nano, layer))


@pytest.mark.parametrize("layers", [1, 2, 3, 32])
def test_every_piece_of_every_layer_and_nano_batch_runs_once(layers):
    schedule = build_schedule(layers)
    done = [(t.piece, t.nano, t.layer) for t in schedule.tasks]
    assert sorted(done, key=str) == sorted(
        ((p, n, i) for p in Piece for n in (A, B) for i in range(layers)), key=str
    )


@pytest.mark.parametrize("layers", [1, 2, 3, 32])
def test_every_read_comes_after_its_write_and_no_two_touch_a_thing_unordered(layers):
    schedule = build_schedule(layers)
    assert races(schedule) == []
    written = {Thing("hidden", nano, 0) for nano in (A, B)}  # embedded before the step's pieces
    for task in schedule.tasks:
        assert reads(task) <= written, task
        written |= writes(task)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_a_missing_wait_is_a_race(layers):
    """The check above sees every wait that the schedule needs: without it, something races. The
    exception is the last wait of the whole GPU's lane, which is for speed.
    """
    schedule = build_schedule(layers)
    for i, task in enumerate(schedule.tasks[:-1]):
        for wait in task.waits:
            fewer = task._replace(waits=tuple(w for w in task.waits if w != wait))
            broken = Schedule((*schedule.tasks[:i], fewer, *schedule.tasks[i + 1 :]), frozenset())
            assert races(broken), (task, schedule.tasks[wait])


@pytest.mark.parametrize("layers", [2, 32])
def test_decode_attention_of_one_runs_beside_gemms_of_the_other(layers):
    """In every layer, either's attention may run while the other's GEMMs do, both before and after
    it in the layer.
    """
    schedule = build_schedule(layers)
    before = ordered(schedule)

    def beside(i: int, j: int) -> bool:
        return not before[i, j] and not before[j, i]

    for layer in range(layers):
        a, b = (find(schedule, Piece.DECODE, nano, layer) for nano in (A, B))
        assert beside(a, find(schedule, Piece.START, B, layer))
        assert beside(b, find(schedule, Piece.REST, A, layer))
        if layer:
            assert beside(a, find(schedule, Piece.REST, B, layer - 1))
        if layer < layers - 1:
            assert beside(b, find(schedule, Piece.START, A, layer + 1))


def test_gemms_never_run_beside_gemms_nor_attention_beside_attention():
    schedule = build_schedule(4)
    before = ordered(schedule)
    for i, j in combinations(range(len(schedule.tasks)), 2):
        kinds = {schedule.tasks[i].piece is Piece.DECODE, schedule.tasks[j].piece is Piece.DECODE}
        if len(kinds) == 1:
            assert before[i, j], (schedule.tasks[i], schedule.tasks[j])


def test_memory_a_piece_gives_back_is_not_read_any_more():
    """A piece's tensors are replaced by the same piece's of the next layer: on whatever lane, that
    piece begins after all readers of the old ones are done.
    """
    schedule = build_schedule(5)
    before = ordered(schedule)
    for nano in (A, B):
        for layer in range(4):
            for piece in (Piece.START, Piece.DECODE, Piece.REST):
                again = find(schedule, piece, nano, layer + 1)
                old = writes(schedule.tasks[find(schedule, piece, nano, layer)])
                for i, task in enumerate(schedule.tasks):
                    # What REST wrote is replaced once the next layer's REST has read it.
                    if reads(task) & {t for t in old if t.kind != "kv"} and i != again:
                        assert before[i, again], (task, schedule.tasks[again])


def test_only_tasks_that_are_waited_for_need_an_event():
    schedule = build_schedule(3)
    assert schedule.awaited == {wait for task in schedule.tasks for wait in task.waits}
    for task in schedule.tasks:
        assert all(schedule.tasks[wait].lane is not task.lane for wait in task.waits)
