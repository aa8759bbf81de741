"""What the host does in a step of the runtime's two loops, with the model taken away.

    python bench/host_loop.py [--against TREE] [--rounds 5] [--device cuda]

The loops are the runtime's own (`blendrt.engine` replays, `blendrt.generate.loop` answers) with all
that they call, by graphs of 16 layers and an attention that compute nothing and plan nothing. A
case has so many decodes a step, alone or beside prompt tokens. A step's time is from its beginning
to the next one's, the median of all steps of the case's kind; so is each part's, in a run of its
own, in which parts are timed.

With --against, processes that import this tree and another one take turns; the medians of their
medians are shown, and those of the ratios of each turn. Beside the seconds stands what a GPU would
make dear, in a run on the CPU: operators on tensors, each a kernel or a copy there, and uploads.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from timeit import timeit
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import machine, row, today
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import blendrt.attention.layout
from blendrt.attention.layout import AttentionLayout
from blendrt.batch import BatchBuilder, OutputTokens, StepInputs
from blendrt.clock import clock_for
from blendrt.engine import Engine
from blendrt.executor.graphs import GraphedDense
from blendrt.executor.sequential import SequentialExecutor
from blendrt.generate.growing import Ending, GrowingTokens
from blendrt.generate.loop import GenerationLoop, Machine
from blendrt.generate.sampler import Sampler
from blendrt.generate.wanted import Wanted
from blendrt.recorder import Recorder
from blendrt.tokens import PromptTokens
from blendsim import search
from blendsim.arrays import Ints
from blendsim.request import from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import find_flavour

HERE = Path(__file__).resolve()
LOOPS = ("replay", "answer")
DECODES = (32, 128, 256, 512, 1_024)
VOCAB = 8  # a stand-in's logits: choosing among them takes no time
PROMPT, ANSWER = 300, 150  # tokens of those who decode
LONG, SHORT, OTHERS = 1_000, 2, 40  # tokens of those whose prompts are computed beside, and number
CHUNK, BUDGET = 512, 8_192  # tokens of a step beside decodes; of all steps where none are beside
PARTS = (
    *("deciding", "pages", "inputs", "executing", "choosing"),
    *("storing", "taking", "ending", "recording"),
)
LAYERS = 16
#: Operators that neither compute nor copy.
MAKES_ROOM = ("empty", "detach", "lift_fresh", "_unsafe_view")
MODEL = "qwen-2.5-7b"  # on an H200, whose KV cache has room for all of them


class NoModel:
    """A decoder, its graphs and its attention, none of which computes anything."""

    config = SimpleNamespace(layers=LAYERS)

    def __init__(self, device: torch.device) -> None:
        x = torch.zeros(BUDGET, VOCAB, device=device)
        self._buffers: Any = SimpleNamespace(x=x, queries=x[:, :1, None], attended=x[:, :1, None])

    def begin(self, inputs: StepInputs) -> GraphedDense:
        """A step by graphs that hold nothing."""
        return GraphedDense(self._buffers, [lambda: None] * (LAYERS + 1), inputs.layout.tokens)

    def head(self, x: Tensor) -> Tensor:
        """Logits: zeros."""
        return x

    def plan(self, layout: AttentionLayout) -> None:
        """Nothing to plan."""

    def prefill(self, layer: int, q: Tensor, pool: Any, out: Tensor) -> None:
        """No answers."""

    decode = prefill


class Case(NamedTuple):
    """A loop over steps of one kind."""

    loop: str
    decodes: int
    beside: bool  # a prompt's chunk in every step

    @property
    def name(self) -> str:
        """How rows call it."""
        return f"{self.loop} {self.decodes}{' + a chunk' if self.beside else ''}"


CASES = [
    Case(loop, decodes, beside) for loop in LOOPS for beside in (False, True) for decodes in DECODES
]


def new_core(case: Case) -> tuple[ServingCore, PromptTokens]:
    """A core that decodes so many requests at once, with a line of long prompts if `beside`."""
    others, budget, answer = 0, BUDGET, ANSWER
    if case.beside:
        # Whoever comes first still decodes when the last one does.
        budget, others = case.decodes + CHUNK, OTHERS
        answer += case.decodes * PROMPT // CHUNK + OTHERS * LONG // CHUNK
    pool = from_lengths(
        [PROMPT] * case.decodes + [LONG] * others, [answer] * case.decodes + [SHORT] * others
    )
    settings = search.Settings(sample=1.0, gpu="h200", model=MODEL)
    problem = search.prepare(pool, settings)
    plan = search.plan_policy(problem, "fcfs")
    engine = find_flavour("sequential", budget)
    prompts = problem.prompts
    core = ServingCore.from_plan(plan, pool, pool.output_len, prompts, settings.system, engine)
    return core, PromptTokens(pool, VOCAB)


class Watch:
    """Seconds of the parts of each step, and of steps from one beginning to the next."""

    def __init__(self, read: Callable[[], Any] = time.perf_counter) -> None:
        self._read = read
        self.kinds: list[tuple[int, int]] = []  # decodes and prompt tokens of each step
        self.begun: list[Any] = []  # what was read at its beginning
        self.parts: list[dict[str, float]] = []
        self._inside = 0.0  # of the part that is timed now, what others in it took

    def steps(self, core: ServingCore) -> None:
        """Note when each step is asked for."""
        step = core.step

        def noted() -> Any:
            self.begun.append(self._read())
            self.parts.append(defaultdict(float))
            batch = step()
            self.kinds.append((batch.decode_requests, batch.prefill_tokens))
            return batch

        core.step = noted  # type: ignore[method-assign]

    def part(self, owner: Any, method: str, name: str) -> None:
        """Time a method of an object, without what other timed ones in it take."""
        call = getattr(owner, method)

        def timed(*given: Any, **named: Any) -> Any:
            began, outer = time.perf_counter(), self._inside
            self._inside = 0.0
            try:
                return call(*given, **named)
            finally:
                took = time.perf_counter() - began
                if self.parts:
                    self.parts[-1][name] += took - self._inside
                self._inside = outer + took

        setattr(owner, method, timed)

    def chosen(self, case: Case) -> list[int]:
        """Steps of the case's kind that are followed by another."""
        return [
            i
            for i, (decodes, prompts) in enumerate(self.kinds[:-1])
            if case.decodes <= decodes < case.decodes + 3 and (prompts > 0) == case.beside
        ]


