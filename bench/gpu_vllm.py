"""vLLM on the same GPU with the same pools: a plan's order, dummy weights, fixed output lengths.

    python bench/gpu_vllm.py --plans build/gpu-plans --pool trace1 [--policy dfs blend paced]
        [--scheduler plan vllm] [--budget 8192 …] [--within 300] -o gpu-vllm
    python bench/gpu_vllm.py --plans build/gpu-plans --runs trace1/dfs/vllm/8192/320 … -o gpu-vllm

Runs where vLLM and torch are (simpy is not needed), in vLLM's own environment. One engine is
started, with prefix caching, asynchronous scheduling and torch.compile as vLLM has them by itself
and CUDA graphs for every decode batch there can be. On it every policy's order is run under every
token budget, in the order in which policies are named. After each run its step log is written and a
row of the table (summary.md): tokens a second counts prompts and outputs over the time from first
step to last. Called again with the same -o, it leaves out what is there. With --within no run is
started that would not end in that many seconds if it took as long as the longest before it, and one
that has not ended by then is cut short.

With `--scheduler plan vllm` every order is run twice on the engine: with vLLM following the plan
step by step, and scheduling by itself. Such runs' logs are called …-followed-… instead of …-vllm-….
A plan that is taken from both ends is followed with the admission of the engine that it was made
for, one in order with that of `vllm-planned`: while the predicted peak fits. A plan made under a
token budget of its own is followed under that one alone.

`--runs` names every run by itself, in the order they are made in: pool, policy, scheduler, token
budget and, if it is not to be vLLM's own, how many requests run at a time. Pools may have less KV
memory than others of the same system: the engine is made for the most, and holds the rest back.
"""

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from gpu_options import say
from gpu_replays import Planned, plans_of, read_job, run_seconds
from machine import row, today

HEAD = row(
    "pool", "policy", "token budget", "running at most", "scheduler", "seconds", "tokens/s",
    "steps", "differed", "recomputed", "shared",
)  # fmt: skip
VLLM, PLAN = "vllm", "plan"  # who decides the steps
BROKEN = ".broken"  # ends the name of a log that was cut short


class Run(NamedTuple):
    """A plan under a token budget, and where its log goes."""

    pool: str
    policy: str
    budget: int
    scheduler: str
    job: Any
    meta: dict[str, Any]
    place: Path


class Asked(NamedTuple):
    """A run by its names. `running` is vLLM's own where it is None."""

    pool: str
    policy: str
    scheduler: str
    budget: int
    running: int | None = None

    @property
    def stem(self) -> str:
        """What its log is called."""
        how = "followed" if self.scheduler == PLAN else "vllm"
        limit = "" if self.running is None else f"-of-{self.running}"
        return f"{self.pool}-{self.policy}-{how}-{self.budget}{limit}"


def read_run(text: str) -> Asked:
    """A run as `--runs` has it. ValueError for anything else."""
    pool, policy, scheduler, budget, *running = text.split("/")
    if scheduler not in (VLLM, PLAN) or len(running) > 1:
        raise ValueError(text)
    return Asked(pool, policy, scheduler, int(budget), *map(int, running))


class TimeIsUp(Exception):
    """Raised in a run that has not ended when the time given is over."""


def asked_runs(given: argparse.Namespace) -> list[Run]:
    """Every order under every budget, the budgets of one order together, and of a budget the
    schedulers; or those named one by one.
    """
    every = product(given.pool, given.policy, given.budget, given.scheduler)
    named = [Asked(pool, policy, how, budget) for pool, policy, budget, how in every]
    runs: dict[Path, Run] = {}
    for asked in given.runs or named:
        for one in plans_of(given.plans, asked.pool, [asked.policy]):
            run = planned_run(asked, one, given.output)
            runs.setdefault(run.place, run)
    return list(runs.values())


