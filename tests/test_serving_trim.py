"""The dense batch: a step's last prompt is cut so that its tokens are a multiple."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from oracle_serving import World
from serving_worlds import core_of, steps, worlds_without_host

from blendsim.errors import InputError
from blendsim.serving.flavour import FLAVOURS, Flavour


def world(lengths: list[tuple[int, int]], multiple: int, **rules: object) -> World:
    """Requests (p, d) that share nothing and are expected to be as long as they are."""
    return World(
        prompts=tuple((100 + k,) * p for k, (p, _) in enumerate(lengths)),
        outputs=tuple(d for _, d in lengths),
        estimates=tuple(d for _, d in lengths),
        densities=(1.0,) * len(lengths),
        multiple=multiple,
        **rules,  # type: ignore[arg-type]
    )


def tokens(world: World) -> list[tuple[int, int]]:
    """(prefill, decode) tokens of each step."""
    return [(c["prefill_tokens"], c["decode_requests"]) for c in steps(core_of(world))]


def test_last_prompt_is_cut_and_goes_on_in_the_next_step() -> None:
    assert tokens(world([(5, 2), (6, 2)], 8)) == [(8, 0), (3, 1), (0, 1)]


def test_multiple_of_one_cuts_nothing() -> None:
    assert tokens(world([(5, 2), (6, 2)], 1)) == [(11, 0), (0, 2)]


def test_decodes_count_in_the_multiple_and_are_not_cut() -> None:
    assert tokens(world([(4, 3), (4, 3), (5, 1)], 4, budget=8)) == [
        (8, 0),
        (2, 2),
        (2, 2),
        (1, 0),
    ]


def test_a_step_of_decodes_alone_stays_as_it_is() -> None:
    assert tokens(world([(4, 4)] * 3, 4)) == [(12, 0), (0, 3), (0, 3), (0, 3)]


def test_a_prompt_is_not_cut_to_nothing() -> None:
    assert tokens(world([(5, 1), (2, 1)], 4)) == [(7, 0)], "the last prompt has but 2 of 3 tokens"
    assert tokens(world([(3, 1)], 8)) == [(3, 0)]


def test_a_cut_prompt_samples_nothing_and_is_the_one_in_progress() -> None:
    core = core_of(world([(5, 1), (6, 1)], 8))
    core.step()
    counts = core.counts()
    assert (counts["sampled_tokens"], counts["admitted"], counts["prefill_requests"]) == (1, 2, 2)
    assert counts["prefill_pairs"] == 5 * 6 // 2 + 3 * 4 // 2
    assert core.scheduled().tokens.tolist() == [5, 3]
    assert int(core.state.scalars[0].prefilling) == 1
    core.commit()
    core.check()
    assert core.step().prefill_pairs == 3 * 3 + 3 * 4 // 2


def test_blocks_of_what_was_cut_are_free_again() -> None:
    whole, cut = (core_of(world([(5, 1), (10, 1)], m)) for m in (1, 8))
    whole.step()
    cut.step()
    assert whole.counts()["held_blocks"] == 2 + 3
    assert cut.counts()["held_blocks"] == 2 + 1, "3 of 10 tokens are left: one block of 4"


def test_a_prefix_is_cached_only_as_far_as_it_was_computed() -> None:
    shared = tuple(range(12))
    pair = World(
        prompts=((*shared, 1), (*shared, 2)),
        outputs=(1, 1),
        estimates=(1, 1),
        densities=(1.0, 1.0),
        multiple=8,
        budget=13,
    )
    first, second = list(steps(core_of(pair)))[:2]
    assert (first["prefill_tokens"], first["hit_tokens"]) == (8, 0)
    assert second["hit_tokens"] == 12, "the rest was computed before the second entered"


def test_a_shared_block_that_was_stored_already_stays_stored() -> None:
    """A prompt that ends with a stored block computes it again, in pieces, for its last token."""
    shared = tuple(range(8))
    same = World(
        prompts=(shared, shared, (*shared, 9)),
        outputs=(1, 1, 1),
        estimates=(1, 1, 1),
        densities=(1.0,) * 3,
        multiple=5,
        max_running=2,
    )
    whole, cut = (list(steps(core_of(replace(same, multiple=m)))) for m in (1, 5))
    assert [c["prefill_tokens"] for c in whole] == [8 + 4, 1]
    assert [c["prefill_tokens"] for c in cut] == [8 + 2, 2 + 1]
    assert (whole[0]["held_blocks"], cut[0]["held_blocks"]) == (2, 2 + 1)
    assert sum(c["hit_tokens"] for c in cut) == 4 + 8, "what was stored is found by the third"


@settings(max_examples=150, deadline=None)
@given(worlds_without_host())
def test_steps_with_prompts_are_multiples_unless_the_last_chunk_is_too_short(w: World) -> None:
    core = core_of(w)
    while not core.is_done:
        core.step()
        s = core.state.scalars[0]
        chunks = core.state.chunk[2, : int(s.chunks)]
        total = int(chunks.sum()) + int(s.decodes)
        if len(chunks):
            assert total % w.multiple == 0 or chunks[-1] <= total % w.multiple
        half = np.count_nonzero(core.state.requests.status == 1) - int(s.completed)
        assert half <= 1, "one prompt at most is in progress"
        core.commit()
        core.check()


def test_nanoflow_fills_steps_in_multiples_of_128_and_the_others_do_not() -> None:
    found = {name for name, flavour in FLAVOURS.items() if flavour.dense_multiple == 128}
    assert found == {"nanoflow"}
    others = [flavour for name, flavour in FLAVOURS.items() if name != "nanoflow"]
    assert all(flavour.dense_multiple == 1 for flavour in others)


@pytest.mark.parametrize("field", ["dense_multiple", "nano_batches"])
def test_a_multiple_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        replace(FLAVOURS["nanoflow"], **{field: 0})


def test_nano_batches_need_an_engine_that_overlaps() -> None:
    with pytest.raises(InputError, match="leave nano_batches at 1"):
        Flavour("plain", "1", overlaps=False, nano_batches=2)
