"""The line that requests leave from its middle too, and who of the memory-heavy end fits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_serving import World
from pacing_worlds import AMPLE, PacedWorld, record_of

from blendsim.serving import kinds, paced_line, remaining
from blendsim.serving import pacing as pacing_module
from blendsim.serving.columns import DECODE_REQUESTS, PREFILL_TOKENS
from blendsim.serving.core import ServingCore
from blendsim.serving.paced_line import nearest_waiting
from blendsim.serving.pacing import CREDIT, ROWS, note_step
from blendsim.serving.reads import expected_reads
from blendsim.serving.state import NONE, is_paced

pytestmark = pytest.mark.usefixtures("plain_throughout")


def line_of(n: int) -> ServingCore:
    """A core with n requests of one token in line, in memory for all of them."""
    world = World(
        prompts=tuple((k,) for k in range(n)),
        outputs=(1,) * n,
        estimates=(1,) * n,
        densities=(0.5,) * n,
        capacity=1_000,
        block=1,
        budget=64,
        max_running=32,
        dual=True,
    )
    return PacedWorld(world, AMPLE.pacing, (True,) * n, (0,) * n).core()


@given(st.data())
def test_taking_requests_out_leaves_the_line_that_a_list_would_be(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20))
    core, line = line_of(n), list(range(n))
    s = core.state.scalars[0]
    while line:
        place = data.draw(st.sampled_from(line))
        assert paced_line.take(core.state, place) == place
        line.remove(place)
        inside = int(s.back - s.front) + 1
        assert inside - int(record_of(core).holes) == len(line)
        if line:
            assert (int(s.front), int(s.back)) == (line[0], line[-1])
        for at in range(int(s.front), int(s.back) + 1):
            left = [k for k in line if k <= at]
            found = paced_line.nearest_waiting(core.state.pace[0].jump, at)
            assert found == left[-1]
    assert s.front > s.back
    assert record_of(core).holes == 0


@given(st.data())
def test_compiled_way_through_the_holes_is_its_plain_twins(data: st.DataObject) -> None:
    jump = np.array([data.draw(st.integers(max(NONE, k - 3), k)) for k in range(15)])
    place = data.draw(st.integers(NONE, 14))
    one, other = jump.copy(), jump.copy()
    assert nearest_waiting(one, place) == nearest_waiting.py_func(other, place)
    assert one.tolist() == other.tolist()


def test_way_through_holes_is_short_the_second_time() -> None:
    jump = np.array([0, 0, 1, 2, 3])
    assert nearest_waiting.py_func(jump, 4) == 0
    assert jump.tolist() == [0, 0, 0, 0, 0]


def test_nobody_waits_left_of_a_line_that_has_gone() -> None:
    assert nearest_waiting.py_func(np.array([NONE, 0, 1]), 2) == NONE


def lights(room: int, gone: list[int], dense: int) -> ServingCore:
    """Twelve requests of 1 + 5·k tokens in all, the first `dense` of them dense, in memory for
    `room` tokens; those at the places `gone` have left the line. One runs, so that room matters.
    """
    n = 13
    world = World(
        prompts=((1,),) * n,
        outputs=tuple(5 * max(1, k) for k in range(n)),
        estimates=tuple(5 * max(1, k) for k in range(n)),
        densities=tuple(3.0 if k <= dense else 0.5 for k in range(n)),
        root_density=1.0,
        capacity=room,
        block=1,
        budget=64,
        max_running=32,
        dual=True,
        first=1,
        sharing=False,
    )
    core = PacedWorld(world, AMPLE.pacing, (True,) * n, (0,) * n).core()
    core.state.scalars[0].max_running = 1
    core.step()
    core.commit()
    core.state.scalars[0].max_running = 32
    for place in gone:
        paced_line.take(core.state, place)
    return core


@given(
    st.integers(70, 100),
    st.lists(st.integers(1, 12), unique=True, max_size=11),
    st.integers(0, 11),
    st.integers(0, 90),
)
def test_the_longest_that_fits_is_found_where_longer_ones_stand_further_right(
    room: int, gone: list[int], dense: int, kept: int
) -> None:
    core = lights(room, gone, dense)
    s = core.state.scalars[0]
    waiting = [k for k in range(1, 13) if k not in gone]
    fitting = [
        k
        for k in waiting
        if core.state.density[k] < s.root_density and paced_line.fits_right(core.state, k, kept)
    ]
    found = paced_line.longest_fitting(core.state, kept)
    assert found == (fitting[-1] if fitting else NONE)


def test_room_kept_for_the_dense_end_keeps_long_outputs_out() -> None:
    core = lights(100, [], 3)
    found = [paced_line.longest_fitting(core.state, kept) for kept in (0, 40, 70, 100)]
    assert found[0] == 12
    assert found == sorted(found, reverse=True)
    assert found[-1] == NONE


def test_right_end_without_room_is_left_alone_for_eight_steps_or_a_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All memory is kept for the left; who is tried at each step is seen. The last in line would
    end 60 steps after it enters: in step 180, where a bucket of time begins, if that is 120.
    """
    core = lights(100, [], 0)
    s, p, tries = core.state.scalars[0], record_of(core), []
    p.hold_left, p.blocked_until, s.bucket_steps = 1e12, 0, 20
    fitting = paced_line.longest_fitting
    monkeypatch.setattr(
        paced_line,
        "longest_fitting",
        lambda *given: (tries.append(int(s.step)), fitting(*given))[1],
    )
    for step in range(100, 130):
        s.step = step
        assert paced_line.next_to_enter(core.state) == NONE
    assert tries == [100, 108, 116, 120, 128]


