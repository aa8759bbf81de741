"""What settings ask of an engine, of another one, and how they are read back from plain values."""

import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from blendsim.errors import InputError, UnknownName
from blendsim.pacing import Gains
from blendsim.serving.flavour import FLAVOURS, LRU
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings, remembered
from blendsim.specs import find_gpu, find_model

ASKED = Settings(
    token_budget=512, eviction="plan", output_reserved=0.25, nano_batches=2, cascade=True
)
RULES: dict[str, Any] = {
    "token_budget": 512,
    "max_running": 512,
    "output_reserved": 0.25,
    "cascade": True,
}


def test_an_engine_has_all_rules_that_are_asked_for() -> None:
    asked = replace(FLAVOURS["nanoflow"], **RULES, eviction="plan", nano_batches=2)
    assert ASKED.flavour() == ASKED.flavour("nanoflow") == asked
    knobs = Knobs(watermark=0.01)
    assert Settings(engine="vllm", knobs=knobs).flavour().knobs == knobs


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("dp", "2", "int"),
        ("token_budget", 1.5, "int"),
        ("kv_bytes", "a", "int"),
        ("seed", 1.5, "int"),
        ("seed", True, "int"),
        ("cascade", "yes", "bool"),
        ("model", None, "str"),
        ("sample", True, "float or str"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_line(name: str, value: Any, kind: str) -> None:
    told = f"Settings: {name} = {value!r} is not of type {kind}; mend it"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        Settings(**{name: value})


def test_gains_and_knobs_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match=r"^Gains: fill = 'a' is not of type float; mend it$"):
        Gains(fill="a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^Knobs: max_num_active_seqs = 1\.5 is not of type int"):
        Knobs(max_num_active_seqs=1.5)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_whole_ones_are_those_of_the_fields_types() -> None:
    given: dict[str, Any] = {"dp": np.int64(2), "sample": np.float64(0.5), "steal_seconds": 1}
    made = Settings(**given)
    assert made == Settings(dp=2, sample=0.5)
    assert [type(getattr(made, name)) for name in given] == [int, float, float]
    json.dumps(asdict(made))


def test_nothing_asked_for_is_the_engine_as_it_is() -> None:
    assert {name: Settings().flavour(name) for name in FLAVOURS} == FLAVOURS


def test_a_token_budget_goes_before_the_asked_one() -> None:
    assert ASKED.flavour(token_budget=1_024).token_budget == 1_024
    assert ASKED.flavour(token_budget=1_024).max_running == 1_024


def test_nano_batches_are_not_those_of_an_engine_that_does_not_overlap() -> None:
    assert ASKED.flavour("sequential").nano_batches == 1


@pytest.mark.parametrize("engine", ["vllm", "vllm-planned"])
def test_another_engine_whose_cache_goes_by_last_use_keeps_the_other_rules(engine: str) -> None:
    with pytest.raises(InputError, match=f"{engine} evicts by last use"):
        ASKED.flavour(engine)
    assert ASKED.for_engine(engine).flavour() == replace(FLAVOURS[engine], **RULES, eviction=LRU)


def test_the_same_engine_is_refused_an_eviction_that_it_has_not() -> None:
    asked = replace(ASKED, engine="vllm")
    assert asked.for_engine("vllm") == asked
    with pytest.raises(InputError, match="vllm evicts by last use"):
        asked.for_engine("vllm").flavour()


def test_another_engine_that_can_evict_by_the_plan_does() -> None:
    assert ASKED.for_engine("sequential") == replace(ASKED, engine="sequential")


def test_an_unknown_engine_is_told_where_its_rules_are_asked_for() -> None:
    with pytest.raises(UnknownName, match="unknown engine 'orca'"):
        ASKED.for_engine("orca").flavour()


def test_more_kv_memory_than_weights_leave_is_refused() -> None:
    most = 2 * find_gpu("a100-80g").memory_bytes - find_model("llama-3.1-8b").weight_bytes
    assert Settings(tp=2, kv_bytes=most).system.kv_capacity_bytes == most
    told = (
        f"^kv_bytes = {most + 1} is more than the {most} bytes that weights of llama-3.1-8b "
        "leave on 2 × a100-80g; give less$"
    )
    with pytest.raises(InputError, match=told):
        _ = Settings(tp=2, kv_bytes=most + 1).system
    assert Settings(gpu="h200", tp=2, kv_bytes=most + 1).system.kv_bytes == most + 1


def test_what_a_file_keeps_is_read_back() -> None:
    asked = replace(ASKED, engine="vllm", knobs=Knobs(watermark=0.5), pacing=Gains(crowd=0.5))
    assert remembered(json.loads(json.dumps(asdict(asked))), "plan") == asked
    assert remembered({"dp": 2, "kv_bytes": None}, "plan") == Settings(dp=2)  # of an older version
    with pytest.raises(InputError, match=r"^plan: no setting 'dpp'"):
        remembered({"dpp": 2}, "plan")


@pytest.mark.parametrize(
    ("gpu", "tokens"),
    [("a100-80g", 2_048), ("l40s", 2_048), ("h100", 8_192), ("h200", 8_192), ("b200", 8_192)],
)
def test_vllm_has_the_tokens_a_step_of_its_server_on_the_gpu(gpu: str, tokens: int) -> None:
    """As `get_batch_defaults` of vLLM 0.20.2 gives an API server."""
    for engine in ("vllm", "vllm-planned"):
        own = Settings(gpu=gpu, engine=engine)
        assert (own.flavour().token_budget, own.flavour().max_running) == (tokens, 1_024)
        assert replace(own, token_budget=512).flavour().token_budget == 512
    assert Settings(gpu=gpu).flavour().token_budget == 2_048
