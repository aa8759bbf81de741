"""Paced admission: how many tokens each step computes, and who enters from which end."""

from typing import Any

import numpy as np

from blendsim.compiled import kernel, rare_kernel
from blendsim.serving.admission import fits_beside, has_room
from blendsim.serving.state import BUCKETS, LEFT, NONE, RIGHT, State

PACE = np.dtype(
    [
        ("left_room", np.float64),
        ("read_seconds", np.float64),
        ("most_reads", np.float64),
        ("slack", np.float64),
        ("tokens_left", np.float64),
        ("reads_left", np.float64),
        ("price", np.float64),
        ("spare", np.float64),
        ("hold", np.float64),
        ("credit", np.float64),
        ("up", np.float64),
        ("down", np.float64),
        ("even", np.float64),
        ("look", np.int64),
        ("skip", np.int64),
        ("unit", np.int64),
        ("next_look", np.int64),
        ("blocked_until", np.int64),
        ("holes", np.int64),
        ("wanted", np.int64),
    ],
    align=True,
)
TABLE = 128


@kernel
def is_paced(state: State) -> bool:
    return len(state.pace) > 0


@kernel
def _step_seconds(lines: Any, compute: float, memory: float) -> float:
    t = 0.0
    for i in range(len(lines)):
        t = max(t, lines[i, 0] * compute + lines[i, 1] * memory)
    return t


@kernel
def _read_price(lines: Any, sizes: Any, seconds: Any, most: float, price: float) -> float:
    """Largest y with price·n + y·M ≤ t(n, M) for all n, 0 < M ≤ most (M in seconds)."""
    least = np.inf
    for i in range(len(sizes)):
        paid = price * sizes[i]
        least = min(least, (_step_seconds(lines, seconds[i], most) - paid) / most)
        for a in range(len(lines)):
            for b in range(a):
                rise = lines[a, 1] - lines[b, 1]
                if rise == 0.0:
                    continue
                m = (lines[b, 0] - lines[a, 0]) * seconds[i] / rise
                if 0.0 < m < most:
                    least = min(least, (_step_seconds(lines, seconds[i], m) - paid) / m)
    return least


@rare_kernel
def look(state: State) -> None:
    s = state.scalars[0]
    pace = state.pace[0][0]
    table, sizes, seconds, lines = state.pace[1], state.pace[2], state.pace[3], state.pace[4]
    pace.next_look = s.step + pace.look
    last = s.current_bucket
    for b in range(s.current_bucket + BUCKETS - 1, s.current_bucket - 1, -1):
        if state.buckets[b % BUCKETS].count > 0:
            last = b
            break
    longest = float((last + 1) * s.bucket_steps - s.step)
    if s.front <= s.back:
        longest = max(longest, float(state.requests[state.queue[s.back]].expected))
    reads = max(pace.reads_left, 1.0) * pace.read_seconds
    tokens = max(pace.tokens_left, 1.0)
    steps = max(max(longest, reads / pace.most_reads), 1.0)
    most = min(pace.most_reads, reads / steps)
    pace.even = tokens / steps
    # golden section for the price of a token
    low, high = 0.0, 2.0 * seconds[-1] / sizes[-1]
    for i in range(len(sizes)):
        high = min(high, seconds[i] / sizes[i])
    top = 0.0
    for i in range(len(lines)):
        top = max(top, lines[i, 0])
    high *= top
    g = 0.6180339887498949
    x1, x2 = high - g * (high - low), low + g * (high - low)
    v1 = x1 * tokens + _read_price(lines, sizes, seconds, most, x1) * reads
    v2 = x2 * tokens + _read_price(lines, sizes, seconds, most, x2) * reads
    for _ in range(30):
        if v1 < v2:
            low, x1, v1 = x1, x2, v2
            x2 = low + g * (high - low)
            v2 = x2 * tokens + _read_price(lines, sizes, seconds, most, x2) * reads
        else:
            high, x2, v2 = x2, x1, v1
            x1 = high - g * (high - low)
            v1 = x1 * tokens + _read_price(lines, sizes, seconds, most, x1) * reads
    pace.price = 0.5 * (low + high)
    hull = np.empty(len(sizes), np.int64)
    for j in range(len(table)):
        memory = (j + 0.5) * pace.unit * pace.read_seconds
        n = 0
        for i in range(len(sizes)):
            t = _step_seconds(lines, seconds[i], memory)
            while n > 1:
                p, q = hull[n - 2], hull[n - 1]
                tp = _step_seconds(lines, seconds[p], memory)
                tq = _step_seconds(lines, seconds[q], memory)
                if (tq - tp) * (sizes[i] - sizes[p]) >= (t - tp) * (sizes[q] - sizes[p]):
                    n -= 1
                else:
                    break
            hull[n] = i
            n += 1
        # the part of the hull whose slopes are about the price
        low_at, high_at = 0, 0
        for v in range(1, n):
            p, q = hull[v - 1], hull[v]
            tp = _step_seconds(lines, seconds[p], memory)
            tq = _step_seconds(lines, seconds[q], memory)
            slope = (tq - tp) / (sizes[q] - sizes[p])
            if slope <= pace.price * (1.0 - pace.slack):
                low_at = v
            if slope <= pace.price * (1.0 + pace.slack):
                high_at = v
        at = low_at
        while at < high_at and sizes[hull[at + 1]] <= pace.even:
            at += 1
        table[j, 0] = sizes[hull[at]]
        table[j, 1] = table[j, 0]
        if at < high_at and sizes[hull[at]] < pace.even:
            table[j, 1] = sizes[hull[at + 1]]


