"""Errors a user can mend: one root, one line each."""

import re

import blendsim.errors as errors
from blendsim.batch import Batch
from blendsim.errors import BlendsimError, UnknownName


def test_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert errors.__doc__
    drawn = set(re.findall(r"[├└│]\W*(\w+)", errors.__doc__))
    children = {
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, BlendsimError)
    }
    assert drawn == children - {"BlendsimError"}


def test_unknown_name_lists_the_nearest_first() -> None:
    error = UnknownName("GPU", "h20", ["h200", "h100", "a100-80g"])
    assert str(error) == "unknown GPU 'h20'; nearest known: h200, h100"


def test_a_name_that_goes_on_is_nearer_than_one_that_looks_alike() -> None:
    told = str(UnknownName("GPU", "A100", ["h100", "h200", "a100-80g"]))
    assert told == "unknown GPU 'A100'; nearest known: a100-80g, h100, h200"


def test_a_name_of_several_lists_them_and_those_that_are_known() -> None:
    told = str(UnknownName("GPU", "A100", ["h100", "a100-80g"], ("a100-80g", "A100-40GB")))
    assert told == (
        "unknown GPU 'A100': several are called so (a100-80g, A100-40GB); of these known: a100-80g"
    )
    told = str(UnknownName("model", "qwen3", ["b", "qwen3-8b", "qwen3-32b"], ("qwen3-8b", "b")))
    assert told == "unknown model 'qwen3': several are called so; nearest known: qwen3-8b, b"


def test_capitals_do_not_keep_a_name_from_the_nearest() -> None:
    told = str(UnknownName("engine", "SGLANG-MIX", ["sglang-mixed", "vllm"]))
    assert told == "unknown engine 'SGLANG-MIX'; nearest known: sglang-mixed"


def test_unknown_name_without_a_near_one_lists_all() -> None:
    assert str(UnknownName("GPU", "zzz", ["b", "a"])) == "unknown GPU 'zzz'; nearest known: a, b"


def test_batch_tokens_are_prefill_and_one_a_decode() -> None:
    assert Batch(prefill_tokens=100, decode_requests=28).tokens == 128