def planned_run(asked: Asked, one: Planned, out: Path) -> Run:
    """A plan on vLLM."""
    from blendrt.vllm.lead import admitting_as, follows
    from blendsim.serving.flavour import VLLM_PLANNED
    from blendsim.settings import remembered

    planned, meta = read_job(one, VLLM)
    settings = remembered(meta["settings"], f"{one.plan}: settings")
    is_led = asked.scheduler == PLAN
    if is_led:  # by a plan that was found under a budget under that one
        asked = asked._replace(budget=settings.token_budget or asked.budget)
    job = vllm_job(planned, settings, asked.budget)
    if asked.running is not None:
        job = job._replace(flavour=replace(job.flavour, max_running=asked.running))
    if is_led:  # one in order as vllm-planned: else vLLM does the same by itself
        job = admitting_as(job, settings.engine if follows(job) else VLLM_PLANNED)
    place = out / f"{asked.stem}.parquet"
    return Run(asked.pool, asked.policy, asked.budget, asked.scheduler, job, meta, place)


def vllm_job(planned: Any, settings: Any, budget: int) -> Any:
    """A plan's job on vLLM at this token budget, and by its settings for the rest."""
    return planned._replace(flavour=settings.for_engine(VLLM).flavour(token_budget=budget))


def rows(runs: list[Run], model: str, ends: float) -> Iterator[str]:
    """A row of the table for every run that is there or can be made before `ends`."""
    from blendrt.loading import ModelChoice
    from blendrt.profiler.target import find_decoder

    choice = ModelChoice(find_decoder(model), None)
    longest = 0.0  # seconds of a run
    with ExitStack() as stack:
        engine: Any = None
        for one in runs:
            if not one.place.exists():
                if time.monotonic() + longest > ends:
                    say(f"{one.place.stem}: no time left")
                    continue
                engine = engine or started(stack, runs, choice)
                start = time.monotonic()
                try:
                    execute(one, choice.config, engine, ends)
                except TimeIsUp:
                    say(f"{one.place.stem}: cut short; its first steps are kept")
                    return
                longest = max(longest, time.monotonic() - start)
            yield line(one)


def started(stack: ExitStack, runs: list[Run], choice: Any) -> Any:
    """An engine for all runs, until the stack ends."""
    from blendrt.vllm.feed import longest_request, open_engine, warm_up

    start = time.perf_counter()
    if len({replace(one.job.system, kv_bytes=None) for one in runs}) > 1:
        raise SystemExit("the plans are for several systems; give pools of one")
    largest = largest_job([one.job for one in runs])
    longest = max(longest_request(one.job) for one in runs)
    can_follow = any(one.scheduler == PLAN for one in runs)
    opened = open_engine(largest, choice, longest=longest, can_follow=can_follow)
    engine = stack.enter_context(opened)
    say(f"vLLM is ready after {time.perf_counter() - start:.0f} s")
    warm_up(engine, largest, choice.config.vocab)
    say(f"and warm after {time.perf_counter() - start:.0f} s")
    return engine


def largest_job(jobs: list[Any]) -> Any:
    """A job with the token budget, running limit and KV memory that suffice for each."""
    flavours = [job.flavour for job in jobs]
    return jobs[0]._replace(
        system=max((job.system for job in jobs), key=lambda system: system.kv_blocks),
        flavour=replace(
            flavours[0],
            token_budget=max(flavour.token_budget for flavour in flavours),
            max_running=max(flavour.max_running for flavour in flavours),
        ),
    )


def execute(one: Run, config: Any, engine: Any, ends: float) -> None:
    """One run; if it fails, the log has the steps so far, under another name."""
    from blendrt.vllm.feed import VllmReplay
    from blendsim.steplog import write_steplog

    say(f"{one.place.stem} …")
    replay = VllmReplay(one.job, is_plain=one.scheduler == VLLM)
    stop_at(ends)
    try:
        replay.measure_on(engine, config.vocab)
    finally:
        stop_at(float("inf"))
        facts: dict[str, Any] = {
            "engine": "vllm",
            "runtime": "vllm",
            "model": config.name,
            "weights": "random",
        }
        flavour = one.job.flavour
        facts |= {"scheduler": one.scheduler, "token_budget": flavour.token_budget}
        facts["max_running"] = flavour.max_running
        log = replay.log({**one.meta, **facts, "versions": versions()})
        if len(log):
            done = bool(log.meta["complete"])
            write_steplog(log, one.place if done else one.place.with_suffix(f"{BROKEN}.parquet"))


