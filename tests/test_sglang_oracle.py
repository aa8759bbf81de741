"""The rounds of SGLang's flavour against a slow second implementation, step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from oracle_sglang import RoundWorld
from sglang_worlds import compare, roomy, round_worlds


@settings(max_examples=400, deadline=None)
@given(round_worlds())
def test_rounds_decide_what_the_slow_core_decides(world: RoundWorld) -> None:
    assert compare(world) > 0
