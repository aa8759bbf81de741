"""vLLM on the same GPU with the same pools: a plan's order, dummy weights, fixed output lengths.

    python bench/gpu_vllm.py --plans build/gpu-plans --pool trace1 [--budget 8192 …] -o gpu-vllm

Runs where vLLM and torch are (simpy is not needed), in vLLM's own environment. For every token
budget one engine is started, with CUDA graphs and prefix caching as vLLM has them by itself, and
every policy's order is run on it: DFS first. After each run its step log is written and a row of
the table (summary.md): tokens a second counts prompts and outputs over the time from first step to
last. Called again with the same -o, it leaves out what is there.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_options import say
from gpu_replays import plans_of, read_job, run_seconds
from machine import row, today

HEAD = row("pool", "policy", "token budget", "seconds", "tokens/s", "steps", "recomputed", "shared")


def run_pool(pool: str, given: argparse.Namespace) -> Iterator[str]:
    """A row of the table for every budget and policy."""
    from blendrt.loading import ModelChoice
    from blendrt.profiler.target import find_decoder

    choice = ModelChoice(find_decoder(given.model), None)
    for budget in given.budget:
        with ExitStack() as stack:
            engine: Any = None
            for planned in plans_of(given.plans, pool):
                if planned.policy not in given.policy:
                    continue
                place = given.output / f"{pool}-{planned.policy}-vllm-{budget}.parquet"
                job, meta = vllm_job(planned, budget)
                if not place.exists():
                    engine = engine or started(stack, job, choice)
                    run(job, meta, choice.config, engine, place)
                yield line(pool, planned.policy, budget, job, place)


def vllm_job(planned: Any, budget: int) -> tuple[Any, dict[str, Any]]:
    """The plan under vLLM's rules at a token budget."""
    from blendsim.serving.flavour import find_flavour

    job, meta = read_job(planned)
    return job._replace(flavour=find_flavour("vllm", budget)), meta


def started(stack: ExitStack, job: Any, choice: Any) -> Any:
    """An engine, until the stack ends."""
    from blendrt.vllm.feed import open_engine

    start = time.perf_counter()
    engine = stack.enter_context(open_engine(job, choice))
    say(f"vLLM is ready after {time.perf_counter() - start:.0f} s")
    return engine


def run(job: Any, meta: dict[str, Any], config: Any, engine: Any, place: Path) -> None:
    """One run; if it fails, the log has the steps so far, under another name."""
    from blendrt.vllm.feed import VllmReplay
    from blendsim.steplog import write_steplog

    say(f"{place.stem} …")
    replay = VllmReplay(job)
    try:
        replay.measure_on(engine, config.vocab)
    finally:
        facts = {"engine": "vllm", "runtime": "vllm", "model": config.name, "weights": "random"}
        log = replay.log({**meta, **facts, "versions": versions()})
        if len(log):
            done = bool(log.meta["complete"])
            write_steplog(log, place if done else place.with_suffix(".broken.parquet"))


def versions() -> dict[str, str]:
    """What ran."""
    found = {}
    for package in ("vllm", "torch", "flashinfer-python"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def line(pool: str, policy: str, budget: int, job: Any, place: Path) -> str:
    """A row of the table."""
    from blendsim.steplog import read_steplog

    log = read_steplog(place)
    prompts, outputs = int(job.workload.prompt_len.sum()), int(job.output_len.sum())
    seconds = run_seconds(log)
    return row(
        pool,
        policy,
        f"{budget:,}",
        f"{seconds:.1f}",
        f"{(prompts + outputs) / seconds:,.0f}",
        f"{len(log):,}",
        f"{int(log.count('preempted_tokens').sum()):,}",
        f"{log.count('hit_tokens').sum() / prompts:.1%}",
    )


def main() -> None:
    """Run all that is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=Path, default=Path("build/gpu-plans"))
    parser.add_argument("--pool", nargs="+", default=["trace1"], help="as in the plans' names")
    parser.add_argument("--policy", nargs="+", default=["dfs", "blend"])
    parser.add_argument("--budget", nargs="+", type=int, default=[8192], help="tokens a step")
    parser.add_argument("--model", default="llama-3.1-8b", help="of the plans")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-vllm"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    lines = [f"vLLM, {today()}, {versions()}", "", HEAD, row(*["---"] * 8)]
    for pool in given.pool:
        for told in run_pool(pool, given):
            lines.append(told)
            (given.output / "summary.md").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
