"""What `simulate` is given from Python: output lengths and engines that no run has are refused."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_simulator import planned, some_requests

from blendsim.errors import InputError, OversizeError, ProfileError
from blendsim.serving.flavour import FLAVOURS, Flavour
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog

PROBLEM, PLAN = planned(some_requests(4))
TRUE = PROBLEM.true_lengths


def run(output_len: Any, flavour: Flavour = FLAVOURS["nanoflow"]) -> StepLog:
    given = (PROBLEM.workload, output_len, PROBLEM.prompts, PROBLEM.model)
    return simulate(PLAN, *given, flavour)


@pytest.mark.parametrize(
    ("output_len", "sentence"),
    [
        (np.array([3, 0, 5, 5]), "simulate: output_len[1] is 0; a prompt and an answer have at"),
        (np.array([3, 5, -7, 5]), "simulate: output_len[2] is -7; a prompt and an answer have at"),
        (np.array([3.5, 1, 1, 1]), "simulate: output_len[0] is 3.5; numbers of tokens are whole"),
        (TRUE[:3], "simulate: 3 output_len for 4 requests; give one a request"),
        (np.append(TRUE, 5), "simulate: 5 output_len for 4 requests; give one a request"),
        (None, "simulate: output_len: numbers of tokens are whole ones in one line, not object"),
    ],
)
def test_output_lengths_that_no_run_has_are_refused(output_len: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        run(output_len)


def test_a_list_of_output_lengths_is_as_good_as_an_array() -> None:
    assert np.array_equal(run(TRUE.tolist()).times, run(TRUE).times)


def test_output_lengths_that_no_kv_cache_holds_are_refused_with_their_request() -> None:
    longest = PROBLEM.model.system.longest_request
    fits = TRUE.copy()
    fits[2] = longest - PROBLEM.workload.prompt_len[2]
    assert run(fits).count("finished").sum() == 4
    beyond = fits + np.array([0, 0, 3, 0])
    told = f"1 of 4 requests are longer than the {longest:,} tokens that fit: 2 (3 too many)"
    with pytest.raises(OversizeError, match=re.escape(told)):
        run(beyond)


def test_a_token_budget_beyond_the_profile_is_refused_as_in_settings() -> None:
    wide = replace(FLAVOURS["vllm"], name="wide", token_budget=100_000)
    with pytest.raises(ProfileError, match="tokens a step, 100000 are asked for"):
        run(TRUE, wide)
