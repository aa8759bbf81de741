"""Full replay: the simulator's steps, row by row, and the tokens that `transformers` generates."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_worlds import BUDGET, VOCAB, job_of, planned, pool, prompt_of
from torch import Tensor

from blendrt import clock, loading
from blendrt.batch import StepInputs
from blendrt.config import TINY, DecoderConfig
from blendrt.executor import Executor
from blendrt.executor.rule import OverlapRule
from blendrt.kv_pool import KvPool
from blendrt.loading import ModelChoice, Runtime, load_decoder, make_executor
from blendrt.replay import full
from blendrt.replay import warm_up as warm_up_module
from blendrt.replay.full import FullReplay
from blendrt.replay.job import Job
from blendrt.replay.warm_up import warm_up
from blendsim import search
from blendsim.errors import InputError
from blendsim.plan import Plan
from blendsim.request import Prompts, select
from blendsim.serving.core import ServingCore
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog, read_steplog, write_steplog

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama as `transformers` saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def greedy(model_directory: Path) -> list[list[int]]:
    """What `transformers` answers to each request, forty at a time."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    workload = pool()
    answers: list[list[int]] = [[] for _ in range(len(workload))]
    by_length = np.argsort(workload.output_len)
    for rows in np.split(by_length, 5):
        prompts = [prompt_of(workload, row) for row in rows]
        longest = max(map(len, prompts))
        padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        steps = int(workload.output_len[rows].max())
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs: no pad token, say
            tokens = model.generate(
                padded, attention_mask=mask, do_sample=False, pad_token_id=0,
                min_new_tokens=steps, max_new_tokens=steps,
            )  # fmt: skip
        for row, answer in zip(rows, tokens[:, longest:].tolist(), strict=True):
            answers[row] = answer[: workload.output_len[row]]
    return answers


def simulated(problem: search.Problem, plan: Plan) -> StepLog:
    job = job_of(problem, plan)
    return simulate(plan, job.workload, job.output_len, job.prompts, problem.model, job.flavour)


def replayed(job: Job, runtime: Runtime) -> tuple[StepLog, list[list[int]]]:
    replay = FullReplay(job)
    replay.measure(runtime)
    return replay.log({}), replay.outputs


@pytest.mark.parametrize(
    ("policy", "engine"),
    [("dfs", "nanoflow"), ("blend", "nanoflow"), ("blend", "vllm")],
)
def test_replay_runs_the_simulators_steps_and_generates_the_greedy_tokens(
    model_directory: Path, greedy: list[list[int]], policy: str, engine: str
) -> None:
    problem, plan = planned(policy, engine)
    decoder = load_decoder(
        ModelChoice(DecoderConfig.from_directory(model_directory), model_directory), 0, CPU
    )
    log, outputs = replayed(job_of(problem, plan), Runtime(decoder))
    expected = simulated(problem, plan)
    assert log.counts.tolist() == expected.counts.tolist()
    assert outputs == greedy
    # All that can go wrong does happen in this run:
    tokens = log.count("prefill_tokens") + log.count("decode_requests")
    assert (tokens == BUDGET).sum() > 50  # the budget bites
    assert log.count("prefill_requests").sum() > len(plan) + 50  # prompts come in chunks
    assert log.count("hit_tokens").sum() > 1_000  # prefixes are shared
    assert log.count("preempted").sum() >= 1  # requests are thrown out and recomputed


@pytest.fixture(scope="module")
def tiny() -> loading.Decoder:
    return load_decoder(ModelChoice(TINY, None), 0, CPU)


@pytest.fixture(scope="module")
def few() -> tuple[search.Problem, Plan]:
    """Forty of the requests in memory for a third of them."""
    return planned("blend", "nanoflow", select(pool(), np.arange(40)), blocks=30)


def test_nano_batches_of_one_step_may_share_prefixes(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan]
) -> None:
    job = job_of(*few)
    always = OverlapRule(least_tokens=1, least_decodes=2)
    log, outputs = replayed(job, Runtime(tiny, "overlap", rule=always))
    expected, sequential = replayed(job, Runtime(tiny))
    assert outputs == sequential
    assert log.counts.tolist() == expected.counts.tolist()


def test_a_log_names_the_steps_that_were_cut_in_halves(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan], tmp_path: Path
) -> None:
    job, some = job_of(*few), OverlapRule(least_tokens=20, least_decodes=5)
    log, _ = replayed(job, Runtime(tiny, "overlap", rule=some))
    write_steplog(log, tmp_path / "steps.parquet")
    decodes, tokens = log.count("decode_requests"), log.count("prefill_tokens")
    right = (decodes >= 5) & (tokens + decodes >= 20)
    assert 1 < right.sum() < len(log)
    assert read_steplog(tmp_path / "steps.parquet").is_halved.tolist() == right.tolist()
    assert replayed(job, Runtime(tiny))[0].meta["halved"] == []


def test_each_rank_is_replayed_as_its_replica(tiny: loading.Decoder) -> None:
    problem, plan = planned("blend", "nanoflow", select(pool(), np.arange(60)), dp=3)
    log, outputs = replayed(job_of(problem, plan), Runtime(tiny))
    expected = simulated(problem, plan)
    assert log.replica.tolist() == expected.replica.tolist()
    assert log.counts.tolist() == expected.counts.tolist()
    assert [len(output) for output in outputs] == problem.workload.output_len.tolist()
    starts = log.time("start")[np.flatnonzero(np.diff(log.replica, prepend=-1))]
    assert starts.tolist() == [0.0, 0.0, 0.0]