def test_right_end_is_tried_at_once_when_nobody_runs() -> None:
    core = lights(100, [], 0)
    s, p = core.state.scalars[0], record_of(core)
    p.hold_left, p.blocked_until, s.step = 1e12, 1_000, 100
    assert paced_line.next_to_enter(core.state) == NONE
    s.running = 0
    assert paced_line.next_to_enter(core.state) == 12


def test_rows_of_the_table_are_levels_of_context_up_to_the_last() -> None:
    core = AMPLE.core()
    unit = int(record_of(core).unit)
    assert unit * ROWS >= 400
    for context, row in ((0, 0), (unit - 1, 0), (unit, 1), (10**9, ROWS - 1)):
        core.state.scalars[0].context = context
        assert pacing_module.table_row(core.state) == row


def stepped(wanted: int, tokens: int, sizes: tuple[int, int], credit: float) -> float:
    """Credit after a step of so many tokens."""
    core = AMPLE.core()
    core.state.pace[0].table[:] = *sizes, wanted
    p = record_of(core)
    p.credit = credit
    core.state.counts[:] = 0
    core.state.counts[PREFILL_TOKENS] = tokens - 1
    core.state.counts[DECODE_REQUESTS] = 1
    note_step(core.state)
    return float(p.credit)


def test_credit_is_what_the_steps_are_behind_what_they_were_to_compute() -> None:
    assert stepped(10, 8, (8, 16), 1.0) == 3.0
    assert stepped(10, 16, (8, 16), 1.0) == -5.0


def test_credit_is_bounded_on_both_sides() -> None:
    assert stepped(2 * int(CREDIT), 8, (8, 16), CREDIT) == CREDIT
    assert stepped(0, 10**6, (8, 16), 0.0) == -CREDIT


def test_no_credit_is_kept_where_one_size_is_right() -> None:
    assert stepped(10, 8, (8, 8), 5.0) == 0.0


@pytest.mark.parametrize(("credit", "wanted"), [(0.0, 24), (1.0, 24), (-0.5, 12)])
def test_a_step_takes_the_larger_size_while_it_is_behind(credit: float, wanted: int) -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.next_look, p.credit = 10, credit
    core.state.pace[0].table[:] = 12, 24, 18
    assert pacing_module.step_budget(core.state) == wanted


def test_sizes_are_reckoned_anew_every_look_steps() -> None:
    core, looks = AMPLE.core(), []
    for _ in range(9):
        core.step()
        looks.append(int(record_of(core).next_look))
        core.commit()
    assert looks == [4] * 4 + [8] * 4 + [12]


def test_steps_left_are_those_of_the_longest_output_if_reading_needs_fewer() -> None:
    """The longest output has 50 tokens, which is more steps than reading needs."""
    core = AMPLE.core()
    p = record_of(core)
    p.most_held = 1e9
    pacing_module.look(core.state)
    assert p.tokens_left == 84 + 129 - 6
    assert p.steps_left == 50.0


def test_full_memory_makes_reading_need_more_steps() -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.most_held = p.reads_left / 500
    pacing_module.look(core.state)
    assert p.steps_left == pytest.approx(500.0)


def foreseen(core: ServingCore, reads: float) -> np.ndarray:
    ahead = np.empty((pacing_module.SLICES, 2))
    remaining.foresee(core.state, reads, ahead)
    return ahead


