"""vLLM as an engine: what it is given, and what is read off its scheduler.

vLLM itself is not run here: a stand-in is (vllm_stand_in).
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from replay_worlds import BLOCKS, BUDGET, job_of, planned, pool, prompt_of
from vllm_stand_in import StandInLLM, install

from blendrt.config import TINY, DecoderConfig
from blendrt.loading import ModelChoice
from blendrt.recorder import Recorder
from blendrt.vllm.feed import (
    VllmReplay,
    admission_rows,
    graph_sizes,
    open_engine,
    warm_up,
    write_config,
)
from blendrt.vllm.following import ROW
from blendrt.vllm.watch import SchedulerWatch
from blendsim.errors import InputError, Unavailable
from blendsim.request import select
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate
from blendsim.specs import find_model
from blendsim.steplog import COUNTS

#: What vLLM does not say, or says otherwise.
UNTOLD = {"cached_blocks", "left_tokens", "right_tokens", "preempted_tokens"}


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    return install(monkeypatch)


def test_vllm_gets_the_plans_order_lengths_and_memory(vllm: type[StandInLLM]) -> None:
    problem, plan = planned("dfs", "vllm")
    job = job_of(problem, plan)
    replay = VllmReplay(job)
    replay.measure(ModelChoice(TINY, None))
    (engine,) = vllm.made
    assert [ids for ids, _ in engine.given] == [prompt_of(pool(), row) for row in plan.order]
    assert [params for _, params in engine.given] == [
        {
            "max_tokens": int(job.output_len[row]),
            "ignore_eos": True,
            "temperature": 0.0,
            "detokenize": False,
            "extra_args": {ROW: row},
        }
        for row in plan.order.tolist()
    ]
    assert [len(output) for output in replay.outputs] == job.output_len.tolist()
    told = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "block_size": 16,
        "num_gpu_blocks_override": BLOCKS + 1,
        "kv_cache_memory_bytes": (BLOCKS + 1) * 16 * job.system.kv_bytes_per_token,
        "max_model_len": int((job.workload.prompt_len + job.output_len).max()),
        "max_num_batched_tokens": BUDGET,
        "max_num_seqs": BUDGET,
        "enable_prefix_caching": True,
    }
    assert told.items() <= engine.arguments.items()
    assert engine.config["vocab_size"] == TINY.vocab


def test_steps_read_off_the_scheduler_are_those_it_ran(vllm: type[StandInLLM]) -> None:
    problem, plan = planned("dfs", "vllm")
    job = job_of(problem, plan)
    replay = VllmReplay(job)
    replay.measure(ModelChoice(TINY, None))
    log = replay.log({})
    expected = simulate(plan, job.workload, job.output_len, job.prompts, problem.model, job.flavour)
    assert len(log) == len(expected)
    for name in set(COUNTS) - UNTOLD:
        assert log.count(name).tolist() == expected.count(name).tolist(), name
    assert expected.count("preempted").sum() > 5
    assert (log.count("preempted_tokens") >= expected.count("preempted_tokens")).all()
    assert (log.time("seconds") > 0).all()
    assert (np.diff(log.time("start")) > 0).all()
    assert log.meta["complete"] is True


def test_ranks_run_one_after_another_on_one_engine(vllm: type[StandInLLM]) -> None:
    problem, plan = planned("dfs", "vllm", select(pool(), np.arange(40)), dp=2)
    replay = VllmReplay(job_of(problem, plan))
    heard: list[int] = []
    replay.measure(ModelChoice(TINY, None), told=heard.append)
    (engine,) = vllm.made
    assert engine.resets == 2
    assert heard == np.cumsum(np.bincount(plan.rank)).tolist()
    assert np.unique(replay.log({}).replica).tolist() == [0, 1]
    finished = np.bincount(replay.log({}).replica, replay.log({}).count("finished"))
    assert finished.tolist() == np.bincount(plan.rank).tolist()


def test_one_engine_serves_one_plan_after_another(vllm: type[StandInLLM]) -> None:
    """Starting vLLM takes a minute. Each log is of its own plan's steps."""
    jobs = [job_of(*planned(policy, "vllm")) for policy in ("dfs", "blend")]
    choice, logs = ModelChoice(TINY, None), []
    with open_engine(jobs[0], choice) as engine:
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        plain = scheduler.schedule
        for job in jobs:
            replay = VllmReplay(job)
            replay.measure_on(engine, choice.config.vocab)
            logs.append(replay.log({}))
            assert scheduler.schedule == plain
    assert len(vllm.made) == 1
    assert [int(log.count("finished").sum()) for log in logs] == [200, 200]
    assert all(log.time("start")[0] == 0.0 for log in logs)


