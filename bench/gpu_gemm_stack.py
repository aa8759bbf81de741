"""The GEMMs of a stack of Llama-3.1-8B's layers, by torch or by an algorithm of one's choice, and
how long they take in bursts and in streams.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gpu_cublaslt import Gemm, Library, Shape

LAYERS = 32
FEW, BURST_CALLS = 4, 16  # calls to warm up, and to time
ROUNDS = 3  # of a stream
Run = Callable[[], None]

SHAPES = {
    "qkv": Shape(6144, 4096, False),
    "o": Shape(4096, 4096, True),
    "gate_up": Shape(28672, 4096, False),
    "down": Shape(4096, 14336, True),
}


class World:
    """Weights of a stack of layers, and the matrices they turn into each other."""

    def __init__(self, torch: Any, most: int) -> None:
        of = {"device": "cuda", "dtype": torch.bfloat16}
        torch.zeros(8, 8, **of) @ torch.zeros(8, 8, **of)  # now the library is loaded
        self.torch, self.library = torch, Library(torch)
        drawn = torch.Generator("cuda").manual_seed(0)

        def normal(rows: int, columns: int, deviation: float) -> Any:
            return torch.empty(rows, columns, **of).normal_(0, deviation, generator=drawn)

        self.weights = {
            name: [normal(s.outputs, s.inputs, s.inputs**-0.5) for _ in range(LAYERS)]
            for name, s in SHAPES.items()
        }
        self.inputs = {name: normal(most, s.inputs, 1.0) for name, s in SHAPES.items()}
        self.out = {name: torch.zeros(most, s.outputs, **of) for name, s in SHAPES.items()}
        self.stream = torch.cuda.Stream()

    def by_torch(self, name: str, layer: int, tokens: int) -> None:
        """As the runtime calls it."""
        rows, out = self.inputs[name][:tokens], self.out[name][:tokens]
        weights = self.weights[name][layer % LAYERS].t()
        if SHAPES[name].adds:
            out.addmm_(rows, weights)
        else:
            self.torch.mm(rows, weights, out=out)

    def by_offer(self, gemm: Gemm, which: int, name: str, layer: int) -> None:
        """By an algorithm of one's choice, on the current stream."""
        stream = self.torch.cuda.current_stream().cuda_stream
        weights = self.weights[name][layer % LAYERS]
        gemm.run(which, weights, self.inputs[name], self.out[name], stream)

    def elapsed(self, run: Callable[[int], object], calls: int) -> float:
        """Microseconds of one of `calls` calls, of which run(i) makes the i-th."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(calls):
            run(i)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / calls

    def burst(self, run: Callable[[int], object]) -> float:
        """Microseconds of one call, the better of two bursts."""
        self.elapsed(run, FEW)
        return min(self.elapsed(run, BURST_CALLS) for _ in range(2))

    def sustained(self, runs: Sequence[Run], seconds: float) -> list[float]:
        """Microseconds a layer of each, by graphs of all layers that take turns: medians."""
        graphs = [self._captured(run) for run in runs]
        for graph in graphs:
            graph.replay()
        self.torch.cuda.synchronize()
        found: list[list[float]] = [[] for _ in graphs]
        for _ in range(ROUNDS):
            for graph, times in zip(graphs, found, strict=True):
                graph.replay()
                self.torch.cuda.synchronize()
                replay = partial(_replay, graph)
                once = self.elapsed(replay, 1)
                calls = max(2, int(seconds / ROUNDS * 1e6 / once))
                times.append(self.elapsed(replay, calls) / LAYERS)
        return [sorted(times)[ROUNDS // 2] for times in found]

    def _captured(self, run: Run) -> Any:
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.stream(self.stream):
            run()
            graph.capture_begin()
            run()
            graph.capture_end()
        self.torch.cuda.synchronize()
        return graph


def _replay(graph: Any, _: int) -> None:
    graph.replay()


def stacked(call: Callable[[int], None]) -> Run:
    """All layers, one after another."""

    def run() -> None:
        for layer in range(LAYERS):
            call(layer)

    return run
