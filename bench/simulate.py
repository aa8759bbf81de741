"""What simulating costs at full size: the compiled step loop alone, and a run whose step log is
written.

    python bench/simulate.py

400,000 requests (five-shot quizzes with shared prefixes, chats, 1 in 1,500 a video of known
length), Llama-3.1-8B on an A100, lengths known. Prints a row a policy; medians of three runs,
kernels warm.
"""

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine, peak_gigabytes, row, timed, today

from blendsim import search
from blendsim.plan import Plan
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour
from blendsim.sim.engine import Replica
from blendsim.sim.run import simulate
from blendsim.steplog import write_steplog

REQUESTS = 400_000


def blended_pool(requests: int, seed: int = 0) -> Workload:
    """Quizzes 42 %, chats 58 %, videos 0.065 %: compute and memory time are about equal."""
    rng = np.random.default_rng(seed)
    quizzes, videos = requests * 42 // 100, max(1, requests * 65 // 100_000)
    chats = requests - quizzes - videos
    subject = rng.integers(0, 57, quizzes)
    shared = rng.integers(18, 56, 57)[subject]  # blocks of 16 tokens
    offsets = np.concatenate(([0], np.cumsum(shared)))
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], shared)
    prompts = Prompts(
        offsets,
        np.repeat(subject, shared) * 1_000 + place,
        np.zeros(quizzes, np.int32),
        np.array([16], np.int32),
        ("quizzes",),
    )
    quiz_prompts = shared * 16 + rng.integers(60, 140, quizzes)
    chat = rng.lognormal((5.06, 2.73), (1.0, 1.31), (chats, 2)).astype(np.int64) + 1
    video = np.clip(rng.lognormal(9.35, 0.85, videos), 256, 100_000).astype(np.int64)
    return pool(
        [
            from_lengths(quiz_prompts, np.full(quizzes, 2), source="quizzes", prompts=prompts),
            from_lengths(np.minimum(chat[:, 0], 8_192), chat[:, 1], source="chats"),
            from_lengths(np.full(videos, 130), video, source="videos", is_known=True),
        ]
    )


def main() -> None:
    """Measure and print the table."""
    setting = search.prepare(blended_pool(REQUESTS), search.Settings(sample=1.0))
    flavour = find_flavour("nanoflow")
    workload, outputs = setting.workload, setting.true_lengths
    print(f"{machine()}; {today()}")
    print(row("policy", "steps", "loop s", "µs a step", "run and step log s", "log MB"))
    print(row(*["---"] * 6))
    for policy in ("dfs", "random", "blend", "paced"):
        plan = search.plan_policy(setting, policy)
        loops, runs, size = [], [], 0.0
        for _ in range(3):
            core = ServingCore.from_plan(
                plan, workload, outputs, setting.prompts, setting.model.system, flavour
            )
            replica = Replica(core, setting.model, flavour)
            loops.append(timed(replica.advance)[1])
            steps = len(replica.counts)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "steps.parquet"

                def whole(path: Path = path, plan: Plan = plan) -> None:
                    log = simulate(plan, workload, outputs, setting.prompts, setting.model, flavour)
                    write_steplog(log, path)

                runs.append(timed(whole)[1])
                size = path.stat().st_size / 1e6
        loop = median(loops)
        print(
            row(
                policy,
                f"{steps:,}",
                f"{loop:.2f}",
                f"{loop / steps * 1e6:.2f}",
                f"{median(runs):.2f}",
                f"{size:.0f}",
            )
        )
    print(f"peak memory {peak_gigabytes():.1f} GB")


if __name__ == "__main__":
    main()
