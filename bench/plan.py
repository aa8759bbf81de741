"""What planning costs at full size, step by step, after the trace is read.

    python bench/plan.py pool      five-shot quizzes, chats and videos: what the paper blends
    python bench/plan.py branchy   130,000 inner nodes, outputs all over: splitting is hardest

400,000 requests each, costs by the closed form for Llama-3.1-8B on an A100. Prints a row a share of
sampled lengths; kernels are warm.
"""

import sys

import numpy as np
from machine import machine, peak_gigabytes, row, timed, today
from tree import quizzes

from blendsim.perf.density import closed_form
from blendsim.planner.blend import BlendSettings
from blendsim.planner.lengths import expect_lengths
from blendsim.planner.make import POLICIES, Groundwork, make_plan
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

REQUESTS = 400_000
SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))


def blended(requests: int) -> Workload:
    """85 % quizzes, 14 % chats, 1 % videos of known length."""
    rng = np.random.default_rng(1)
    chats, videos = requests * 14 // 100, requests // 100
    chat = rng.lognormal((5.0, 2.8), (1.0, 1.3), (chats, 2)).astype(np.int64) + 1
    video = rng.lognormal(9.5, 0.6, videos).astype(np.int64) + 1
    return pool(
        [
            quizzes(requests - chats - videos, 16, 25, 6),
            from_lengths(chat[:, 0], chat[:, 1], source="chat"),
            from_lengths(np.full(videos, 60), video, source="video", is_known=True),
        ]
    )


def branchy(requests: int) -> Workload:
    """Prompts of 5 to 39 blocks drawn by Zipf's law, so that prefixes branch everywhere."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(5, 40, requests)
    offsets = np.append(0, np.cumsum(blocks))
    prompts = Prompts(
        offsets,
        np.minimum(rng.zipf(1.6, int(offsets[-1])), 1000),
        np.zeros(requests, np.int32),
        np.full(1, 16, np.int32),
        ("zipf",),
    )
    outputs = np.maximum(1, rng.lognormal(4.5, 1.8, requests)).astype(np.int64)
    return from_lengths(blocks * 16, outputs, prompts=prompts)


MAKERS = {"pool": blended, "branchy": branchy}


def measure(workload: Workload, share: float) -> list[str]:
    """Seconds of each step of planning and of all; leaves split and sharing kept by blend."""
    prompts, sorting = timed(lambda: sort_prompts(workload))
    tree, building = timed(lambda: pool_tree(workload, prompts))
    rng = np.random.default_rng(0)
    lengths, estimating = timed(lambda: expect_lengths(workload, tree, share, rng))
    costs = closed_form(SYSTEM, workload.prompt_len, lengths.expected)
    steps = [sorting, building, estimating]
    ground, laying = timed(lambda: Groundwork(workload, prompts, lengths, costs, BlendSettings()))
    steps.append(laying)
    for policy in POLICIES:
        plan, seconds = timed(lambda policy=policy: make_plan(policy, ground, 0, {}))
        steps.append(seconds)
    report = plan.meta["arrange"]
    kept = report["sharing_after"] / max(report["sharing_before"], 1)
    cells = [f"{seconds:.2f}" for seconds in (*steps, sum(steps))]
    return [*cells, f"{report['share_of_leaves_split']:.2%}", f"{kept:.4f}"]


def main(name: str) -> None:
    """Measure one pool and print its rows."""
    measure(MAKERS[name](2_000), 0.01)
    workload = MAKERS[name](REQUESTS)
    for share in (0.01, 1.0):
        cells = measure(workload, share)
        memory = f"{peak_gigabytes():.1f}"
        print(row(name, f"{share:g}", *cells, memory, machine(), today()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MAKERS:
        sys.exit(f"usage: python bench/plan.py {' | '.join(MAKERS)}")
    main(sys.argv[1])
