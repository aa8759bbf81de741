"""Fresh states: the records of requests and prefixes before anything has run."""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel
from blendsim.pacing import is_compute_heavy
from blendsim.prefix import PrefixTree, SortedPrompts, build_tree, common_blocks, subset
from blendsim.serving.cascade import new_cascade
from blendsim.serving.flavour import PREDICTED_PEAK, Flavour
from blendsim.serving.fresh_pace import Paced, new_pace
from blendsim.serving.kv import readers_of
from blendsim.serving.microbatch import new_microbatches
from blendsim.serving.state import (
    BUCKET,
    BUCKETS,
    LEFT,
    NODE,
    NONE,
    REQUEST,
    RIGHT,
    SCALARS,
    State,
)
from blendsim.steplog import COUNTS
from blendsim.system import System


class BlockPaths(NamedTuple):
    """The prefix tree of one replica's requests in KV blocks, and where each hangs from it."""

    tree: PrefixTree  # depth in blocks
    node: Ints  # (n,), deepest node of request k (plan order of the replica)


class PlannedLine(NamedTuple):
    """A replica's requests in plan order, and what the plan says of them."""

    prompt: Ints  # tokens
    output: Ints  # tokens that each will really generate
    expected: Ints  # tokens that planning expects
    density: Floats
    root_density: float
    is_dual: bool  # taken from both ends
    first_count: int  # requests that lead the line and run before the others
    paths: BlockPaths | None = None  # None: no prefix is shared
    paced: Paced | None = None


def block_paths(prompts: SortedPrompts, rows: Ints, block_tokens: int) -> BlockPaths:
    """Shared full blocks of the requests `rows` (all, or one rank's), numbered as in `rows`."""
    mine = subset(prompts, rows)
    tree = build_tree(common_blocks(mine, block_tokens))
    number = np.empty(len(prompts.order), np.int64)
    number[rows] = np.arange(len(rows))
    node = np.empty(len(rows), np.int64)
    node[number[mine.order]] = tree.leaf_parent
    return BlockPaths(tree, node)


def _all_readers(requests: Any, nodes: Any) -> Ints:
    """How many of all requests pass through each prefix node."""
    return readers_of(np.ascontiguousarray(nodes.parent), np.ascontiguousarray(requests.node))


@kernel
def _note_lengths(requests: Any, prompt: Ints, output: Ints, expected: Ints) -> None:
    """Fill what records have of lengths. Compiled, as one pass over long records is."""
    for k in range(len(prompt)):
        r = requests[k]
        r.prompt = r.target = prompt[k]
        r.output = output[k]
        r.estimate = r.expected = expected[k]


@kernel
def _note_nodes(requests: Any, node: Ints, depth: Ints) -> None:
    """Fill where prompts lie in the tree of shared prefixes; `depth` is in blocks, by node."""
    for k in range(len(node)):
        r = requests[k]
        r.node = node[k]
        r.path_blocks = depth[node[k]]


def _nodes(
    requests: Any, paths: BlockPaths | None, knows_plan: bool, keeps_own: bool
) -> tuple[Any, int]:
    """Records of prefixes, of what each request keeps of its own behind them, and how many are
    shared ones; notes in `requests` where each hangs.
    """
    if paths is None:
        nodes: Any = np.zeros(1, NODE).view(np.recarray)
    else:
        tree = paths.tree
        nodes = np.zeros(len(tree.parent), NODE).view(np.recarray)
        nodes.parent = np.maximum(tree.parent, 0)
        nodes.depth = tree.depth
        nodes.length = tree.depth - tree.depth[nodes.parent]
        _note_nodes(requests, paths.node, tree.depth)
        if knows_plan:
            nodes.waiting = _all_readers(requests, nodes)
    shared = len(nodes)
    if keeps_own:
        several: Any = np.zeros(shared + len(requests), NODE).view(np.recarray)
        several[:shared] = nodes
        several.parent[shared:] = requests.node
        nodes = several
    nodes.newer = nodes.older = NONE
    return nodes, shared


