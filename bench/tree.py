"""What sorting prompts and building the prefix tree costs at full size.

    python bench/tree.py hashes     400,000 requests, 10 M block ids
    python bench/tree.py tokens     400,000 requests, 270 M raw token ids
    python bench/tree.py chains     4,000 conversations of 100 turns, each a prompt of all before it

Five-shot-like prompts: 57 shared beginnings, then a random rest. Prints a row; kernels are warm.
"""

import sys

import numpy as np
from machine import machine, peak_gigabytes, row, timed, today

from blendsim.planner.tree import pool_tree
from blendsim.prefix import build_tree, shareable_tokens, sort_prompts
from blendsim.request import Prompts, Workload, from_lengths

REQUESTS = 400_000
SUBJECTS = 57


def quizzes(requests: int, unit_tokens: int, shared: int, own: int, seed: int = 0) -> Workload:
    """Prompts of about `shared` units common to a subject and about `own` random ones."""
    rng = np.random.default_rng(seed)
    kind = np.int32 if unit_tokens == 1 else np.int64
    most = 128_000 if unit_tokens == 1 else 2**62
    heads = [
        rng.integers(0, most, int(size), kind) for size in rng.normal(shared, shared / 6, SUBJECTS)
    ]
    subject = rng.integers(0, SUBJECTS, requests)
    tail = rng.integers(own // 2, own * 3 // 2 + 1, requests)
    offsets = np.append(0, np.cumsum(np.array([len(h) for h in heads])[subject] + tail))
    units = rng.integers(0, most, int(offsets[-1]), kind)
    for i in range(requests):
        head = heads[subject[i]]
        units[offsets[i] : offsets[i] + len(head)] = head
    return _workload(offsets, units, unit_tokens)


def conversations(count: int, turns: int, blocks: int, seed: int = 0) -> Workload:
    """Turn t of a conversation repeats all `blocks` · t blocks before it: a tree `turns` deep."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 2**62, (count, turns * blocks))
    rows = rng.permutation(count * turns)
    lengths = (rows % turns + 1) * blocks
    offsets = np.append(0, np.cumsum(lengths))
    units = np.concatenate([whole[r // turns, : (r % turns + 1) * blocks] for r in rows])
    return _workload(offsets, units, 16)


def _workload(offsets: np.ndarray, units: np.ndarray, unit_tokens: int) -> Workload:
    n = len(offsets) - 1
    prompts = Prompts(
        offsets.astype(np.int64),
        units,
        np.zeros(n, np.int32),
        np.full(1, unit_tokens, np.int32),
        ("bench",),
    )
    return from_lengths(np.diff(offsets) * unit_tokens, np.ones(n, np.int64), prompts=prompts)


MAKERS = {
    "hashes": lambda: quizzes(REQUESTS, 16, 20, 6),
    "tokens": lambda: quizzes(REQUESTS, 1, 590, 85),
    "chains": lambda: conversations(4_000, 100, 1),
}


def main(name: str) -> None:
    """Measure one pool and print its row."""
    warm = quizzes(2_000, 16, 20, 5) if name != "tokens" else quizzes(2_000, 1, 20, 5)
    pool_tree(warm, sort_prompts(warm))
    workload = MAKERS[name]()
    before = peak_gigabytes()
    prompts, sorting = timed(lambda: sort_prompts(workload))
    tree, building = timed(lambda: build_tree(prompts.common))
    _, sources = timed(lambda: pool_tree(workload, prompts))
    share = shareable_tokens(workload, prompts) / int(workload.prompt_len.sum())
    print(
        row(
            name,
            f"{len(workload):,}",
            f"{len(workload.prompts.units):,}",
            f"{len(tree.parent):,}",
            f"{share:.3f}",
            f"{sorting:.2f}",
            f"{building:.2f}",
            f"{sources:.2f}",
            f"{peak_gigabytes():.1f} ({before:.1f} before)",
            machine(),
            today(),
        )
    )


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MAKERS:
        sys.exit(f"usage: python bench/tree.py {' | '.join(MAKERS)}")
    main(sys.argv[1])
