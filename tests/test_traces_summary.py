"""The numbers a summary gives of a small pool."""

import json
from dataclasses import replace

import numpy as np
import pytest

from blendsim.request import Prompts, from_lengths, pool
from blendsim.traces import load_pool
from blendsim.traces.summary import summary


def test_counts_percentiles_and_sharing_of_a_small_pool() -> None:
    units = np.tile(np.arange(40, dtype=np.int32), 2)
    prompts = Prompts(
        np.array([0, 40, 80]), units, np.zeros(2, np.int32), np.ones(1, np.int32), ("tokens",)
    )
    tokens = from_lengths([40, 40], [1, 3], source="tokens", prompts=prompts)
    plain = from_lengths([20], [6], source="plain", is_known=True, arrival=np.array([2.5]))
    told = summary(pool([tokens, plain]))
    assert told["requests"] == 3
    assert (told["input_tokens"], told["output_tokens"]) == (100, 10)
    assert told["sharing_ratio"] == pytest.approx(0.40)
    assert told["sharing_ratio_blocks"] == pytest.approx(0.32)
    assert told["arrival_span"] == 2.5
    assert told["known"] == 1
    assert told["prompt"]["p50"] == 40
    assert told["sources"]["plain"]["output"] == {
        "p50": 6, "p90": 6, "p99": 6, "max": 6, "mean": 6,
    }  # fmt: skip


def test_requests_without_output_are_left_out_of_its_percentiles() -> None:
    workload = from_lengths([5, 5], [4, 1])
    half = replace(workload, output_len=np.array([4, 0]), has_output=np.array([True, False]))
    told = summary(half)
    assert told["with_output"] == 1
    assert told["output"]["mean"] == 4
    none = replace(half, output_len=np.zeros(2, np.int64), has_output=np.zeros(2, np.bool_))
    assert summary(none)["output"] is None


def test_a_summary_is_json() -> None:
    told = summary(load_pool(["demo:mixed?n=100"]))
    assert json.loads(json.dumps(told)) == told
