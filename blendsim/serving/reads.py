"""What a paced run's requests read, as far as it can be told: context tokens, by expectation.

The account of reads has for each request what it was expected to read when the plan was made, less
what was read since; its end settles it. Of those that run and whose length is not known it says
what is left only in the mean of all that have begun, and so too little of those that are still
there: they are reckoned anew whenever the account is looked at.
"""

from typing import Any

from blendsim.compiled import kernel, rare_kernel
from blendsim.serving.kinds import correction, life_left, spread_of
from blendsim.serving.sides import generated_tokens
from blendsim.serving.state import NONE, RIGHT, State


def expected_reads(prompt: Any, output: Any, spread: Any) -> Any:
    """Context tokens that decoding reads: p·d + ½·E[d²], E[d²] = spread·d². Of one or of many."""
    return (prompt + 0.5 * spread * output) * output


expected_reads_of_one = kernel(expected_reads)


@kernel
def reads_of(state: State, request: int) -> float:
    """Context tokens the request was expected to read when the plan was made."""
    r = state.requests[request]
    spread = spread_of(state, request)
    return float(expected_reads_of_one(float(r.prompt), float(r.estimate), spread))


@kernel
def reckoned_anew(state: State, request: int) -> float:
    """By how many context tokens a request that has begun will read more from now on than the
    account of reads says: what it was expected to read in all, less what it has read.

    A length that is not known is as far from its end as on its first day, or further: m more
    tokens, of exponential length, read m·context + m².
    """
    r = state.requests[request]
    if r.kind == NONE or r.side != RIGHT:
        return 0.0
    generated = float(generated_tokens(state, request))
    mean = correction(state, r.kind) * r.estimate
    read = float(expected_reads_of_one(float(r.prompt), generated, 1.0))
    life = mean * life_left(spread_of(state, request), generated / mean)
    left = life * (r.prompt + generated + life)
    return left - (reads_of(state, request) - read)


@rare_kernel
def unfinished_reads(state: State) -> float:
    """`reckoned_anew` of all requests that have begun and not ended."""
    s = state.scalars[0]
    more = 0.0
    k = s.right_newest
    while k != NONE:
        more += reckoned_anew(state, k)
        k = state.requests[k].older
    for j in range(s.requeued):
        more += reckoned_anew(state, state.queue[len(state.queue) - 1 - j])
    return more
