"""The prompts in progress where there may be several: those of engines that compute a long
prompt in slices.

They stand in order of admission at the back of `state.ended`, the oldest last; `state.chunk` has
the tokens each is to compute in this step. Prompts that get complete fill the array's other half.
"""

from blendsim.compiled import kernel
from blendsim.serving.state import State


@kernel
def prompt_at(state: State, place: int) -> int:
    """The prompt in progress at this place, the oldest at 0."""
    return int(state.ended[len(state.ended) - 1 - place])


@kernel
def put_prompt(state: State, request: int) -> None:
    """Make the request the youngest prompt in progress."""
    s = state.scalars[0]
    state.ended[len(state.ended) - 1 - s.in_progress] = request
    s.in_progress += 1


@kernel
def drop_prompt(state: State, request: int) -> None:
    """The request is thrown out. If it is a prompt in progress the younger ones, and their tokens,
    move up.
    """
    s = state.scalars[0]
    last = len(state.ended) - 1
    kept = 0
    for place in range(s.in_progress):
        k = state.ended[last - place]
        if k != request:
            state.ended[last - kept] = k
            state.chunk[2, kept] = state.chunk[2, place]
            kept += 1
    s.in_progress = kept