def new_state(line: PlannedLine, system: System, flavour: Flavour, host_blocks: int = 0) -> State:
    """A fresh State of a replica that serves `line`."""
    assert not system.window_blocks or not (host_blocks or flavour.prefill_first), (
        "neither host memory nor rounds know of windows"
    )
    n, paced = len(line.prompt), line.paced
    knows_plan = flavour.evicts_by_plan(None if paced is None else paced.pacing)
    requests: Any = np.zeros(n, REQUEST).view(np.recarray)
    _note_lengths(requests, line.prompt, line.output, np.maximum(1, line.expected))
    keeps_own = flavour.keeps_own_blocks and line.paths is not None
    nodes, shared_nodes = _nodes(requests, line.paths, knows_plan, keeps_own)
    host_nodes = len(nodes)
    if host_blocks:
        counterparts: Any = np.zeros(host_nodes, NODE).view(np.recarray)
        counterparts.newer = counterparts.older = NONE
        nodes = np.concatenate([nodes, counterparts]).view(np.recarray)
    buckets: Any = np.zeros(BUCKETS, BUCKET).view(np.recarray)
    buckets.head = NONE
    scalars = _scalars(line, system, flavour)
    s = scalars[0]
    # The horizon holds the longest expected output twice over.
    s.bucket_steps = 1 + 2 * int(requests.expected.max(initial=1)) // BUCKETS
    s.own_nodes = shared_nodes if keeps_own else 0
    s.knows_plan = knows_plan
    s.host_nodes = host_nodes
    s.host_capacity = s.host_free = host_blocks
    width = min(flavour.max_running, n) + 1
    turns = (new_microbatches(system.pp),) if system.pp > 1 else ()
    state = State(
        requests=requests,
        nodes=nodes,
        buckets=buckets,
        scalars=scalars,
        density=np.ascontiguousarray(line.density, np.float64),
        finish=np.full(system.pp * (int(line.output.max(initial=1)) + 2), NONE, np.int64),
        phase=np.zeros(system.pp * system.block_tokens, np.int64),
        queue=queue_of(np.arange(n), n),
        ended=np.zeros(2 * width if s.long_prefill else width, np.int64),
        chunk=np.zeros((3, width), np.int64),
        counts=np.zeros(len(COUNTS), np.int64),
        host=(host_blocks,) if host_blocks else (),
        pace=(),
        cascade=(new_cascade(shared_nodes),) if flavour.cascade else (),
        microbatches=turns,
    )
    return state if paced is None else _with_pace(state, paced)


def _scalars(line: PlannedLine, system: System, flavour: Flavour) -> Any:
    """The scalars that follow from plan, replica and engine alone; lists are empty."""
    scalars: Any = np.zeros(1, SCALARS).view(np.recarray)
    s = scalars[0]
    s.block_tokens = system.block_tokens
    s.capacity = s.free = system.kv_blocks
    s.window_blocks = system.window_blocks
    s.token_budget = flavour.token_budget
    s.max_running = flavour.most_running
    s.dual_scan = line.is_dual
    s.predicted_peak = flavour.admission == PREDICTED_PEAK
    s.first_count = line.first_count
    s.oldest_first = flavour.oldest_leaves_first
    s.root_density = line.root_density
    s.output_reserved = flavour.output_reserved
    s.back = len(line.prompt) - 1
    s.prefilling = s.oldest_node = s.newest_node = NONE
    s.left_newest = s.left_oldest = s.right_newest = s.right_oldest = NONE
    s.oldest_live = s.newest_live = s.oldest_hosted = s.newest_hosted = NONE
    s.dense_multiple = flavour.dense_multiple
    knobs = flavour.knobs
    s.watermark = knobs.blocks_kept_free(system.kv_blocks)
    s.long_prefill = knobs.long_prefill_token_threshold
    s.prefill_interval = knobs.prefill_schedule_interval
    s.last_prefill = -knobs.prefill_schedule_interval
    return scalars


def _with_pace(state: State, paced: Paced) -> State:
    """The fresh state with its steps paced; sets everybody's side."""
    root_density = float(state.scalars[0].root_density)
    is_left = is_compute_heavy(state.density, root_density, paced.is_visible)
    state.requests.side = np.where(is_left, LEFT, RIGHT)
    readers = _all_readers(state.requests, state.nodes)
    return state._replace(pace=(new_pace(state, readers, paced),))


def beside(state: State, line: Ints, first_count: int) -> State:
    """A fresh State of another replica over the records of a fresh `state`, of which it serves
    `line`; the first `first_count` of them run before the others.
    """
    assert not state.microbatches, "pipelines share no records"
    shared = ("requests", "density", "host", "queue", "pace", "cascade", "microbatches")
    own = {name: getattr(state, name).copy() for name in State._fields if name not in shared}
    cascade = tuple(new_cascade(len(fresh.decoding)) for fresh in state.cascade)
    return with_line(state._replace(**own, cascade=cascade), line, first_count)


def with_line(state: State, line: Ints, first_count: int) -> State:
    """The state with `line` waiting instead of who stood in line; the first `first_count` of them
    run before the others. Who was preempted stays.
    """
    s = state.scalars[0]
    s.front, s.back, s.first_count = 0, len(line) - 1, first_count
    queue = queue_of(line, len(state.requests))
    if s.requeued:
        queue[-int(s.requeued) :] = state.queue[-int(s.requeued) :]
    return state._replace(queue=queue)


def queue_of(line: Ints, most: int) -> Ints:
    """The line, and room for a stack of `most` requests behind it."""
    return np.concatenate([line, np.zeros(most, np.int64)])