def test_times_are_those_of_a_clock_that_goes_on(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan]
) -> None:
    log, _ = replayed(job_of(*few), Runtime(tiny))
    start, seconds = log.time("start"), log.time("seconds")
    assert start[0] == 0.0
    assert (seconds > 0).all()
    assert (start[1:] >= start[:-1] + seconds[:-1]).all()
    assert not log.time("compute_seconds").any()  # not measured apart
    assert not log.time("memory_seconds").any()


class Breaking:
    """An executor that fails in its nth step."""

    def __init__(self, inner: Executor, step: int, error: Exception) -> None:
        self._inner, self._left, self._error = inner, step, error

    def run(self, inputs: StepInputs) -> Tensor:
        if self._left == 0:
            raise self._error
        self._left -= 1
        return self._inner.run(inputs)

    @property
    def is_halved(self) -> bool:
        return self._inner.is_halved


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    def arrange(error: Exception) -> None:
        monkeypatch.setattr(
            warm_up_module,
            "make_executor",
            lambda runtime, pool: Breaking(make_executor(runtime, pool), 5, error),
        )

    return arrange


def test_crash_leaves_the_steps_so_far(
    tiny: loading.Decoder,
    few: tuple[search.Problem, Plan],
    broken: Callable[[Exception], None],
    tmp_path: Path,
) -> None:
    broken(RuntimeError("the device is gone"))
    replay = FullReplay(job_of(*few))
    with pytest.raises(RuntimeError, match="the device is gone"):
        replay.measure(Runtime(tiny))
    write_steplog(replay.log({}), tmp_path / "steps.parquet")
    log = read_steplog(tmp_path / "steps.parquet")
    assert log.counts.tolist() == simulated(*few).counts[:5].tolist()
    assert log.meta["complete"] is False


def test_memory_that_runs_out_is_a_users_error(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan], broken: Callable[[Exception], None]
) -> None:
    broken(torch.OutOfMemoryError("no memory"))
    with pytest.raises(InputError, match=r"out of memory in step 5: up to 96 tokens a step"):
        FullReplay(job_of(*few)).measure(Runtime(tiny))


def test_pool_that_does_not_fit_says_how_many_blocks_do(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = 2 * 2 * 16 * 32 * 4  # K and V, layers, tokens, width, bytes: the tiny model's
    monkeypatch.setattr(loading, "free_bytes", lambda device: 20 * block)
    monkeypatch.setattr(full, "require_attention_room", lambda *_: None)
    with pytest.raises(InputError, match=r"19 blocks fit: plan again with kv_bytes = 39845888"):
        FullReplay(job_of(*few)).measure(Runtime(tiny))


def test_context_too_long_for_the_reference_says_what_fits(
    tiny: loading.Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = 3 * 4 * 4 * 2_048
    monkeypatch.setattr(loading, "free_bytes", lambda device: row * 9_000)
    loading.require_attention_room(tiny, 2_048, 9_000)
    with pytest.raises(InputError, match=r"has 9,001 tokens.*9,000 tokens fit"):
        loading.require_attention_room(tiny, 2_048, 9_001)


def test_warm_up_changes_no_token(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(*few)
    _, expected = replayed(job, Runtime(tiny))

    def warmed(runtime: Runtime, pool: KvPool) -> Executor:
        executor = make_executor(runtime, pool)
        warm_up(executor, pool, BUDGET, CPU)
        return executor

    monkeypatch.setattr(warm_up_module, "make_executor", warmed)
    assert replayed(job, Runtime(tiny))[1] == expected


class Event:
    """A CUDA event on a device that gets on only when somebody waits."""

    moment = 0.0  # milliseconds
    reached = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.moment += 5.0
        self.at = Event.moment

    def query(self) -> bool:
        return self.at <= Event.reached

    def synchronize(self) -> None:
        Event.reached = max(Event.reached, self.at)

    def elapsed_time(self, later: "Event") -> float:
        return later.at - self.at


def test_host_waits_only_for_steps_beyond_those_it_may_leave_unfinished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    events = clock.EventClock()
    for _ in range(3):
        events.begin()
        events.end()
    assert list(events.ended(1)) == [(0.0, 0.005), (0.01, 0.005)]
    assert Event.reached == 20.0  # the second step's end
    assert list(events.ended(1)) == []
    assert list(events.ended(0)) == [(0.02, 0.005)]


def test_small_models_run_on_one_thread_and_leave_the_others_as_they_were(
    tiny: loading.Decoder,
) -> None:
    torch.set_num_threads(2)
    with loading.thread_for_small(tiny):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_output_lengths_of_a_job_are_forced_whatever_the_trace_says(
    tiny: loading.Decoder, few: tuple[search.Problem, Plan]
) -> None:
    job = job_of(*few)
    shorter = job._replace(output_len=np.ones(len(few[1]), np.int64))
    log, outputs = replayed(shorter, Runtime(tiny))
    assert [len(output) for output in outputs] == [1] * len(few[1])
    assert not log.count("decode_requests").any()


def test_prompts_of_unknown_content_follow_the_seed(tiny: loading.Decoder) -> None:
    blind = replace(select(pool(), np.arange(8)), prompts=Prompts.unshared(8))
    job = job_of(*planned("fcfs", "nanoflow", blind))
    first, again, other = (replayed(job, Runtime(tiny, seed=seed))[1] for seed in (1, 1, 2))
    assert first == again != other


def test_an_interrupt_behind_a_steps_end_is_told_as_one_and_keeps_the_steps_before(
    tiny: loading.Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, plan = planned("dfs", "sequential")
    run = FullReplay(job_of(problem, plan))
    commit, steps = ServingCore.commit, 0

    def struck(core: ServingCore) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        commit(core)

    monkeypatch.setattr(ServingCore, "commit", struck)
    with pytest.raises(KeyboardInterrupt):
        run.measure(Runtime(tiny, "sequential", 0, OverlapRule()))
    assert len(run.log({})) == 4