@kernel
def table_at(state: State) -> int:
    at = min(state.scalars[0].context // state.pace[0][0].unit, TABLE - 1)
    low, high = state.pace[1][at, 0], state.pace[1][at, 1]
    if high > low:
        return high if state.pace[0][0].credit >= 0.0 else low
    return low


@kernel
def paced_budget(state: State) -> int:
    s = state.scalars[0]
    pace = state.pace[0][0]
    if s.step >= pace.next_look:
        look(state)
    pace.wanted = table_at(state)
    return min(s.token_budget, pace.wanted)


@kernel
def _find(jump: Any, place: int) -> int:
    """The nearest waiting place at or before `place`."""
    root = place
    while root >= 0 and jump[root] != root:
        root = jump[root]
    while place >= 0 and place != root:
        following = jump[place]
        jump[place] = root
        place = following
    return root


@rare_kernel
def longest_fitting(state: State, near: int, spare: int) -> int:
    """Place of the last request in line that fits."""
    s = state.scalars[0]
    jump = state.pace[5]
    if fits_beside(state, state.queue[s.back], near, spare):
        return s.back
    if state.pace[0][0].skip == 0:
        return NONE
    low, high, found = max(s.front, s.first_count), s.back - 1, NONE
    while low <= high:
        middle = (low + high + 1) // 2
        at = _find(jump, middle)
        if at < low:
            low = middle + 1
            continue
        k = state.queue[at]
        if state.density[k] < s.root_density and fits_beside(state, k, near, spare):
            found = at
            low = middle + 1
        elif state.density[k] >= s.root_density:
            low = middle + 1
        else:
            high = at - 1
    return found


@kernel
def next_paced(state: State) -> int:
    s = state.scalars[0]
    pace = state.pace[0][0]
    jump = state.pace[5]
    if s.requeued > 0:
        k = state.queue[len(state.queue) - s.requeued]
        if not has_room(state, k):
            return NONE
        s.requeued -= 1
        return k
    if s.front > s.back:
        return NONE
    if s.front < s.first_count:
        k = state.queue[s.front]
        if not has_room(state, k):
            return NONE
        s.front += 1
        state.requests[k].side = RIGHT if state.density[k] < s.root_density else LEFT
        return k
    if s.step >= pace.blocked_until:
        spare = int(pace.hold * min(pace.even, float(s.token_budget)) + pace.spare)
        at = longest_fitting(state, max(0, spare - s.left_reserved), spare)
        if at != NONE:
            k = state.queue[at]
            state.requests[k].side = RIGHT
            take(state, at)
            return k
        pace.blocked_until = s.step + 8
    k = state.queue[s.front]
    if has_room(state, k):
        state.requests[k].side = LEFT
        take(state, s.front)
        return k
    return NONE


@kernel
def take(state: State, at: int) -> None:
    """Take the request at a place out of the line."""
    s = state.scalars[0]
    pace = state.pace[0][0]
    jump = state.pace[5]
    jump[at] = at - 1
    pace.holes += 1
    while s.front <= s.back and jump[s.front] != s.front:
        s.front += 1
        pace.holes -= 1
    if s.front <= s.back and jump[s.back] != s.back:
        before = _find(jump, s.back)
        pace.holes -= s.back - before
        s.back = before


@kernel
def note_admitted(state: State, request: int, hit: int) -> None:
    r = state.requests[request]
    if r.was_preempted == 0:
        state.pace[0][0].tokens_left -= r.target - hit + r.estimate - 1


@kernel
def note_finished(state: State, request: int) -> None:
    r = state.requests[request]
    true = r.output * r.prompt + 0.5 * r.output * r.output
    guess = r.estimate * r.prompt + 0.5 * r.estimate * r.estimate
    state.pace[0][0].reads_left += true - guess


def new_pace(requests: Any, nodes: Any, s: Any, pacing: Any) -> tuple[Any, ...]:
    record: Any = np.zeros(1, PACE).view(np.recarray)
    p = record[0]
    p.left_room = pacing.left_room
    capacity = s.capacity * s.block_tokens
    p.read_seconds = pacing.read_seconds
    p.most_reads = pacing.full * capacity * pacing.read_seconds
    p.unit = capacity // TABLE + 1
    p.up, p.down = pacing.up, 1.0 / pacing.lasts
    p.hold = pacing.hold * pacing.left_room
    p.slack, p.look, p.skip = pacing.slack, pacing.look, pacing.skip
    d = requests.estimate.astype(np.float64)
    count = np.zeros(len(nodes), np.int64)
    np.add.at(count, requests.node, 1)
    for k in range(len(nodes) - 1, 0, -1):
        count[nodes.parent[k]] += count[k]
    saved = (np.maximum(count - 1, 0)[1:] * nodes.length[1:]).sum() * s.block_tokens
    p.tokens_left = float((requests.prompt + d - 1).sum() - saved)
    p.reads_left = float((requests.prompt * d + 0.5 * d * d).sum())
    return (
        record,
        np.zeros((TABLE, 2), np.int64),
        np.array(pacing.sizes, np.int64),
        np.array(pacing.seconds),
        np.array(pacing.lines, np.float64),
        np.arange(len(requests)),
    )


@kernel
def note_step(state: State) -> None:
    s = state.scalars[0]
    pace = state.pace[0][0]
    reads = state.counts[4]
    pace.reads_left -= reads
    tokens = state.counts[0] + state.counts[3]
    pace.spare *= 1.0 - pace.down
    at = min(s.context // pace.unit, TABLE - 1)
    if state.pace[1][at, 1] > state.pace[1][at, 0]:
        pace.credit = min(max(pace.credit + pace.even - tokens, -16384.0), 16384.0)
    else:
        pace.credit = 0.0
    wanted = min(s.token_budget, pace.wanted) - tokens
    if wanted > 128 and s.front <= s.back and s.front >= s.first_count:
        pace.spare += pace.up * wanted
