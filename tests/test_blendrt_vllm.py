"""vLLM as an engine: what it is given, and what is read off its scheduler.

vLLM itself is not run here. A stand-in has the attributes that are used of it, and schedules by our
own core under vLLM's rules, whose steps are held to vLLM's in test_vllm_parity.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from replay_worlds import BLOCKS, BUDGET, job_of, planned, pool, prompt_of
from vllm_worlds import core_of

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
from blendrt.vllm.watch import SchedulerWatch
from blendsim.errors import InputError, Unavailable
from blendsim.request import select
from blendsim.serving.flavour import find_flavour
from blendsim.serving.state import DECODING, PREFILLING
from blendsim.sim.run import simulate
from blendsim.specs import find_model
from blendsim.steplog import COUNTS, read_steplog

#: What vLLM does not say, or says otherwise.
UNTOLD = {"cached_blocks", "left_tokens", "right_tokens", "preempted_tokens"}


class StandInScheduler:
    """The parts of vLLM's scheduler that are listened to."""

    def __init__(self, budget: int, running: int) -> None:
        self.requests: dict[str, Any] = {}
        self.running: list[int] = []
        self.max_num_scheduled_tokens = budget
        self.max_num_running_reqs = running
        free = lambda: BLOCKS - self.core.counts()["held_blocks"]  # noqa: E731
        block_pool = SimpleNamespace(num_gpu_blocks=BLOCKS + 1, get_num_free_blocks=free)
        self.kv_cache_manager = SimpleNamespace(block_pool=block_pool)

    def add(self, prompts: list[list[int]], outputs: list[int]) -> None:
        """The requests of one run."""
        world = {
            "prompts": prompts,
            "outputs": outputs,
            "capacity": BLOCKS,
            "budget": self.max_num_scheduled_tokens,
            "max_running": self.max_num_running_reqs,
            "sharing": True,
        }
        self.core = core_of(world)
        self.requests = {
            str(i): SimpleNamespace(
                num_prompt_tokens=len(prompt), num_tokens=len(prompt), num_computed_tokens=0
            )
            for i, prompt in enumerate(prompts)
        }

    def _now_running(self) -> list[int]:
        status = self.core.state.requests.status
        return np.flatnonzero(np.isin(status, (PREFILLING, DECODING))).tolist()

    def schedule(self) -> Any:
        before = self._now_running()
        self.core.step()
        self.running = self._now_running()
        out = {str(k) for k in before if k not in self.running}
        for name in out:
            self.requests[name].num_computed_tokens = 0
        tokens = {}
        for row, computed, number in zip(*self.core.scheduled(), strict=True):
            tokens[str(row)] = int(number)
            self.requests[str(row)].num_computed_tokens = int(computed + number)
        return SimpleNamespace(num_scheduled_tokens=tokens, preempted_req_ids=out)

    def update_from_output(self, output: Any, tokens: Any) -> None:
        assert tokens == "tokens"
        for name in output.num_scheduled_tokens:
            request = self.requests[name]
            if request.num_computed_tokens == request.num_tokens:
                request.num_tokens += 1
        self.core.commit()
        done = self.core.state.requests.status
        for name in output.num_scheduled_tokens:
            if done[int(name)] not in (PREFILLING, DECODING):
                del self.requests[name]


class StandInLLM:
    """The parts of vLLM's offline engine that are used."""

    made: ClassVar[list["StandInLLM"]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.config = json.loads((Path(arguments["model"]) / "config.json").read_text())
        self.given: list[tuple[list[int], dict[str, Any]]] = []
        self.resets = 0
        self.scheduler = StandInScheduler(
            arguments["max_num_batched_tokens"], arguments["max_num_seqs"]
        )
        core = SimpleNamespace(scheduler=self.scheduler)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(engine_core=core))
        StandInLLM.made.append(self)

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.given += list(zip(ids, params, strict=True))
        lengths = [param["max_tokens"] for param in params]
        self.scheduler.add(ids, lengths)
        while self.scheduler.requests:
            self.scheduler.update_from_output(self.scheduler.schedule(), "tokens")
        answers = [SimpleNamespace(token_ids=[7] * length) for length in lengths]
        return [SimpleNamespace(outputs=[answer]) for answer in answers]

    def reset_prefix_cache(self) -> None:
        self.resets += 1


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    module = ModuleType("vllm")
    module.LLM = StandInLLM  # type: ignore[attr-defined]
    module.SamplingParams = dict  # type: ignore[attr-defined]
    module.TokensPrompt = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setattr(StandInLLM, "made", [])
    return StandInLLM


