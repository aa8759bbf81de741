"""A small pool and its plans for gpu_check.py where none were made beforehand, and for a CPU. They
are made without the simulator, which a GPU machine may not have.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from gpu_options import Options

from blendsim.perf.density import closed_form
from blendsim.perf.model import step_model
from blendsim.perf.step import step_costs
from blendsim.plan import write_plan
from blendsim.planner.blend import BlendSettings
from blendsim.planner.make import PACED, Groundwork, make_plan
from blendsim.planner.outlook import look_ahead
from blendsim.planner.pace import pace
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.settings import Settings
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions
from blendsim.traces.workload_file import write_workload

NAMES = ("small", "small-full")  # the same twice: every step, and a sample of them
#: One of every way to serve a plan, so that a check that only compiles compiles all.
POLICIES = ("dfs", "blend", PACED)


def make_small_plans(options: Options, out: Path) -> None:
    """Write pools and plans as gpu_plans.py does."""
    out.mkdir(parents=True, exist_ok=True)
    settings, longest = _settings(options)
    made, system = _small_pool(options.requests, longest), settings.system
    for name in NAMES:
        write_workload(made, out / f"{name}.parquet")
    pool = load_pool([str(out / f"{NAMES[0]}.parquet")], ReadOptions())  # as replays will read it
    prompts = sort_prompts(pool)
    tree = pool_tree(pool, prompts)
    lengths = look_ahead(pool, tree, system, settings.sample, settings.seed)
    costs = closed_form(system, pool.prompt_len, lengths.lengths.expected)
    ground = Groundwork(pool, prompts, lengths.lengths, costs, BlendSettings())
    for name in NAMES:
        source = {"traces": [f"{name}.parquet"], "skip_oversize": False, "read": {}}
        meta = {"settings": asdict(settings), "source": source}
        for policy in POLICIES:
            plan = make_plan(policy, ground, settings.seed, meta)
            if policy == PACED:
                model = step_model(system)
                steps = step_costs(model, True, True, settings.nano_batches or 1)
                plan = pace(plan, pool, lengths, model, steps, settings.pacing)
            write_plan(plan, out / f"{name}-{policy}.parquet")


def _settings(options: Options) -> tuple[Settings, int]:
    """What is planned for, and the longest answer. On a CPU the schedule is a large model's in
    little memory; the tiny one runs it.
    """
    settings = Settings(sample=0.05, nano_batches=2)
    if options.is_gpu:
        from blendrt.profiler.target import find_target, open_device

        gpu = find_target(open_device(options.device)).name
        return replace(settings, model=options.model, gpu=gpu), 1000
    return replace(settings, gpu="h200", kv_bytes=1 << 31, token_budget=256), 60


def _small_pool(requests: int, longest: int) -> Workload:
    """Half questions behind one of eight long common heads, answered in a word; half stories, told
    at up to `longest` tokens.
    """
    rng = np.random.default_rng(0)
    heads = rng.integers(0, 30_000, (8, longest // 2))
    prompts, outputs = [], []
    for i in range(requests):
        own = rng.integers(0, 30_000, rng.integers(longest // 20, longest // 8))
        prompts.append(np.concatenate((heads[rng.integers(8)], own)) if i % 2 else own)
        outputs.append(rng.integers(1, 5) if i % 2 else rng.integers(longest // 4, longest))
    content = Prompts(
        offsets=np.cumsum([0, *map(len, prompts)]),
        units=np.concatenate(prompts).astype(np.int32),
        space=np.zeros(requests, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    return from_lengths([len(p) for p in prompts], outputs, prompts=content)