def new_loop(case: Case, device: torch.device, watch: Watch, has_parts: bool) -> Callable[[], None]:
    """What runs the case's loop to its end."""
    core, prompts = new_core(case)
    n, recorder = len(core.rows), Recorder()
    nothing: Any = NoModel(device)
    executor, clock = SequentialExecutor(nothing, nothing, nothing, nothing), clock_for(device)
    builder: BatchBuilder[Any]
    if case.loop == "replay":
        kept = OutputTokens(core.state.requests.output, device)
        builder = BatchBuilder(core, prompts, kept, device)
        loop: Any = Engine(core, builder, executor, clock)
        given: tuple[Any, ...] = (recorder,)
    else:
        most = np.zeros(n, np.int64)
        most[core.rows] = core.state.requests.output
        asked = wanted(most)
        sampler, ending = Sampler(asked, device), Ending(asked, str)
        builder = BatchBuilder(core, prompts, GrowingTokens(n, device), device)
        loop = GenerationLoop(core, Machine(builder, executor, sampler, ending, clock))  # type: ignore[arg-type]
        given = (recorder, lambda answer: None)
        if has_parts:
            watch.part(sampler, "pick", "choosing")
            watch.part(loop, "_take", "taking")
    if has_parts:
        for owner, method, name in (
            (core, "step", "deciding"),
            (core, "commit", "deciding"),
            (core, "counts", "deciding"),
            (core, "end", "ending"),
            (loop._pager, "follow", "pages"),
            (builder, "build", "inputs"),
            (builder.outputs, "store", "storing"),
            (executor, "logits", "executing"),
            (recorder, "add", "recording"),
        ):
            watch.part(owner, method, name)
    watch.steps(core)
    return lambda: loop.run(*given)


def wanted(most: Ints) -> Wanted:
    """The likeliest tokens, so many of each: nothing else ends an answer."""
    n = len(most)
    return Wanted(
        temperature=np.zeros(n),
        top_p=np.ones(n),
        seed=np.arange(n),
        is_seeded=np.ones(n, np.bool_),
        most=most,
        stop=((),) * n,
        ends=frozenset({VOCAB}),
    )


