"""The predicted peak: how much KV the running requests will need at their worst moment, if
estimates hold.

Running requests are kept in buckets of time by expected end. At a bucket's end, those that end in
it count with their final size and those that end later have grown up to then; the largest such sum
is an upper estimate of the peak. A request that outlives its estimate is expected to take twice as
long as believed so far.
"""

from blendsim.compiled import kernel, kernel_where
from blendsim.serving.kinds import has_members, unknown_tokens
from blendsim.serving.kv import unheld_path_length
from blendsim.serving.sides import enter_side, generated_tokens, leave_side, private_tokens
from blendsim.serving.state import BUCKETS, LEFT, NONE, RIGHT, State, is_paced

STRIDE = 8  # with members of kinds, whose peak may be anywhere, one bucket of so many is looked at


@kernel
def expected_end(state: State, request: int) -> int:
    """Step in which the request is expected to end if it entered now."""
    r = state.requests[request]
    return state.scalars[0].step + max(1, r.expected - generated_tokens(state, request))


@kernel
def end_bucket(state: State, end: int) -> int:
    """Bucket of time a step falls into; what lies beyond the horizon waits in its last bucket."""
    s = state.scalars[0]
    return min(end // s.bucket_steps, s.current_bucket + BUCKETS - 1)


@kernel_where("pace", lambda state, request: True)
def stands_alone(state: State, request: int) -> bool:
    """Whether the request is forecast by its own end. Paced, the compute-heavy end is not: what it
    holds on average is one account.
    """
    return state.requests[request].side == RIGHT


@kernel
def expect(state: State, request: int, end: int, base: int) -> None:
    """Enter a running request: it holds base + u private tokens at step u until step `end`."""
    s = state.scalars[0]
    r = state.requests[request]
    r.end_bucket = end_bucket(state, end)
    r.end_base = base
    r.end_final = base + end
    bucket = state.buckets[r.end_bucket % BUCKETS]
    if stands_alone(state, request):
        s.expected_count += 1
        s.expected_base += base
        bucket.count += 1
        bucket.base_sum += base
        bucket.final_sum += r.end_final
    else:
        s.left_expected += 1
        s.left_expected_base += base
        bucket.left_count += 1
        bucket.left_base += base
        bucket.left_final += r.end_final
    r.end_previous = NONE
    r.end_next = bucket.head
    if bucket.head != NONE:
        state.requests[bucket.head].end_previous = request
    bucket.head = request


@kernel
def forget(state: State, request: int) -> None:
    """Take a request out of the forecast."""
    s = state.scalars[0]
    r = state.requests[request]
    bucket = state.buckets[r.end_bucket % BUCKETS]
    if stands_alone(state, request):
        s.expected_count -= 1
        s.expected_base -= r.end_base
        bucket.count -= 1
        bucket.base_sum -= r.end_base
        bucket.final_sum -= r.end_final
    else:
        s.left_expected -= 1
        s.left_expected_base -= r.end_base
        bucket.left_count -= 1
        bucket.left_base -= r.end_base
        bucket.left_final -= r.end_final
    if r.end_previous == NONE:
        bucket.head = r.end_next
    else:
        state.requests[r.end_previous].end_next = r.end_next
    if r.end_next != NONE:
        state.requests[r.end_next].end_previous = r.end_previous


@kernel
def peak_fits(state: State, request: int, kept: int) -> bool:
    """Whether the predicted peak of all running requests and this one, up to its own end, stays
    within the KV capacity. A peak after that is not of its making.

    Shared nodes with readers are one account, with their whole length, taken off the capacity
    first. The compute-heavy end of a paced plan is counted with at least `kept` tokens.
    """
    s = state.scalars[0]
    held = s.shared_length + unheld_path_length(state, request)
    return peak_within(state, request, (s.capacity - held) * s.block_tokens, kept, False)


@kernel
def left_peak_fits(state: State, request: int, limit: int) -> bool:
    """Whether the compute-heavy end's running requests and this one of theirs hold `limit` tokens
    at most until its end, if estimates hold.
    """
    return peak_within(state, request, limit, 0, True)


@kernel
def peak_within(state: State, request: int, limit: int, kept: int, is_left: bool) -> bool:
    """Whether running requests and this one hold `limit` private tokens at most up to its end: all,
    with `kept` tokens of the compute-heavy end at least, or those of that end (`is_left`).
    """
    s = state.scalars[0]
    end = expected_end(state, request)
    base = private_tokens(state, request) - s.step
    mine = end_bucket(state, end)
    is_kind_ahead = not is_left and has_members(state)
    is_alone = not is_left and stands_alone(state, request)
    count, total = s.expected_count, s.expected_base
    left_count, left_total = s.left_expected, s.left_expected_base
    for b in range(s.current_bucket, mine + 1):
        bucket = state.buckets[b % BUCKETS]
        ends = bucket.left_count
        if not is_left:
            ends += bucket.count
        if ends == 0 and b != mine and not (is_kind_ahead and b % STRIDE == 0):
            continue  # without an end in it, a bucket cannot hold the worst moment
        upto = min((b + 1) * s.bucket_steps, end) if b == mine else (b + 1) * s.bucket_steps
        left_count -= bucket.left_count
        left_total -= bucket.left_base
        used = bucket.left_final + left_total + left_count * upto
        if not is_alone:
            used += base + upto
        if not is_left:
            count -= bucket.count
            total -= bucket.base_sum
            used = max(used, kept) + bucket.final_sum + total + count * upto
            if is_alone:
                used += base + upto
            used += int(unknown_tokens(state, max(0, upto - s.step)))
        if used > limit:
            return False
    return True


@kernel
def last_end(state: State) -> int:
    """The end of the last bucket of time in which a request is expected to end; now if none is."""
    s = state.scalars[0]
    for b in range(s.current_bucket + BUCKETS - 1, s.current_bucket - 1, -1):
        if state.buckets[b % BUCKETS].count > 0:
            return (b + 1) * s.bucket_steps
    return s.step


@kernel
def renew_estimates(state: State) -> None:
    """When time leaves a bucket, expect those still in it anew; far overruns move to the right
    side.
    """
    s = state.scalars[0]
    now = s.step // s.bucket_steps
    while s.current_bucket < now:
        slot = s.current_bucket % BUCKETS
        s.current_bucket += 1
        k = state.buckets[slot].head
        while k != NONE:
            following = state.requests[k].end_next
            renew(state, k)
            k = following


@kernel
def renew(state: State, k: int) -> None:
    """Expect request k to end when it has generated what it still owes; an overrun estimate doubles
    first.
    """
    s = state.scalars[0]
    r = state.requests[k]
    generated = generated_tokens(state, k)
    base = r.end_base
    forget(state, k)
    while r.expected <= generated:
        r.expected *= 2
    if s.dual_scan == 1 and not is_paced(state) and r.side == LEFT and generated >= 2 * r.estimate:
        leave_side(state, k)
        enter_side(state, k, RIGHT, True)
    expect(state, k, s.step + r.expected - generated, base)