def test_a_smaller_budget_runs_on_the_same_engine(vllm: type[StandInLLM]) -> None:
    problem, plan = planned("dfs", "vllm")
    job, choice = job_of(problem, plan), ModelChoice(TINY, None)
    small = job._replace(flavour=find_flavour("vllm", BUDGET // 2))
    with open_engine(job, choice) as engine:
        replay = VllmReplay(small)
        replay.measure_on(engine, choice.config.vocab)
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        assert (scheduler.max_num_scheduled_tokens, scheduler.max_num_running_reqs) == (96, 96)
    log = replay.log({})
    of = (plan, job.workload, job.output_len, job.prompts, problem.model)
    expected = simulate(*of, small.flavour)
    for name in set(COUNTS) - UNTOLD:
        assert log.count(name).tolist() == expected.count(name).tolist(), name
    with (
        open_engine(small, choice) as engine,
        pytest.raises(InputError, match="made for 48 tokens"),
    ):
        VllmReplay(job).measure_on(engine, choice.config.vocab)


def test_warming_up_leaves_no_prefix_behind(vllm: type[StandInLLM]) -> None:
    job = job_of(*planned("dfs", "vllm"))
    with open_engine(job, ModelChoice(TINY, None)) as engine:
        warm_up(engine, job, TINY.vocab, requests=40)
    assert [ids for ids, _ in engine.given] == [prompt_of(pool(), row) for row in range(40)]
    assert max(params["max_tokens"] for _, params in engine.given) == 12
    assert engine.resets == 1


@pytest.mark.parametrize(("most", "last"), [(7, [4, 7]), (512, [496, 512]), (1000, [992, 1000])])
def test_every_decode_batch_has_a_graph(most: int, last: list[int]) -> None:
    sizes = graph_sizes(most)
    assert sizes[-2:] == last
    assert sizes == sorted(set(sizes))
    assert max(np.diff([0, *sizes])) <= 32


def test_plan_from_both_ends_is_told_in_the_order_it_admits() -> None:
    problem, plan = planned("blend", "vllm")
    job = job_of(problem, plan)
    rows = admission_rows(job.core(0))
    assert sorted(rows) == list(range(len(plan)))
    place = np.argsort(plan.order)[rows]
    first = int(plan.is_first.sum())
    assert place[:first].tolist() == list(range(first))
    jumps = np.diff(place[first:])
    assert (jumps < -1).any()  # the back end
    assert (jumps > 1).any()  # and the front again


def test_in_order_plan_is_told_as_it_stands() -> None:
    problem, plan = planned("dfs", "vllm")
    assert admission_rows(job_of(problem, plan).core(0)) == plan.order.tolist()


class Flight:
    """A scheduler with two steps under way, the second empty, at times that are set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.requests = {
            "a": SimpleNamespace(num_prompt_tokens=3, num_tokens=3, num_computed_tokens=0)
        }
        self.running = ["a"]
        block_pool = SimpleNamespace(num_gpu_blocks=5, get_num_free_blocks=lambda: 3)
        self.kv_cache_manager = SimpleNamespace(block_pool=block_pool)
        self.tokens = [3, 1, 0]

    def schedule(self) -> Any:
        tokens = self.tokens.pop(0)
        self.requests["a"].num_computed_tokens += tokens
        return SimpleNamespace(
            num_scheduled_tokens={"a": tokens} if tokens else {}, preempted_req_ids=None
        )

    def update_from_output(self, output: Any) -> None:
        self.requests["a"].num_tokens += 1


def test_step_scheduled_ahead_begins_when_the_one_before_ends() -> None:
    scheduler, recorder = Flight(), Recorder()
    SchedulerWatch(scheduler, recorder, 0, now=lambda: scheduler.now)
    first = scheduler.schedule()
    scheduler.now = 1.0
    second = scheduler.schedule()
    scheduler.now = 3.0
    scheduler.update_from_output(first)
    empty = scheduler.schedule()
    scheduler.now = 4.5
    scheduler.update_from_output(second)
    scheduler.update_from_output(empty)
    log = recorder.log({})
    assert log.time("start").tolist() == [0.0, 3.0]
    assert log.time("seconds").tolist() == [3.0, 1.5]
    assert log.count("prefill_tokens").tolist() == [3, 0]
    assert log.count("decode_requests").tolist() == [0, 1]
    assert log.count("context_tokens").tolist() == [0, 4]
    assert log.count("held_blocks").tolist() == [1, 1]


def test_step_that_was_under_way_before_is_none_of_the_log() -> None:
    scheduler, recorder = Flight(), Recorder()
    old = SimpleNamespace(num_scheduled_tokens={}, preempted_req_ids=None)
    SchedulerWatch(scheduler, recorder, 0, now=lambda: scheduler.now)
    first = scheduler.schedule()
    scheduler.now = 1.0
    scheduler.update_from_output(old)
    scheduler.now = 3.0
    scheduler.update_from_output(first)
    assert recorder.log({}).time("seconds").tolist() == [3.0]


@pytest.mark.parametrize(
    ("model", "family"),
    [("llama-3.1-8b", "Llama"), ("qwen-2.5-7b", "Qwen2"), ("qwen3-8b", "Qwen3")],
)
def test_config_for_dummy_weights_is_read_back_as_the_same_shape(
    tmp_path: Path, model: str, family: str
) -> None:
    config = DecoderConfig.from_spec(find_model(model))
    write_config(config, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == [f"{family}ForCausalLM"]
    again = DecoderConfig.from_directory(tmp_path)
    shape = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
    for name in (*shape, "context", "qkv_bias", "qk_norm", "tied_embeddings"):
        assert getattr(again, name) == getattr(config, name), name


def test_missing_vllm_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(Unavailable, match=r"vllm.*pip install 'blendsim\[vllm\]'"):
        VllmReplay(job_of(*planned("dfs", "vllm"))).measure(ModelChoice(TINY, None))
