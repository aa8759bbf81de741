"""The serving core's state: records in columns, one named structure that compiled kernels share.

Requests are numbered in plan order, and a replica's own wait in a line, so "the next" is a counter.
Replicas side by side may share the records, each with a line of its own. A running request's
context is never stored per step: it follows from the step its decode started at, which is why a
step costs the same whatever the number of running requests.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel_where

NONE = -1  # the null link of the lists below

WAITING, PREFILLING, DECODING, DONE = 0, 1, 2, 3
LENT, ARRIVING = 4, 5  # its prompt's KV is on its way to another replica, or from one
LEFT, RIGHT = 0, 1  # dual scan's ends: compute-heavy and memory-heavy
BUCKETS = 256  # horizon of the predicted peak, in buckets of `bucket_steps` steps

_INT = np.int64

REQUEST = np.dtype(
    [
        ("prompt", _INT),  # tokens
        ("output", _INT),  # tokens it will really generate
        ("estimate", _INT),  # tokens planning expects
        ("expected", _INT),  # tokens expected now: the estimate, doubled each time it is overrun
        ("node", _INT),  # deepest shared prefix node of its prompt
        ("path_blocks", _INT),  # blocks from the root to that node's end
        ("status", _INT),
        ("was_preempted", _INT),  # at least once
        ("side", _INT),  # LEFT or RIGHT
        ("target", _INT),  # tokens to prefill: the prompt, and what was generated if preempted
        ("computed", _INT),  # of those, tokens whose KV is there (while prefilling)
        ("generated", _INT),  # output tokens so far; while decoding, those before start_step
        ("start_step", _INT),  # first decode step
        ("start_context", _INT),  # context read in that step
        ("finish_step", _INT),  # last decode step
        ("reserved", _INT),  # tokens held against its side's share
        ("finish_next", _INT),  # requests that finish in one step
        ("finish_previous", _INT),
        ("end_bucket", _INT),  # when it is expected to end
        ("end_base", _INT),  # its private tokens at step u are end_base + u
        ("end_final", _INT),  # and at its expected end
        ("end_next", _INT),  # requests expected to end in one bucket
        ("end_previous", _INT),
        ("older", _INT),  # running requests of a side, in order of admission
        ("newer", _INT),
        ("entry", _INT),  # how many entered before it, where prompts are computed in slices
        ("hosted", _INT),  # preempted: its private blocks up to this token are on the host
        # paced: forecast by kind, not by its own expected end
        ("spared", _INT),  # tokens of its context that it does not count for in the cache
        ("kind", _INT),  # its source if its length is not visible, else NONE
        ("is_member", _INT),  # runs and is forecast by its kind
        ("rate_start", _INT),  # step its output would have begun at if never interrupted
        # where micro-batches take turns
        ("microbatch", _INT),  # in which it computed last, and goes on decoding
        ("back_turn", _INT),  # preempted: the turn from which on nothing of it is on its way
    ],
    align=True,
)

NODE = np.dtype(
    [
        ("parent", _INT),
        ("depth", _INT),  # blocks from the root to the node's end
        ("length", _INT),  # blocks of its own
        ("cached", _INT),  # of those, how many are in the KV cache: a prefix of the node
        ("readers", _INT),  # running requests whose prompt passes through it
        ("newer", _INT),  # least recently used list of nodes without readers
        ("older", _INT),
        ("waiting", _INT),  # waiting requests whose prompt passes through it (eviction by plan)
    ],
    align=True,
)

BUCKET = np.dtype(
    [
        ("count", _INT),  # requests expected to end in it
        # NOTE: a field called `base` would be hidden by numpy's own attribute in plain Python.
        ("base_sum", _INT),  # Σ end_base
        ("final_sum", _INT),  # Σ end_final
        # paced: the same of the compute-heavy end, which is not among them
        ("left_count", _INT),
        ("left_base", _INT),
        ("left_final", _INT),
        ("head", _INT),  # the list of all of them
    ],
    align=True,
)

SCALARS = np.dtype(
    [
        # rules, constant over a run
        ("block_tokens", _INT),
        ("capacity", _INT),  # KV blocks, without those that are lent
        ("window_blocks", _INT),  # that a request holds besides while it runs: see kv.py
        ("token_budget", _INT),
        ("max_running", _INT),
        ("dual_scan", _INT),
        ("predicted_peak", _INT),
        ("bucket_steps", _INT),
        ("first_count", _INT),  # sampled requests, which lead the line and run first
        ("own_nodes", _INT),  # first of the nodes of what requests leave behind; 0: nothing stays
        ("oldest_first", _INT),  # those that end in one step leave oldest first
        ("root_density", np.float64),
        ("output_reserved", np.float64),
        # where the run is
        ("step", _INT),
        ("front", _INT),  # place in the line of the next request from the left
        ("back", _INT),  # and of the next from the right (dual scan)
        ("requeued", _INT),  # preempted requests waiting to come back
        ("prefilling", _INT),  # the request in the middle of its prefill, or NONE
        ("chunks", _INT),  # prefill chunks of this step
        ("opened", _INT),  # 1 when decodes have their blocks for this step
        ("completed", _INT),  # requests whose prefill ends in this step
        ("decodes", _INT),
        ("context", _INT),  # Σ context of those decodes in this step
        ("running", _INT),  # requests admitted and not done
        ("done", _INT),
        ("current_bucket", _INT),
        ("expected_count", _INT),  # requests in all buckets of time
        ("expected_base", _INT),  # and what they hold, Σ end_base
        ("left_expected", _INT),  # paced: the same of the compute-heavy end
        ("left_expected_base", _INT),
        # KV blocks: capacity = free + idle + shared_held + private
        ("free", _INT),
        ("idle", _INT),  # cached blocks of nodes without readers
        ("shared_held", _INT),  # cached blocks of nodes with readers
        ("private", _INT),
        ("shared_length", _INT),  # whole length of nodes with readers, cached or not
        ("oldest_node", _INT),  # least recently used list
        ("newest_node", _INT),
        # dual scan: tokens reserved a side; running requests a side, by admission
        ("left_reserved", _INT),
        ("right_reserved", _INT),
        ("left_newest", _INT),
        ("left_oldest", _INT),
        ("right_newest", _INT),
        ("right_oldest", _INT),
        # prefill and decode on different replicas
        ("lent", _INT),  # blocks of finished prompts whose KV is still to be moved
        ("arriving", _INT),  # requests that have blocks here and whose KV is still to come
        # dense batch
        ("dense_multiple", _INT),  # a rule: steps with prompts have a multiple of this many tokens
        ("fresh_blocks", _INT),  # path blocks that the step's last chunk filled
        # vLLM's knobs: rules, and where a run with them is
        ("watermark", _INT),  # blocks that stay free when a request enters beside others
        ("long_prefill", _INT),  # tokens a slice of a prompt has at most; 0: no slices
        ("in_progress", _INT),  # prompts in progress, where there are several
        ("entries", _INT),  # admissions so far
        ("prefill_interval", _INT),  # steps from one that computes prompts to the next
        ("last_prefill", _INT),  # how many steps were done after the last that computed prompts
        ("backlog", _INT),  # requests that wait since the last step that took some in
        # eviction by plan: idle nodes with waiting readers have a list of their own
        ("knows_plan", _INT),
        ("oldest_live", _INT),
        ("newest_live", _INT),
        # host memory in blocks: host_capacity = host_free + host_cached + host_private
        ("host_nodes", _INT),  # first of the nodes' counterparts on the host
        ("host_capacity", _INT),
        ("host_free", _INT),
        ("host_cached", _INT),  # evicted blocks of prefixes
        ("host_private", _INT),  # of preempted requests
        ("oldest_hosted", _INT),
        ("newest_hosted", _INT),
    ],
    align=True,
)


class State(NamedTuple):
    """Everything the scheduler knows. Arrays only, so that kernels take it as it is.

    The first four are record arrays, which numpy's types cannot describe.
    """

    requests: Any  # (n,) REQUEST
    nodes: (
        Any  # (m,) NODE; where requests leave blocks behind, one a request; with a host, all twice
    )
    buckets: Any  # (BUCKETS,) BUCKET, a ring over time
    scalars: Any  # (1,) SCALARS
    density: Floats  # (n,), ρ of the tree node request k hangs from
    #: (longest output + 2,), ring by step: head of those that finish then. A ring a micro-batch.
    finish: Ints
    phase: Ints  # (block_tokens,), decodes that open a block at step ≡ i; so each micro-batch
    #: (w + n,), the requests that wait, in line from `front` to `back`; from the end backwards, a
    #: stack of the preempted. One array for both: every further one costs 5 % a step.
    queue: Ints
    #: (max_running,), requests whose prefill ends in this step; or twice as long: see prompts.py
    ended: Ints
    chunk: Ints  # (3, max_running), of each chunk: request, computed before, tokens
    counts: Ints  # (len(steplog.COUNTS),), this step in numbers
    #: Empty without host memory. Its length is part of its type, so that code for a host is left
    #: out of kernels that are compiled for a state without: branches alone cost 20 % a step.
    host: tuple[int, ...]
    #: Empty unless the plan is paced, else serving/pacing.py's Pace alone; for the same reason.
    pace: tuple[Any, ...]
    #: Empty without cascade attention, else serving/cascade.py's Cascade alone; likewise.
    cascade: tuple[Any, ...]
    #: Empty but for a pipeline, else serving/microbatch.py's Microbatches alone; likewise.
    microbatches: tuple[Any, ...] = ()


@kernel_where("pace", lambda state: False)
def is_paced(state: State) -> bool:
    """Whether steps are paced."""
    return True
