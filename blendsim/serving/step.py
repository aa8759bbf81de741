"""The step of any engine: `schedule` decides what it computes, `commit` records that it was done.

There are three kinds of steps: SGLang's rounds, `turned` where a rule of vLLM's knobs binds, and
the batcher's. Which one is compiled follows from the type of a `StepKind`, so that a loop over
steps is written once and has the code of one kind in it.
"""

from typing import Any, NamedTuple

from blendsim.compiled import kernel_where
from blendsim.serving import batcher, rounds, turned
from blendsim.serving.state import State


class StepKind(NamedTuple):
    """What kind of steps an engine makes; both empty: the batcher's."""

    # NOTE: beside State and not in it, as kernels that all kinds have in common would be compiled
    # once more for each kind: 30 s of CPU for SGLang after another engine.
    rounds: tuple[Any, ...]  # serving/round_state.py's Rounds alone, of an engine that works so
    turned: tuple[bool, ...]  # (True,) where a rule of vLLM's knobs binds


@kernel_where("turned", lambda kind, state: batcher.schedule(state))
def _schedule_batch(kind: StepKind, state: State) -> None:
    turned.schedule_turned(state)


@kernel_where("turned", lambda kind, state: batcher.commit(state))
def _commit_batch(kind: StepKind, state: State) -> None:
    turned.commit_turned(state)


@kernel_where("rounds", lambda kind, state: _schedule_batch(kind, state))
def schedule(kind: StepKind, state: State) -> None:
    """Decide what the next step computes; `state.counts` and `state.chunk` hold it."""
    rounds.schedule_round(state, kind.rounds[0])


@kernel_where("rounds", lambda kind, state: _commit_batch(kind, state))
def commit(kind: StepKind, state: State) -> None:
    """Record that the scheduled step was computed."""
    rounds.commit_round(state, kind.rounds[0])


@kernel_where("rounds", lambda kind, state: batcher.has_work(state))
def has_work(kind: StepKind, state: State) -> bool:
    """Whether requests run or wait here."""
    return rounds.has_rounds_left(state)


@kernel_where("rounds", lambda kind: True)
def decodes_join(kind: StepKind) -> bool:
    """Whether those who decode do so in the scheduled step."""
    return kind.rounds[0].scalars[0].decoded == 1