def test_vllm_gets_the_plans_order_lengths_and_memory(vllm: type[StandInLLM]) -> None:
    problem, plan = planned("dfs", "vllm")
    job = job_of(problem, plan)
    replay = VllmReplay(job)
    replay.measure(ModelChoice(TINY, None))
    (engine,) = vllm.made
    assert [ids for ids, _ in engine.given] == [prompt_of(pool(), row) for row in plan.order]
    assert [params for _, params in engine.given] == [
        {"max_tokens": d, "ignore_eos": True, "temperature": 0.0, "detokenize": False}
        for d in job.output_len[plan.order].tolist()
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
    SchedulerWatch(scheduler, recorder, 0, lambda: scheduler.now)
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
    SchedulerWatch(scheduler, recorder, 0, lambda: scheduler.now)
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


@pytest.fixture
def script(
    vllm: type[StandInLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """bench/gpu_vllm.py on two orders of the pool, with further arguments: what it prints."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "bench"))
    import gpu_vllm

    plans = tmp_path / "plans"
    plans.mkdir()
    jobs = {policy: job_of(*planned(policy, "vllm")) for policy in ("dfs", "blend")}
    for policy in jobs:
        (plans / f"small-{policy}.parquet").touch()

    def job(one: Any, budget: int) -> tuple[Any, dict[str, str]]:
        return jobs[one.policy]._replace(flavour=find_flavour("vllm", budget)), {"a": "plan"}

    def run(*further: str) -> str:
        argv = ["gpu_vllm.py", "--plans", str(plans), "--pool", "small", "--model", "tiny"]
        monkeypatch.setattr(sys, "argv", [*argv, "-o", str(tmp_path / "out"), *further])
        printed = StringIO()
        with redirect_stdout(printed):
            gpu_vllm.main()
        return printed.getvalue()

    monkeypatch.setattr(gpu_vllm, "vllm_job", job)
    return run


def runs_told(printed: str) -> list[list[str]]:
    """Policy and budget of every row of the table."""
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| small")]
    return [row[1:3] for row in rows]


def test_the_script_runs_every_order_on_one_engine_and_goes_on_where_it_stopped(
    vllm: type[StandInLLM], script: Callable[..., str], tmp_path: Path
) -> None:
    first = script("--budget", "96", "48")
    assert runs_told(first) == [["dfs", "96"], ["dfs", "48"], ["blend", "96"], ["blend", "48"]]
    assert len(vllm.made) == 1
    assert (tmp_path / "out" / "summary.md").read_text() == first
    assert script("--budget", "96", "48") == first
    assert len(vllm.made) == 1


def test_the_script_starts_no_run_when_its_time_is_over(
    vllm: type[StandInLLM], script: Callable[..., str]
) -> None:
    script("--budget", "96", "--policy", "dfs")
    assert runs_told(script("--budget", "96", "--within", "0")) == [["dfs", "96"]]
    assert len(vllm.made) == 1


def test_a_run_that_does_not_end_in_time_is_cut_short(
    script: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StandInScheduler.schedule

    def slow(scheduler: StandInScheduler) -> Any:
        time.sleep(0.2)
        return plain(scheduler)

    assert script("--budget", "96", "--prepare") == ""  # compiles, out of the time below
    script("--budget", "96", "--policy", "dfs")
    monkeypatch.setattr(StandInScheduler, "schedule", slow)
    monkeypatch.setattr("blendrt.vllm.feed.warm_up", lambda engine, job, vocab: None)
    assert runs_told(script("--budget", "96", "--within", "4")) == [["dfs", "96"]]
    broken = read_steplog(tmp_path / "out" / "small-blend-vllm-96.broken.parquet")
    assert not broken.meta["complete"]
    assert 0 < broken.count("finished").sum() < 200
