"""The line of waiting requests of an engine that works in rounds: who is next and has room.

The line is a ring: in plan order at first; whoever is retracted joins its end. With a plan for
dual scan the line holds the retracted ones only, and moves when the two ends have met.
"""

from blendsim.compiled import kernel, rare_kernel
from blendsim.serving.admission import hit_blocks
from blendsim.serving.kv import append_node, idle_path_blocks, left_behind, unlink_node
from blendsim.serving.new_tokens import room_left
from blendsim.serving.round_state import CLIP, Rounds
from blendsim.serving.sides import first_side, is_within_side, left_share
from blendsim.serving.state import LEFT, NONE, RIGHT, State

REFRESHED = 128  # requests next in line whose cached prefixes are kept young
REFRESH_PASSES = 32  # passes over the line from one refresh to the next


@kernel
def waiting_requests(state: State) -> int:
    """How many requests wait."""
    s = state.scalars[0]
    return len(state.requests) - s.done - s.running


@kernel
def in_line(state: State, rounds: Rounds, place: int) -> int:
    """The request at a place of the line, 0 being next."""
    return rounds.line[(rounds.scalars[0].head + place) % len(rounds.line)]


@kernel
def join_line(state: State, rounds: Rounds, request: int) -> None:
    """Put a request that has just left the engine at the line's end."""
    s = state.scalars[0]
    length = waiting_requests(state) - 1
    if s.dual_scan == 1:
        length -= s.back - s.front + 1
    rounds.line[(rounds.scalars[0].head + length) % len(rounds.line)] = request


@rare_kernel
def touch_path(state: State, request: int) -> None:
    """A request that waits was looked up in the cache: what it finds is young again."""
    s = state.scalars[0]
    if left_behind(state, request) > 0:
        unlink_node(state, s.own_nodes + request)
        append_node(state, s.own_nodes + request)
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        if node.readers == 0 and node.cached > 0:
            unlink_node(state, k)
            append_node(state, k)
        k = node.parent


@rare_kernel
def refresh_prefixes(state: State, rounds: Rounds) -> None:
    """Every REFRESH_PASSES-th time, keep young what those next in line will find, the next one's
    youngest.
    """
    s = state.scalars[0]
    q = rounds.scalars[0]
    q.refreshes += 1
    if (q.refreshes - 1) % REFRESH_PASSES != 0:
        return
    if s.dual_scan == 1 and s.front <= s.back:
        for place in range(min(REFRESHED, s.back - s.front + 1) - 1, -1, -1):
            half = place // 2  # taken from both ends by turns
            touch_path(state, s.front + half if place % 2 == 0 else s.back - half)
        return
    for place in range(min(REFRESHED, waiting_requests(state)) - 1, -1, -1):
        touch_path(state, in_line(state, rounds, place))


@kernel
def can_join(state: State, rounds: Rounds, request: int) -> bool:
    """Whether a round takes the request: what it computes and may generate fits beside what the
    others may need. With nobody running it is always taken.
    """
    s = state.scalars[0]
    r = state.requests[request]
    if s.running == 0:
        return True
    need = r.target - hit_blocks(state, request) + 1
    need += min(rounds.max_new[request] - r.generated, CLIP)
    return need < room_left(state, rounds) - idle_path_blocks(state, request)


@kernel
def next_in_line(state: State, rounds: Rounds) -> int:
    """The request this round takes next, out of its line and with its `side` set; NONE if it finds
    no room. Whom the round looks up and leaves waiting keeps what it would find young.
    """
    s = state.scalars[0]
    q = rounds.scalars[0]
    is_dual = s.dual_scan == 1 and s.front <= s.back
    has_choice = is_dual and s.front >= s.first_count
    side = LEFT
    share = 0.0
    if has_choice:
        share = left_share(state)
        side = first_side(state, share)
    for _ in range(2 if has_choice else 1):
        if not is_dual:
            k = in_line(state, rounds, 0)
        elif side == LEFT:
            k = s.front
        else:
            k = s.back
        is_within = not has_choice or is_within_side(state, k, side, share)
        if is_within and can_join(state, rounds, k):
            if not is_dual:
                q.head = (q.head + 1) % len(rounds.line)
            elif side == LEFT:
                s.front += 1
            else:
                s.back -= 1
            if has_choice:
                state.requests[k].side = side
            elif is_dual and state.density[k] < s.root_density:
                state.requests[k].side = RIGHT
            return k
        if is_within:
            touch_path(state, k)
        side = RIGHT if side == LEFT else LEFT
    return NONE