def with_members(number: int, mean: float, held: float) -> ServingCore:
    """A core in which so many of unknown length run."""
    core = AMPLE._replace(visible=(False,) * 6).core()
    kind = core.state.pace[0].kinds[0]
    kind.running, kind.mean_sum, kind.held_base = number, number * mean, number * held
    p = record_of(core)
    p.most_held, p.most_reads = 400.0, 40.0
    return core


@given(st.integers(1, 40), st.floats(1.0, 500.0), st.integers(1, 500), st.floats(1.0, 1e5))
def test_all_reads_left_are_foreseen(number: int, mean: float, held: int, reads: float) -> None:
    ahead = foreseen(with_members(number, mean, held), reads)
    assert (ahead[:, 0] * ahead[:, 1]).sum() == pytest.approx(reads)
    assert (ahead >= 0.0).all()


def carefree(core: ServingCore) -> ServingCore:
    """The core, keeping nothing free for lengths that are not known."""
    record_of(core).caution = 0.0
    return core


def test_memory_is_full_until_what_is_left_is_a_tail_of_two_mean_lengths() -> None:
    ahead = foreseen(carefree(with_members(4, 100.0, 50)), 40.0 * 500)
    assert ahead[0].tolist() == [300.0, 40.0]
    tail = ahead[1:]
    assert (np.diff(tail[:, 1]) < 0.0).all()
    # Full, and what would be read after the longest of four is expected to end: ∫ (1 + x)·e^(−x).
    long = float(remaining.longest_of(4.0, 0.0))
    cut_off = 2.0 / (2.0 - (2.0 + long) * np.exp(-long))
    assert tail[0, 1] == pytest.approx(40.0 * cut_off, rel=0.01)
    assert foreseen(carefree(with_members(4, 100.0, 50)), 40.0 * 199)[0].tolist() == [0.0, 0.0]


def test_members_hold_what_they_held_and_a_token_of_every_step_since() -> None:
    now, later = with_members(4, 100.0, 50), with_members(4, 100.0, 20)
    later.state.scalars[0].step = 30
    assert np.array_equal(foreseen(later, 1_000.0), foreseen(now, 1_000.0))


def test_a_cache_that_holds_less_than_a_mean_length_is_that_of_one_request() -> None:
    """Full until what is left is the tail of one, which is as long as one may be."""
    core = with_members(1, 1_000.0, 50)  # 400 tokens fit
    p = record_of(core)
    p.caution = 1.0
    ahead = foreseen(core, 1e6)
    assert ahead[0, 1] == pytest.approx(40.0 / remaining.peak_of(1.0, 1.0))
    assert ahead[1:, 0].sum() == pytest.approx(1_000.0 * remaining.longest_of(1.0, 1.0))


def test_what_the_forecast_keeps_free_of_a_full_cache_is_not_read() -> None:
    """40 seconds of reads are 40 requests of 100 tokens, at 0.01 seconds a token."""
    core = with_members(4, 100.0, 50)
    p = record_of(core)
    p.caution, p.most_held = 1.0, 4_000.0
    peak = float(remaining.peak_of(40.0, 1.0))
    assert 1.05 < peak < 1.15
    steps, reads = foreseen(core, 40.0 * 500)[0]
    assert reads == pytest.approx(40.0 / peak)
    assert steps == pytest.approx(500.0 * peak - 200.0)


def test_the_forecast_of_a_steady_state_peaks_at_once_unless_room_is_kept() -> None:
    assert remaining.peak_of(27.0, 0.0) == 1.0
    peaks = [float(remaining.peak_of(27.0, caution)) for caution in (0.5, 1.0, 2.0)]
    assert peaks == sorted(peaks)
    assert peaks[0] > 1.0


def test_the_forecast_peaks_no_higher_than_if_nobody_ended() -> None:
    """Two mean lengths ahead each holds three times as much as now."""
    assert remaining.peak_of(1.0, 100.0) == 3.0


@pytest.mark.parametrize("n", [3, 27, 300])
def test_the_peak_is_that_of_members_as_old_as_their_mean_length(n: int) -> None:
    """The forecast that admission asks for, of n members that hold their mean each."""
    core = with_members(n, 1e4, 1e4)
    record_of(core).caution = 1.0
    most = max(float(kinds.unknown_tokens(core.state, u)) for u in range(0, 20_001, 100))
    assert remaining.peak_of(float(n), 1.0) == pytest.approx(most / (n * 1e4), rel=2e-3)


