"""What a step cut in two should take: its schedule played with measured durations, part by part.

    PYTHONPATH=.:runtime python bench/cut_model.py [bench/results/h200/second]

Every step that a kept run cut in two is built up from what was measured of its kernels: whole; in
halves, one after another; each lane alone on its SMs (the longer of the two); both slowing each
other as pairs did; in the schedule's order, with all its waits; and with attention that slows as
the clock does. What the step took beyond that no measurement explains yet.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence_parts import PARTITIONS
from evidence_runs import OVERLAP, Replay, Run, read_runs, system_of
from machine import row

from blendrt.executor.schedule import Lane, Piece, Schedule, Task, build_schedule
from blendsim.batch import Batch
from blendsim.perf.fit import read_shares
from blendsim.perf.grids import along
from blendsim.perf.kernels import memory_seconds, prefill_seconds
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.store import OVERLAP_FILE, read_profile

GEMMS = ("qkv", "o", "gate_up", "down")
_START_GEMMS, _REST_GEMMS = (0,), (1, 2, 3)  # of them
Found = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What was measured of kernels on a part of the SMs (gpu_partitions.py)."""

    found: Found

    @property
    def chip(self) -> int:
        """All SMs."""
        return max(f["sms"] for f in self._of("decode"))

    def gemm_speed(self, name: str, tokens: float, sms: int) -> float:
        """cuBLAS's speed on so many SMs, 1 on all; between measured tokens a line over their
        logarithm, beyond them the nearest.
        """
        sizes = sorted({f["tokens"] for f in self._of("gemm")})
        speeds = [self._gemm(name, n, self.chip) / self._gemm(name, n, sms) for n in sizes]
        return float(np.interp(np.log(tokens), np.log(sizes), speeds))

    def read_speed(self, kv_tokens: float, sms: int) -> float:
        """Decode attention's speed on so many SMs, 1 on all."""
        sizes = sorted({(f["batch"] * f["context"], f["batch"]) for f in self._of("decode")})
        shares = sorted({f["sms"] for f in self._of("decode")})
        speeds = []
        for read, batch in sizes:
            times = [self._decode(batch, read // batch, share) for share in shares]
            speeds.append(np.interp(sms, shares, times[-1] / np.array(times)))
        return float(np.interp(np.log(kv_tokens), np.log([s[0] for s in sizes]), speeds))

    def slowing(self, share: int) -> float:
        """How much longer both take while they run beside each other on their parts: the median of
        the measured pairs. While both run each gets 1/s done a second, so T = s·short + (long −
        short).
        """
        told = []
        for pair in self._of("pair"):
            if pair["by"] != "cuBLAS" or pair["share"] != share:
                continue
            dense = sum(self._gemm(name, pair["tokens"], self.chip - share) for name in GEMMS)
            reads = self._decode(pair["batch"], pair["context"], share)
            short, long = sorted((dense, reads))
            told.append(1.0 + (pair["seconds"] - long) / short)
        return max(1.0, float(np.median(told)))

    def _of(self, what: str) -> Found:
        return [f for f in self.found if f["what"] == what]

    def _gemm(self, name: str, tokens: int, sms: int) -> float:
        key = ("cuBLAS", name, tokens, sms)
        chosen = (
            f["seconds"]
            for f in self._of("gemm")
            if (f["by"], f["name"], f["tokens"], f["sms"]) == key
        )
        return float(next(chosen))

    def _decode(self, batch: int, context: int, sms: int) -> float:
        key = (batch, context, sms)
        chosen = (
            f["seconds"] for f in self._of("decode") if (f["batch"], f["context"], f["sms"]) == key
        )
        return float(next(chosen))


class Half(NamedTuple):
    """Seconds of one nano-batch's pieces in one layer."""

    start: float
    decode: float
    rest: float

    def of(self, piece: Piece) -> float:
        """One of them."""
        return {Piece.START: self.start, Piece.DECODE: self.decode, Piece.REST: self.rest}[piece]

    @property
    def dense(self) -> float:
        """All but decode attention."""
        return self.start + self.rest


class Kernels(NamedTuple):
    """What prices a half: a step model of operators one after another, its profile, and parts."""

    model: StepModel
    profile: Any
    parts: Parts


def half_of(counts: Batch, kernels: Kernels, attention_sms: int | None) -> Half:
    """One of two halves of a step, on its parts of the GPU, or on all of it for None."""
    model, profile, parts = kernels
    layers = model.system.model.layers
    tokens, decodes = counts.tokens / 2, counts.decode_requests / 2
    chip = parts.chip
    gemm_sms = chip if attention_sms is None else chip - attention_sms
    rows = float(min(-(-tokens // profile.gemm_tile) * profile.gemm_tile, profile.tokens[-1]))
    # As the step model has it: no GEMM takes longer than a larger one.
    measured = np.minimum.accumulate(profile.gemm[::-1])[::-1]
    times = [
        along(profile.tokens, measured[:, i], np.array([rows]))[0]
        / (1.0 if attention_sms is None else parts.gemm_speed(name, tokens, gemm_sms))
        for i, name in enumerate(GEMMS)
    ]
    # Small operators are bound by memory, as decode attention is.
    small = model.small_seconds[round(tokens)] / layers / parts.read_speed(1 << 20, gemm_sms)
    prefill = 0.0
    if counts.prefill_tokens:
        sizes = (counts.prefill_tokens, counts.prefill_requests, counts.prefill_pairs)
        prefill = 0.5 * prefill_seconds(model.tables, *sizes) / layers * chip / gemm_sms
    read = counts.context_tokens / 2
    reads = memory_seconds(model.tables, round(decodes), round(read)) / layers
    if attention_sms is not None:
        reads /= parts.read_speed(read, attention_sms)
    return Half(
        start=sum(times[i] for i in _START_GEMMS) + small / 2 + prefill,
        decode=reads,
        rest=sum(times[i] for i in _REST_GEMMS) + small / 2,
    )


def play(schedule: Schedule, seconds: Mapping[Task, float], slowing: float = 1.0) -> float:
    """Seconds of a schedule: every lane takes its tasks in order, each after those it waits for.
    While two lanes run each gets 1/slowing done a second.
    """
    queues = {lane: [i for i, t in enumerate(schedule.tasks) if t.lane is lane] for lane in Lane}
    left = [seconds[task] for task in schedule.tasks]
    done: set[int] = set()
    now = 0.0
    while any(queues.values()):
        heads = [queue[0] for queue in queues.values() if queue]
        running = [i for i in heads if done.issuperset(schedule.tasks[i].waits)]
        assert running, "no task can run: the schedule waits for itself"
        rate = 1.0 if len(running) == 1 else 1.0 / slowing
        passed = min(left[i] for i in running) / rate
        now += passed
        for i in running:
            left[i] -= passed * rate
            if left[i] <= 1e-15:
                done.add(i)
                queues[schedule.tasks[i].lane].remove(i)
    return now


def durations(schedule: Schedule, parted: Half, whole: Half) -> dict[Task, float]:
    """Seconds of every task where it runs: on a part, or on the whole GPU."""
    return {
        task: (whole if task.lane is Lane.WHOLE else parted).of(task.piece)
        for task in schedule.tasks
    }


@dataclass(frozen=True, slots=True)
class Account:
    """Milliseconds of one step, each line with one more cause than the one before."""

    whole: float
    halves: float
    lanes: float
    slowed: float
    scheduled: float
    at_clock: float
    measured: float


def account(counts: Batch, kernels: Kernels, sms: int, clock: float, measured: float) -> Account:
    """The account of one step that was cut, attention on `sms` SMs, at `clock` of the clock that
    kernels were measured at.
    """
    model, layers = kernels.model, kernels.model.system.model.layers
    schedule = build_schedule(layers)
    compute, reads, _ = model.seconds(counts)
    head = float(model.tables.head[counts.sampled_tokens])
    alone, parted = half_of(counts, kernels, None), half_of(counts, kernels, sms)
    slow = kernels.parts.slowing(sms)
    dense, read = 2 * layers * parted.dense, 2 * layers * parted.decode
    ends = alone.start + alone.rest  # begun and ended with the whole GPU, nothing beside it
    short, long = sorted((dense - parted.dense, read))
    slower = parted._replace(decode=parted.decode / clock)
    return Account(
        whole=1e3 * (compute + reads),
        halves=1e3 * (2 * layers * (alone.dense + alone.decode) + head),
        lanes=1e3 * (long + ends + head),
        slowed=1e3 * (slow * short + long - short + ends + head),
        scheduled=1e3 * (play(schedule, durations(schedule, parted, alone), slow) + head),
        at_clock=1e3 * (play(schedule, durations(schedule, slower, alone), slow) + head),
        measured=1e3 * measured,
    )


def accounts(run: Run, replay: Replay) -> dict[int, list[Account]]:
    """Of every step a replay cut, by attention's SMs."""
    profile = read_profile(run.profile)
    parts = Parts(json.loads((run.place / PARTITIONS).read_text()))
    kernels = Kernels(step_model(system_of(replay.log), SUM, profile), profile, parts)
    shares = read_shares(run.profile / OVERLAP_FILE)
    clock = _clock(replay)
    told: dict[int, list[Account]] = {}
    for i in np.flatnonzero(replay.is_halved & replay.log.is_timed):
        counts = Batch(*map(int, replay.log.counts[i][: len(Batch._fields)]))
        half = Batch(*(-(-count // 2) for count in counts))
        ratio = kernels.model.seconds(counts)[1], 2.0 * kernels.model.seconds(half)[0]
        sms = shares.at(ratio[1], ratio[0])  # as the executor chose it
        took = float(replay.log.time("seconds")[i])
        told.setdefault(sms, []).append(account(counts, kernels, sms, clock, took))
    return told


def _clock(replay: Replay) -> float:
    """The median clock of a replay over the highest; 1 where it was not noted."""
    noted = replay.log.meta.get("conditions", {}).get("clocks.sm")
    if noted is None:
        return 1.0
    median, _, ends = noted.partition(" ")
    return float(median) / float(ends.rstrip(")").split()[-1])


def table(runs: list[Run]) -> list[str]:
    """Medians over the steps of a replay and a share, as ms and as differences."""
    names = [field.name for field in fields(Account)]
    lines = [row("replay", "attention's SMs", "steps", *names), row(*["---"] * (3 + len(names)))]
    for run in runs:
        if not (run.place / PARTITIONS).exists():
            continue
        for replay in run.replays:
            if replay.executor != OVERLAP:
                continue
            for sms, told in sorted(accounts(run, replay).items()):
                middle = [float(np.median([getattr(a, name) for a in told])) for name in names]
                cells = (f"{value:.1f}" for value in middle)
                lines.append(row(replay.name, str(sms), str(len(told)), *cells))
    return lines


def main() -> None:
    """Print the table of the run given, or of all that are kept."""
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("bench/results/h200/second")
    runs = [run for run in read_runs(place.parent) if run.place == place]
    print(*table(runs), sep="\n")


if __name__ == "__main__":
    main()
