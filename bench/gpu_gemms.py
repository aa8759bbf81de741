"""Is a GEMM faster by another algorithm of cuBLASLt's than by the one torch takes?

    python bench/gpu_gemms.py [--tokens 8 64 …] [--within 70] [-o gpu-gemms.json]

For each GEMM of a layer of Llama-3.1-8B and each number of tokens: all algorithms that the
library's heuristic offers, in bursts; the three fastest beside torch's in streams of 0.12 s; and a
stack of 32 layers by torch and by the best of these, in streams of 0.45 s. As clocks fall under
load, streams that are compared take turns. Wrong answers are left out. Takes about a minute on an
H200; microseconds of a GEMM and of a layer go to the JSON file after every size.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gpu_cublaslt import Gemm
from gpu_gemm_stack import SHAPES, Run, World, stacked
from gpu_options import say

TOKENS = (8, 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)
TRIED = 3  # algorithms of a GEMM that are timed in a stream
GEMM_SECONDS, LAYER_SECONDS = 0.12, 0.45  # of a stream
MOST_ERROR = 1e-2  # relative, against torch's answer
FAILED = 1e9  # microseconds
Found = dict[Any, Any]


class Choice(NamedTuple):
    """The best algorithm of a GEMM in a stream; microseconds of it, and by torch."""

    gemm: Gemm
    which: int
    best: float
    by_torch: float


def bursts(world: World, gemm: Gemm, name: str, tokens: int) -> list[tuple[float, int]]:
    """(microseconds, which) of all algorithms, fastest first; FAILED where the answer is wrong."""
    out, found = world.out[name], []
    right = world.torch.mm(world.inputs[name][:tokens], world.weights[name][0].t()).float()
    for which in range(len(gemm.offers)):
        took = FAILED
        try:
            out.zero_()  # some add to it
            world.by_offer(gemm, which, name, 0)
            error = (out[:tokens].float() - right).norm() / right.norm()
            if float(error) < MOST_ERROR:
                took = world.burst(partial(world.by_offer, gemm, which, name))
        except RuntimeError:
            pass
        found.append((took, which))
    out.zero_()
    return sorted(found)


def measure_gemm(world: World, name: str, tokens: int) -> tuple[Choice, Found]:
    """The best algorithm of a GEMM, and all that was measured."""
    gemm = Gemm(world.library, SHAPES[name], tokens)
    fastest = bursts(world, gemm, name, tokens)
    by_torch = world.burst(lambda i: world.by_torch(name, i, tokens))
    tried = [which for took, which in fastest[:TRIED] if took < FAILED]

    def stack(which: int) -> Run:
        return stacked(lambda layer: world.by_offer(gemm, which, name, layer))

    own = stacked(lambda layer: world.by_torch(name, layer, tokens))
    torch_took, *took = world.sustained([own, *map(stack, tried)], GEMM_SECONDS)
    world.out[name].zero_()
    best = min(range(len(tried)), key=took.__getitem__)
    found = {
        "torch": by_torch,
        "best": fastest[:6],
        "n": len(fastest),
        "sustained": {"torch": torch_took, **dict(zip(map(str, tried), took, strict=True))},
    }
    return Choice(gemm, tried[best], took[best], torch_took), found


def measure_layer(world: World, chosen: dict[str, Choice], tokens: int) -> list[float]:
    """Microseconds of a layer's GEMMs, by torch and by the best of each, in whole stacks."""

    def by_torch(layer: int) -> None:
        for name in SHAPES:
            world.by_torch(name, layer, tokens)

    def by_best(layer: int) -> None:
        for name, one in chosen.items():
            world.by_offer(one.gemm, one.which, name, layer)

    took = world.sustained([stacked(by_torch), stacked(by_best)], LAYER_SECONDS)
    for out in world.out.values():
        out.zero_()
    return took


def main() -> None:
    """Measure and print."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--within", type=float, default=70.0, help="seconds; no size begins later")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-gemms.json"))
    given = parser.parse_args()
    import torch

    world = World(torch, max(given.tokens))
    found: Found = {"lt": world.library.version, "torch": torch.__version__}
    found |= {"burst": {}, "stream": {}, "chosen": {}}
    for tokens in given.tokens:
        if time.monotonic() - began > given.within:
            say(f"{tokens} tokens and what follows: no time left")
            break
        measured = {name: measure_gemm(world, name, tokens) for name in SHAPES}
        chosen = {name: one for name, (one, _) in measured.items()}
        found["burst"][tokens] = {name: told for name, (_, told) in measured.items()}
        found["chosen"][tokens] = {name: one.which for name, one in chosen.items()}
        found["stream"][tokens] = measure_layer(world, chosen, tokens)
        given.output.write_text(json.dumps(found))
        by_torch, best = found["stream"][tokens]
        each = (f"{name} {one.by_torch:.1f} -> {one.best:.1f}" for name, one in chosen.items())
        print(f"{tokens}: layer {by_torch:.1f} -> {best:.1f} µs,", ", ".join(each), flush=True)


if __name__ == "__main__":
    main()