def stop_at(ends: float) -> None:
    """Raise TimeIsUp in the main thread then; never at infinity."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    signal.signal(signal.SIGALRM, stop)
    left = max(0.1, ends - time.monotonic())
    signal.setitimer(signal.ITIMER_REAL, 0.0 if left == float("inf") else left)


def versions() -> dict[str, str]:
    """What ran."""
    found = {}
    for package in ("vllm", "torch", "flashinfer-python"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def line(one: Run) -> str:
    """A row of the table."""
    from blendsim.steplog import read_steplog

    log = read_steplog(one.place)
    prompts, outputs = int(one.job.workload.prompt_len.sum()), int(one.job.output_len.sum())
    seconds = run_seconds(log)
    return row(
        one.pool,
        one.policy,
        f"{one.budget:,}",
        f"{one.job.flavour.max_running:,}",
        one.scheduler,
        f"{seconds:.1f}",
        f"{(prompts + outputs) / seconds:,.0f}",
        f"{len(log):,}",
        differed(log),
        f"{int(log.count('preempted_tokens').sum()):,}",
        f"{log.count('hit_tokens').sum() / prompts:.1%}",
    )


def differed(log: Any) -> str:
    """Steps that were not as the plan decided, and those after which vLLM went on alone."""
    if (courses := log.meta.get("followed")) is None:
        return "–"
    given_up = [f", alone from {course['given_up']:,}" for course in courses if course["given_up"]]
    return f"{sum(course['differed'] for course in courses):,}{''.join(given_up)}"


def prepare(runs: list[Run]) -> None:
    """Compile what the runs call of blendsim; the code stays in numba's cache."""
    from blendrt.vllm.feed import admission_rows
    from blendrt.vllm.lead import Lead, leading_core

    for one in runs:
        rank = one.job.ranks[0]
        admission_rows(one.job.core(rank))
        if one.scheduler == PLAN:
            Lead(leading_core(one.job, rank, one.job.system.kv_blocks))


def main() -> None:
    """Run all that is asked for; print the table row by row."""
    begins = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=Path, default=Path("build/gpu-plans"))
    parser.add_argument("--pool", nargs="+", default=["trace1"], help="as in the plans' names")
    parser.add_argument("--policy", nargs="+", default=["dfs", "blend"])
    parser.add_argument(
        "--scheduler", nargs="+", choices=[VLLM, PLAN], default=[VLLM], help="who decides the steps"
    )
    parser.add_argument("--budget", nargs="+", type=int, default=[8192], help="tokens a step")
    parser.add_argument(
        "--runs", nargs="+", type=read_run, metavar="POOL/POLICY/SCHEDULER/BUDGET[/RUNNING]"
    )
    parser.add_argument("--model", default="llama-3.1-8b", help="of the plans")
    parser.add_argument("--within", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument(
        "--prepare", action="store_true", help="compile only, which may go on beside an unpacking"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-vllm"))
    given = parser.parse_args()
    runs = asked_runs(given)
    if given.prepare:
        return prepare(runs)
    given.output.mkdir(parents=True, exist_ok=True)
    lines = [f"vLLM, {today()}, {versions()}", "", HEAD, row(*["---"] * 11)]
    print(*lines, sep="\n", flush=True)
    for told in rows(runs, given.model, begins + given.within):
        lines.append(told)
        print(told, flush=True)
        (given.output / "summary.md").write_text("\n".join(lines) + "\n")
    return None


if __name__ == "__main__":
    main()
