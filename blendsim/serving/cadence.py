"""vLLM's `prefill_schedule_interval`: steps between two that compute prompts, in which requests
only decode.

Prompts are held back only while somebody decodes and the last step that took in requests left none
waiting: with a backlog every step computes prompts, as without the rule.
"""

from blendsim.compiled import kernel
from blendsim.serving.admission import hit_blocks
from blendsim.serving.state import State


@kernel
def holds_prompts(state: State) -> bool:
    """Whether the upcoming step computes no prompts."""
    s = state.scalars[0]
    since = s.step + 1 - s.last_prefill
    return s.backlog == 0 and since < s.prefill_interval and s.decodes > 0


@kernel
def enters_held_step(state: State) -> bool:
    """Whether the next in line has one token to compute, which is no prefill to vLLM. With two ends
    of the plan nobody enters.
    """
    s = state.scalars[0]
    if s.requeued > 0:
        k = state.queue[len(state.queue) - s.requeued]
    elif s.front <= s.back and (s.dual_scan == 0 or s.front < s.first_count):
        k = state.queue[s.front]
    else:
        return False
    return int(state.requests[k].target - s.block_tokens * hit_blocks(state, k)) == 1
