"""What is left to read of requests that run on although nobody knows for how long."""

from dataclasses import replace

import numpy as np
import pytest
from pacing_worlds import AMPLE, PacedWorld, record_of

from blendsim.serving import reads
from blendsim.serving.core import ServingCore
from blendsim.serving.state import DECODING, RIGHT, WAITING

pytestmark = pytest.mark.usefixtures("plain_throughout")


UNKNOWN = AMPLE._replace(visible=(False,) * len(AMPLE.world.prompts))


def run_until(drawn: PacedWorld, generated: int) -> tuple[ServingCore, int]:
    """The core when a request of the memory-heavy end has generated so much, and which that is."""
    core = drawn.core()
    requests = core.state.requests
    while not core.is_done:
        core.step()
        core.commit()
        far = (requests.side == RIGHT) & (requests.status == DECODING)
        so_far = int(core.state.scalars[0].step) - requests.start_step + requests.generated
        found = np.flatnonzero(far & (so_far >= generated))
        if len(found):
            return core, int(found[0])
    raise AssertionError(f"no request of the right got {generated} tokens")


def account_of(core: ServingCore, request: int, generated: int) -> float:
    """What the account holds of one that runs: expected, less read."""
    p = int(core.state.requests[request].prompt)
    return float(reads.reads_of(core.state, request)) - (p * generated + generated**2 / 2)


@pytest.mark.parametrize("generated", [1, 10, 40])
def test_who_runs_is_as_far_from_its_end_as_on_its_first_day(generated: int) -> None:
    core, k = run_until(UNKNOWN, generated)
    r = core.state.requests[k]
    mean = float(r.estimate)  # nobody has ended yet
    core.state.pace[0].kinds.prior = 1e12  # and what was seen so far is worth nothing
    left = account_of(core, k, generated) + float(reads.reckoned_anew(core.state, k))
    assert left == pytest.approx(mean * (r.prompt + generated) + mean**2)


@pytest.mark.parametrize(("generated", "longer"), [(1, 0), (10, 0), (40, 0.4)])
def test_who_has_run_long_has_longer_to_run_where_lengths_spread_much(
    generated: int, longer: float
) -> None:
    """A spread of 5, of exponential lengths it is 2: 2.5 means are left in the long run, and as
    many have been generated then.
    """
    wide = UNKNOWN._replace(pacing=replace(UNKNOWN.pacing, spread=(5.0,)))
    core, k = run_until(wide, generated)
    r = core.state.requests[k]
    core.state.pace[0].kinds.prior = 1e12
    mean, age = float(r.estimate), generated / float(r.estimate)
    life = mean * (1.0 + 1.5 * min(1.0, age / 2.5))
    assert life >= (1.0 + longer) * mean
    left = account_of(core, k, generated) + float(reads.reckoned_anew(core.state, k))
    assert left == pytest.approx(life * (r.prompt + generated) + life**2)


def test_a_corrected_mean_counts_for_what_is_left() -> None:
    core, k = run_until(UNKNOWN, 10)
    kind = core.state.pace[0].kinds[core.state.requests[k].kind]
    kind.prior, kind.ended, kind.served = 1e12, 0.0, 1e12  # twice as long as planned
    r = core.state.requests[k]
    mean = 2.0 * float(r.estimate)
    left = account_of(core, k, 10) + float(reads.reckoned_anew(core.state, k))
    assert left == pytest.approx(mean * (r.prompt + 10) + mean**2)


def test_who_waits_after_a_preemption_is_reckoned_anew_too() -> None:
    core, k = run_until(UNKNOWN, 10)
    s, r = core.state.scalars[0], core.state.requests[k]
    before = float(reads.unfinished_reads(core.state))
    mine = float(reads.reckoned_anew(core.state, k))
    r.generated += s.step - r.start_step  # as `preempt` leaves it
    r.status = WAITING
    if s.right_newest == k:
        s.right_newest = r.older
    else:
        core.state.requests[r.newer].older = r.older
    assert float(reads.unfinished_reads(core.state)) == pytest.approx(before - mine)
    s.requeued = 1
    core.state.queue[-1] = k
    assert float(reads.unfinished_reads(core.state)) == pytest.approx(before)


def test_lengths_that_are_known_are_reckoned_once() -> None:
    core, k = run_until(AMPLE, 10)
    assert float(reads.reckoned_anew(core.state, k)) == 0.0
    assert float(reads.unfinished_reads(core.state)) == 0.0


def test_reads_are_left_of_who_outlives_all_expectation() -> None:
    """Estimates of one token each: the account is overdrawn long before the requests are done."""
    short = UNKNOWN._replace(world=replace(UNKNOWN.world, estimates=(1,) * 6))
    core, _ = run_until(short, 25)
    left = float(record_of(core).reads_left)
    assert left < 0.0
    assert left + float(reads.unfinished_reads(core.state)) > 0.0