def test_known_lengths_are_foreseen_to_be_read_evenly() -> None:
    core = AMPLE.core()
    record_of(core).most_reads = 1e9
    ahead = foreseen(core, 100.0)
    assert ahead[0].tolist() == [50.0, 2.0]
    assert not ahead[1:].any()


def test_the_last_in_line_counts_though_nobody_else_waits() -> None:
    core = AMPLE.core()
    s = core.state.scalars[0]
    s.front = s.back
    assert remaining.longest_visible(core.state) == remaining.longest_left(core.state) == 50.0
    hidden = AMPLE._replace(visible=(False,) * 6).core()
    s = hidden.state.scalars[0]
    s.front = s.back
    assert remaining.longest_visible(hidden.state) == 1.0
    assert remaining.longest_left(hidden.state) == 50.0


def test_what_running_requests_have_yet_to_read_takes_steps_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.most_held = 1.0
    monkeypatch.setattr(pacing_module, "unfinished_reads", lambda _: 500.0)
    pacing_module.look(core.state)
    assert p.reads_left == 229.5 + 2_840.0
    assert p.steps_left == pytest.approx(p.reads_left + 500.0)


def test_waiting_reads_grow_with_the_square_of_a_corrected_mean() -> None:
    drawn = AMPLE._replace(visible=(False,) * 6)
    core = drawn.core()
    p, kind = record_of(core), core.state.pace[0].kinds[0]
    assert kind.waiting_reads == pytest.approx(p.reads_left)
    kind.prior, kind.served, kind.ended = 1.0, 5.0, 1.0  # three times as long as planned
    p.most_held = 0.01
    pacing_module.look(core.state)
    steps = p.reads_left * 9.0 * p.read_seconds / p.most_reads
    assert p.steps_left == pytest.approx(steps)


def test_longest_of_many_members_takes_the_mean_times_a_logarithm() -> None:
    core = AMPLE._replace(visible=(False,) * 6).core()
    s = core.state.scalars[0]
    kind = core.state.pace[0].kinds[0]
    kind.running, kind.mean_sum = 20, 20 * 100.0
    numbers = 1.0 / np.arange(1, 21)  # the longest of 20: Σ 1/k, of variance Σ 1/k²
    expected = 100.0 * (numbers.sum() + np.sqrt((numbers**2).sum()))
    assert remaining.longest_left(core.state) == pytest.approx(expected, rel=0.01)
    s.front = s.back + 1  # nobody waits
    kind.running, kind.mean_sum = 1, 100.0  # the mean, and a deviation of as much
    assert remaining.longest_left(core.state) == pytest.approx(200.0, rel=0.05)
    kind.running = 0
    assert remaining.longest_left(core.state) == 1.0


def test_first_corrections_stand_on_as_many_ends_as_lengths_are_visible() -> None:
    world = AMPLE.world
    drawn = PacedWorld(
        world, AMPLE.pacing, (True, True, True, False, False, True), (0, 0, 1, 1, 2, 0)
    )
    core = drawn.core()
    assert core.state.pace[0].kinds.prior.tolist() == [3.0, 1.0, 1.0]
    gains = replace(AMPLE.pacing.gains, trust=2.0)
    trusting = drawn._replace(pacing=replace(AMPLE.pacing, gains=gains)).core()
    assert trusting.state.pace[0].kinds.prior.tolist() == [6.0, 2.0, 2.0]
    assert core.state.requests.kind.tolist() == [NONE, NONE, NONE, 1, 2, NONE]


def test_expected_reads_are_those_of_the_prompt_and_half_the_square() -> None:
    assert expected_reads(np.array([10, 4]), np.array([3, 2]), np.array([1.0, 2.0])).tolist() == [
        34.5,
        12.0,
    ]


def test_shared_prompt_tokens_are_not_left_to_compute() -> None:
    world = replace(
        AMPLE.world, prompts=tuple((7,) * 20 + (k,) for k in range(6)), block=1, capacity=400
    )
    p = record_of(AMPLE._replace(world=world).core())
    assert p.tokens_left == 6 * 21 - 5 * 20 + 129 - 6


def test_kernels_for_paced_states_mean_their_other_half_without_pace() -> None:
    unpaced = SimpleNamespace(pace=(), scalars=[SimpleNamespace(token_budget=77)])
    assert pacing_module.step_budget(unpaced) == 77
    assert paced_line.holes(unpaced) == 0
    assert note_step(unpaced) is None
    assert not is_paced(unpaced)
    assert is_paced(AMPLE.core().state)