def seconds(case: Case, device: torch.device) -> dict[str, float]:
    """Median microseconds of a step and, in another run, of its parts."""
    watch, parts = Watch(), Watch()
    for each, has_parts in ((watch, False), (parts, True)):
        new_loop(case, device, each, has_parts)()
    gaps = np.diff(watch.begun) * 1e6
    found = {"step": float(np.median(gaps[watch.chosen(case)]))}
    steps = [parts.parts[i] for i in parts.chosen(case)]
    return found | {part: float(np.median([step[part] * 1e6 for step in steps])) for part in PARTS}


class Operators(TorchDispatchMode):
    """Counts operators that compute or copy."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.number += not (func.is_view or func.overloadpacket.__name__ in MAKES_ROOM)
        return func(*args, **(kwargs or {}))


def launches(case: Case) -> dict[str, float]:
    """Median operators and uploads of a step, as a GPU would have them."""
    uploads, upload = [0], blendrt.attention.layout.upload

    def counted(*given: Any) -> Tensor:
        uploads[0] += 1
        return upload(*given)

    here = [each for each in sys.modules.values() if getattr(each, "upload", None) is upload]
    for module in here:
        module.upload = counted  # type: ignore[attr-defined]
    operators = Operators()
    watch = Watch(lambda: (operators.number, uploads[0]))
    run = new_loop(case, torch.device("cpu"), watch, False)
    with operators:
        run()
    for module in here:
        module.upload = upload  # type: ignore[attr-defined]
    counts = np.median(np.diff(watch.begun, axis=0)[watch.chosen(case)], axis=0)
    return dict(zip(("operators", "uploads"), counts.tolist(), strict=True))


def measured(device: torch.device) -> dict[str, dict[str, float]]:
    """What this process finds of every case."""
    torch.set_num_threads(1)
    found = {case.name: seconds(case, device) for case in CASES}
    for case in CASES:
        if case.decodes == min(DECODES):  # they are the same for any number
            found[case.name] |= launches(case)
    return found


def ask(tree: Path, device: str) -> dict[str, dict[str, float]]:
    """What a process that imports the tree's packages finds."""
    places = (tree, tree / "runtime", HERE.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, str(HERE), "--one", "--device", device]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def table(what: Sequence[str], turns: Sequence[dict[str, dict[str, float]]]) -> Iterator[str]:
    """A row a case: medians over the turns."""
    yield row("case", *what)
    yield row(*["---"] * (1 + len(what)))
    for name in turns[0]:
        if what[0] in turns[0][name]:
            medians = (median(turn[name][each] for turn in turns) for each in what)
            yield row(name, *(f"{value:,.0f}" for value in medians))


def ratios(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row a case: a step's microseconds before and after, and the ratio of a turn."""
    yield row("case", "before", "now", "now to before")
    yield row(*["---"] * 4)
    for name in after[0]:
        pairs = [(b[name]["step"], a[name]["step"]) for b, a in zip(before, after, strict=True)]
        old, new = (median(each) for each in zip(*pairs, strict=True))
        share = median(a / b for b, a in pairs)
        yield row(name, f"{old:,.0f}", f"{new:,.0f}", f"{share:.2f}")


def maxima() -> Iterator[str]:
    """A row a number of decodes: how FlashInfer 0.6.6 finds the longest, and how a tensor does."""
    yield row("decodes", "`max(lengths)`", "`lengths.max()`")
    yield row(*["---"] * 3)
    for decodes in DECODES:
        lengths, runs = torch.arange(decodes, dtype=torch.int32), 200
        ways = (lambda of=lengths: max(of).item(), lambda of=lengths: of.max().item())
        yield row(
            f"{decodes:,}", *(f"{timeit(way, number=runs) / runs * 1e6:,.1f}" for way in ways)
        )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another tree of this project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help="one process's findings as JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(torch.device(asked.device))))
        return
    trees = {"now": HERE.parents[1]} | ({"before": asked.against} if asked.against else {})
    turns: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in trees}
    for _ in range(asked.rounds):
        for name, tree in trees.items():
            turns[name].append(ask(tree.resolve(), asked.device))
    print(f"{machine()}, torch {torch.__version__} on {asked.device}; {today()}")
    if asked.against:
        print("\nA step, microseconds:\n", *ratios(turns["before"], turns["now"]), sep="\n")
    print("\nThe longest of a batch, microseconds:\n", *maxima(), sep="\n")
    for name, found in turns.items():
        print(f"\nParts, microseconds, {name}:\n", *table(("step", *PARTS), found), sep="\n")
        print(f"\nLaunches, {name}:\n", *table(("operators", "uploads"), found), sep="\n")


if __name__ == "__main__":
    main()
