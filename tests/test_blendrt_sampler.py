"""Tokens chosen by probability, and when an answer is over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from replay_worlds import greedy

from blendrt.generate.growing import LOST, Ending, GrowingTokens
from blendrt.generate.sampler import Sampler, uniforms
from blendrt.generate.wanted import Finish, Wanted

CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?:"
END = 31


def wanted(n: int, **changes: object) -> Wanted:
    plain = replace(greedy(n, 100, frozenset({END})), temperature=np.ones(n))
    return replace(plain, **changes)  # type: ignore[arg-type]


def picked(asked: Wanted, logits: torch.Tensor, places: int = 0) -> list[int]:
    n = len(logits)
    return Sampler(asked, CPU).pick(logits, np.arange(n), np.full(n, places))[0].tolist()  # type: ignore[no-any-return]


def lost(asked: Wanted, logits: torch.Tensor) -> list[bool]:
    n = len(logits)
    return Sampler(asked, CPU).pick(logits, np.arange(n), np.zeros(n, int))[1].tolist()  # type: ignore[no-any-return]


def random_logits(rows: int, vocab: int = 32, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def test_temperature_0_takes_the_likeliest_token() -> None:
    logits = random_logits(20)
    assert picked(wanted(20, temperature=np.zeros(20)), logits) == logits.argmax(-1).tolist()


def test_a_tiny_temperature_does_too() -> None:
    logits = random_logits(20)
    assert picked(wanted(20, temperature=np.full(20, 1e-9)), logits) == logits.argmax(-1).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_tokens_come_as_often_as_they_are_likely(temperature: float, top_p: float) -> None:
    n, one = 40_000, random_logits(1, vocab=8)
    asked = wanted(n, temperature=np.full(n, temperature), top_p=np.full(n, top_p))
    seen = np.bincount(picked(asked, one.expand(n, 8)), minlength=8) / n
    shares = np.sort((one[0].double() / temperature).softmax(-1).numpy())[::-1]
    kept = np.cumsum(shares) - shares < top_p
    expected = shares * kept / shares[kept].sum()
    assert np.abs(np.sort(seen)[::-1] - expected).max() < 4 * np.sqrt(0.25 / n)
    assert (seen > 0).sum() <= kept.sum()  # nothing beyond top_p


def test_a_token_hangs_on_its_request_and_place_and_not_on_its_neighbours() -> None:
    logits, asked = random_logits(600), wanted(600, temperature=np.full(600, 1.3))
    together = picked(asked, logits, places=5)
    sampler = Sampler(asked, CPU)
    alone = [
        int(sampler.pick(logits[i : i + 1], np.array([i]), np.array([5]))[0]) for i in range(600)
    ]
    assert alone == together
    assert picked(asked, logits, places=6) != together
    assert picked(replace(asked, seed=asked.seed + 1), logits, places=5) != together


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_random_numbers_lie_between_0_and_1(seed: int, place: int) -> None:
    value = uniforms(np.array([seed]), np.array([place]))[0]
    assert 0.0 <= value < 1.0


def test_random_numbers_are_spread_evenly() -> None:
    values = uniforms(np.zeros(100_000, np.int64), np.arange(100_000))
    assert np.abs(np.histogram(values, 20, (0, 1))[0] - 5_000).max() < 5 * np.sqrt(5_000)


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_logits_that_are_no_numbers_are_told_and_disturb_nobody(top_p: float) -> None:
    asked = wanted(3, top_p=np.full(3, top_p))
    logits = random_logits(3)
    clean = picked(asked, logits)
    logits[1, 5] = float("nan")
    found = picked(asked, logits)
    assert (found[0], found[2]) == (clean[0], clean[2])
    assert 0 <= found[1] < logits.shape[1]
    assert lost(asked, logits) == [False, True, False]
    infinite = torch.full((1, 4), -torch.inf).index_fill(1, torch.tensor([2]), 1.0)
    assert lost(wanted(1), infinite) == [False]


# ---- the end of an answer


def text(ids: object) -> str:
    return "".join(LETTERS[i] for i in ids if i < END)  # type: ignore[attr-defined]


def ids(said: str) -> list[int]:
    return [LETTERS.index(letter) for letter in said]


def grown(asked: Wanted, tokens: list[int]) -> tuple[int, object]:
    """After how many tokens the answer to request 0 is over, and what it is."""
    ending = Ending(asked, text)
    for upto in range(1, len(tokens) + 1):
        answer = ending.answer(0, tokens[:upto])
        if answer is not None:
            return upto, answer
    raise AssertionError("the answer does not end")


def test_the_models_own_end_is_no_part_of_the_text() -> None:
    upto, answer = grown(wanted(1), [*ids("yes"), END, 5])
    assert (upto, answer.text, answer.finish) == (4, "yes", Finish.STOP)  # type: ignore[attr-defined]
    assert answer.tokens == [*ids("yes"), END]  # type: ignore[attr-defined]


def test_an_answer_ends_when_it_is_as_long_as_it_may_be() -> None:
    upto, answer = grown(wanted(1, most=np.array([3])), ids("abcdef"))
    assert (upto, answer.text, answer.finish) == (3, "abc", Finish.LENGTH)  # type: ignore[attr-defined]


def test_the_models_end_as_last_token_is_an_end_and_no_limit() -> None:
    answer = grown(wanted(1, most=np.array([3])), [*ids("ab"), END])[1]
    assert answer.finish is Finish.STOP  # type: ignore[attr-defined]


def test_a_token_that_nothing_said_ends_the_answer_without_one() -> None:
    upto, answer = grown(wanted(1), [*ids("yes"), LOST])
    assert (upto, answer.text, answer.finish) == (4, "", Finish.FAILED)  # type: ignore[attr-defined]
    assert answer.tokens == ids("yes")  # type: ignore[attr-defined]
    assert Ending(wanted(1), text).may_end(np.array([0]), np.array([LOST]), np.array([4]))


def test_tokens_that_say_nothing_cost_no_look_at_the_whole_answer() -> None:
    """As where a model repeats a special token."""
    decoded = 0

    def counted(ids: object) -> str:
        nonlocal decoded
        decoded += len(ids)  # type: ignore[arg-type]
        return text(ids)

    ending = Ending(wanted(1, stop=(("zz",),), most=np.array([1_000])), counted)
    tokens = []
    for _ in range(500):
        tokens.append(END + 1)
        assert ending.answer(0, tokens) is None
    assert decoded < 4 * 500
    assert ending.answer(0, [*tokens, *ids("zz")]) is not None


@given(
    st.text(alphabet="ab.", max_size=30),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_a_stop_text_ends_the_answer_where_it_first_stands(said: str, stops: list[str]) -> None:
    asked = wanted(1, stop=(tuple(stops),))
    upto, answer = grown(asked, [*ids(said), END])
    ends = [said.find(stop) + len(stop) for stop in stops if stop in said]
    if not ends:
        assert (upto, answer.text) == (len(said) + 1, said)  # type: ignore[attr-defined]
        return
    assert upto == min(ends)
    now = said[:upto]
    assert answer.text == now[: min(now.find(stop) for stop in stops if stop in now)]  # type: ignore[attr-defined]
    assert answer.finish is Finish.STOP  # type: ignore[attr-defined]


def test_a_stop_text_in_pieces_of_characters_is_found() -> None:
    """Tokens that are bytes say nothing until a character is whole."""
    asked = wanted(1, stop=(("é!",),))

    def said(tokens: object) -> str:
        return bytes(tokens).decode(errors="replace")  # type: ignore[call-overload]

    ending, tokens = Ending(asked, said), list("né!".encode())
    ends = [ending.answer(0, tokens[:upto]) for upto in range(1, len(tokens) + 1)]
    assert [answer is not None for answer in ends] == [False] * 3 + [True]
    assert ends[-1] is not None
    assert ends[-1].text == "n"


@pytest.mark.parametrize("between", [1, 8, 40])
def test_a_stop_text_with_tokens_that_say_nothing_inside_is_found(between: int) -> None:
    tokens = [*ids("xa"), *[END] * between, *ids("b!")]
    ending = Ending(wanted(1, stop=(("ab",),), ends=frozenset()), text)
    ends = [ending.answer(0, tokens[:upto]) for upto in range(1, len(tokens) + 1)]
    first = next(each for each in ends if each is not None)
    assert first.text == "x"
    assert len(first.tokens) == len(tokens) - 1


@pytest.mark.parametrize("between", [0, 40])  # tokens that say nothing
def test_a_stop_text_may_begin_a_long_way_before_a_long_token_ends(between: int) -> None:
    words = ["a", "b", "c", "d and many more letters", ""]
    ending = Ending(wanted(1, stop=(("abcd",),)), lambda found: "".join(words[i] for i in found))
    answer = ending.answer(0, [3, 0, 1, 2, *[4] * between, 3])
    assert answer is not None
    assert answer.text == words[3]


@given(st.lists(st.integers(0, END), min_size=1, max_size=60), st.data())
def test_every_answer_that_is_over_may_end(tokens: list[int], data: st.DataObject) -> None:
    stop = data.draw(st.sampled_from([(), ("ab",), ("c", "xyz")]))
    most = data.draw(st.integers(len(tokens), 70))
    asked = wanted(2, stop=((), stop), most=np.array([100, most]))
    ending, rows = Ending(asked, text), np.array([1])
    for upto in range(1, len(tokens) + 1):
        may_end = ending.may_end(rows, np.array(tokens[upto - 1 : upto]), np.array([upto]))
        assert may_end.tolist() == [bool(stop) or tokens[upto - 1] == END or upto == most]
        if not may_end.all():
            assert ending.answer(1, tokens[:upto]) is None


# ---- where tokens are kept


def test_what_is_recomputed_comes_from_the_host_but_for_the_newest_token() -> None:
    kept = GrowingTokens(3, CPU)
    kept.store(torch.tensor([0, 2]), torch.tensor([70, 90]))
    for token in (11, 12):
        kept.note([2], [token])
    sources = kept.sources(2, 0, 3)
    assert kept.fetch(torch.from_numpy(sources)).tolist() == [11, 12, 90]
    assert kept.fetch(torch.tensor([5, -1])).tolist() == [5, 70]


def test_more_than_the_newest_token_is_never_missing() -> None:
    kept = GrowingTokens(1, CPU)
    kept.note([0], [11])
    with pytest.raises(AssertionError, match="only the newest token"):
        kept.sources(0, 0, 3)


def test_a_token_that_reaches_top_p_exactly_is_the_last_one() -> None:
    """Of eight that are alike four have a half together."""
    n = 400
    asked = wanted(n, top_p=np.full(n, 0.5), seed=np.arange(n))
    assert set(picked(asked, torch.zeros(n, 8))) == {0, 1, 2, 3}


@pytest.mark.parametrize("stops", [("b", "ab"), ("ab", "b")])
def test_of_two_stop_texts_that_end_together_the_longer_one_is_cut(stops: tuple[str, ...]) -> None:
    upto, answer = grown(wanted(1, stop=(stops,)), ids("xab"))
    assert (upto, answer.text) == (3, "x")


@pytest.mark.parametrize("stops", [("?", "abcdefghij"), ("abcdefghij", "?")])
def test_a_long_stop_text_beside_a_short_one_is_found(stops: tuple[str, ...]) -> None:
    upto, answer = grown(wanted(1, stop=(stops,)), ids("xyabcdefghijz"))
    assert (upto, answer.text) == (12, "xy")  # type: ignore[attr-defined]
