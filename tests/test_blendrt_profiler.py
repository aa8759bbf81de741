"""The profiler: what it writes on a CPU loads like any profile, and the parts it is made of."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from blendrt.config import TINY
from blendrt.profiler.kernels import decode_seconds, measure_gemm, measure_small
from blendrt.profiler.measure import Measured, Request, measure_profile
from blendrt.profiler.pairs import dense_work, measure_pairs
from blendrt.profiler.rig import build_rig, rank_part
from blendrt.profiler.sizes import CPU_SIZES, GPU_SIZES, pair_shares
from blendrt.profiler.tables import TABLE_FILES, TABLES
from blendrt.profiler.target import CPU_SPEC, match_gpu, spec_of
from blendrt.profiler.timer import WallTimer
from blendsim.batch import Batch
from blendsim.cli.app import app
from blendsim.errors import InputError, ProfileError
from blendsim.perf.model import step_model
from blendsim.perf.model_shapes import gemm_shapes
from blendsim.perf.store import FILES, load_profile, read_profile, write_profile
from blendsim.specs import GPUS, MODELS
from blendsim.system import System

CPU = torch.device("cpu")
SPEC = spec_of(TINY)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure_profile(Request(TINY, 1, CPU, minutes=0.05), tmp_path_factory.mktemp("profiles"))


def test_a_measured_profile_loads_like_any_other(measured):
    root = measured.directory.parents[2]
    profile = load_profile(CPU_SPEC, SPEC, 1, root)
    assert (profile.gpu, profile.model, profile.tp) == ("cpu", "tiny", 1)
    assert np.array_equal(profile.gemm, measured.profile.gemm)
    assert profile.small is not None


def test_profile_files_round_trip(measured, tmp_path):
    """Reading and writing again gives the same bytes, small operators and provenance included."""
    write_profile(read_profile(measured.directory), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (measured.directory / path.name).read_bytes(), path.name


def test_a_step_model_is_built_from_it(measured):
    system = System(SPEC, CPU_SPEC, kv_bytes=1 << 24)
    model = step_model(system, "table", measured.profile)
    compute, memory, both = model.seconds(Batch(16, 1, 136, 2, 64, 3))
    assert 0 < compute <= both <= compute + memory
    small = model.small_seconds
    rows = measured.profile.small.seconds[list(measured.profile.small.tokens).index(32)]
    norm, rotary, write, residual, activation, embedding = rows
    layer = 2 * norm + rotary + write + 2 * residual + activation
    assert small[32] == pytest.approx(2 * layer + norm + embedding, rel=1e-5)
    assert small[0] == 0.0


def test_what_is_part_of_another_kernel_has_no_time_of_its_own(measured):
    """The KV write is part of the rotary embedding, the residual of GEMMs."""
    _, rotary, write, residual, _, _ = measured.profile.small.seconds.T
    assert (write == 0.0).all()
    assert (residual == 0.0).all()
    assert (rotary > 0.0).all()


def test_gemms_are_measured_as_executors_call_them(monkeypatch):
    """o and down with the residual added."""
    from blendrt.model import Decoder

    called = []

    def noted(name: str) -> None:
        piece = getattr(Decoder, name)
        monkeypatch.setattr(Decoder, name, lambda *xs: called.append(name) or piece(*xs))

    pieces = ["project", "output", "gate_up", "down"]
    for name in pieces:
        noted(name)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        measure_gemm(rig, CPU_SIZES, lambda: True)
    assert list(dict.fromkeys(called)) == pieces


def test_every_table_says_what_it_holds_and_how_long_it_took(measured):
    meta = measured.profile.meta
    assert list(meta["tables"]) == [table.name for table in TABLES]
    assert all(" in " in text for text in meta["tables"].values())
    assert {"source", "backend", "device", "dates", "timing", "machine", "overlap"} <= meta.keys()
    assert meta["machine"]["torch"] == torch.__version__
    assert sum("measured" in note for note in measured.profile.notes) == 6
    assert sum("prefix" in n or "skewed" in n for n in measured.profile.notes) == 2


def test_the_parts_of_the_time_are_all_of_it():
    assert sum(table.part for table in TABLES) == pytest.approx(1.0)


def test_every_file_of_a_profile_is_known_beforehand(measured: Measured) -> None:
    found = {path.name for path in measured.directory.iterdir()}
    others = {"all_reduce.csv", "exchange.csv", "delta_net.csv"}
    others |= {name for name in FILES if "windowed" in name}
    assert found == {*FILES, *TABLE_FILES} - others  # one GPU, every layer attends to all


def test_a_table_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    place = tmp_path / CPU_SPEC.name / SPEC.name / "tp1" / "overlap.csv"
    place.parent.mkdir(parents=True)
    place.symlink_to("elsewhere")
    said: list[str] = []
    with pytest.raises(InputError, match=r"overlap\.csv: is a link"):
        measure_profile(Request(TINY, 1, CPU, minutes=0.01), tmp_path, said.append)
    assert said == []
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [place]


def test_a_crash_keeps_the_tables_before_it(tmp_path, monkeypatch):
    """Gone wrong in the pairs, the fourth table: the profile loads, with what was measured."""
    from blendrt.profiler import measure

    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    tables = [t._replace(measure=broken) if t.name == "overlap_pairs" else t for t in TABLES]
    monkeypatch.setattr(measure, "TABLES", tables)
    with pytest.raises(RuntimeError, match="no kernel image"):
        measure_profile(Request(TINY, 1, CPU, minutes=0.01), tmp_path)
    profile = load_profile(CPU_SPEC, SPEC, 1, tmp_path)
    assert profile.small is None
    assert list(profile.meta["tables"]) == ["gemm", "decode_attention", "prefill_attention"]
    model = step_model(System(SPEC, CPU_SPEC, kv_bytes=1 << 24), "table", profile)
    assert model.small_seconds[8] > 0  # priced by bytes


def test_cut_short_before_attention_it_does_not_load(tmp_path, monkeypatch):
    from blendrt.profiler import measure

    monkeypatch.setattr(measure, "TABLES", TABLES[:1])
    with pytest.raises(AssertionError):
        measure_profile(Request(TINY, 1, CPU, minutes=0.01), tmp_path)
    with pytest.raises(ProfileError, match=r"decode_attention\.csv: missing"):
        load_profile(CPU_SPEC, SPEC, 1, tmp_path)


def test_when_time_is_up_only_the_least_rows_are_measured():
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        short = measure_gemm(rig, CPU_SIZES, lambda: True)
        long = measure_gemm(rig, CPU_SIZES, lambda: False)
        assert len(measure_pairs(rig, CPU_SIZES, lambda: True).tokens) == 1
        assert len(measure_small(rig, CPU_SIZES, lambda: True).tokens) == CPU_SIZES.least
    assert short.tokens.tolist() == sorted(CPU_SIZES.tokens[: CPU_SIZES.least])
    assert long.tokens.tolist() == sorted(CPU_SIZES.tokens)
    assert (long.seconds > 0).all()


def test_calls_turn_through_the_layers():
    """So that no call finds its weights or KV in the cache."""
    with build_rig(TINY, 1, CPU, 0) as rig:
        seen = []
        asked = rig.attention.decode
        rig.attention.decode = lambda layer, *rest: seen.append(layer) or asked(layer, *rest)  # type: ignore[method-assign,func-returns-value]
        decode_seconds(rig, np.array([20, 30]))
    assert set(seen) == set(range(rig.config.layers))


def test_dense_work_is_a_layer_without_its_attention():
    """What it writes is the next layer's K of the rows that o, MLP and qkv make."""
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        before = rig.pool.k.clone()
        dense_work(rig, 8)(0)
        changed = (rig.pool.k != before).flatten(2).any(dim=2)
    assert changed[1, 0]
    assert not changed[0].any()
    assert int(changed.sum()) == 1  # eight tokens are half a page of one layer


def test_pairs_aim_at_a_ratio_by_their_context():
    """A timer by which attention takes a second a context token and dense work 100 seconds."""

    class Told(WallTimer):
        def seconds(self, call):
            call(0)
            return 100.0 if not told else float(told[-1])

        def together(self, first, second, first_sms):
            first(0), second(0)
            return 123.0

    told: list[int] = []
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        noted = replace(rig, timer=Told(), attention=Noted(rig.attention, told))
        sizes = replace(CPU_SIZES, pair_tokens=(4,), pair_ratios=(1.28,), pair_batch=2)
        pairs = measure_pairs(noted, sizes, lambda: False)
    assert pairs.context.tolist() == [64]
    assert (pairs.compute, pairs.memory, pairs.together) == (100.0, 128.0, 123.0)


class Noted:
    """An attention that notes the context tokens of every plan."""

    def __init__(self, attention, told: list[int]) -> None:
        self._attention, self._told = attention, told

    def plan(self, layout):
        self._told.append(int(layout.decode_pages.lengths(16).sum()))
        self._attention.plan(layout)

    def decode(self, *arguments):
        return self._attention.decode(*arguments)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-32b"])
def test_one_gpus_part_has_the_profiles_gemm_shapes(name, tp):
    from blendrt.config import DecoderConfig

    part = rank_part(DecoderConfig.from_spec(MODELS[name]), tp)
    shapes = {
        "qkv": (part.q_width + 2 * part.kv_width, part.hidden),
        "o": (part.hidden, part.q_width),
        "gate_up": (2 * part.intermediate, part.hidden),
        "down": (part.hidden, part.intermediate),
        "head": (part.vocab, part.hidden),
    }
    assert shapes == gemm_shapes(MODELS[name], tp)


def test_the_wall_timer_tells_the_median():
    def call(i: int) -> None:
        time.sleep(0.002 if i < 3 else 0.05)

    assert 0.0015 < WallTimer(repeats=3).seconds(call) < 0.04


@pytest.mark.parametrize(
    ("told", "gigabytes", "found"),
    [
        ("NVIDIA H200", 150.1, "h200"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100-80g"),
        ("NVIDIA A100-SXM4-40GB", 42.4, None),
        ("NVIDIA L40S", 47.7, "l40s"),
        ("NVIDIA GH200 480GB", 102.0, None),
        ("NVIDIA GeForce RTX 4090", 25.3, None),
        ("NVIDIA H100 80GB HBM3", 85.0, "h100"),
        ("NVIDIA A100 80GB PCIe", 85.1, None),
        ("NVIDIA H100 PCIe", 85.0, None),
        ("NVIDIA H200 NVL", 150.1, None),
        ("NVIDIA GH200 144G HBM3e", 150.1, None),
    ],
)
def test_a_gpu_is_known_by_name_and_memory(told, gigabytes, found):
    gpu = match_gpu(told, int(gigabytes * 1e9))
    assert (gpu.name if gpu else None) == found


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_shares_come_in_steps_and_leave_some_to_the_gemms(gpu):
    shares = pair_shares(gpu.sm_count, 8)
    assert len(shares) == len(set(shares)) >= 7
    assert all(sms % 8 == 0 and 8 <= sms <= gpu.sm_count - 8 for sms in shares)


def test_gpu_sizes_begin_with_both_ends_of_what_steps_hold():
    for sizes in (GPU_SIZES, CPU_SIZES):
        assert sorted(sizes.tokens[:2]) == [min(sizes.tokens), max(sizes.tokens)]
        assert len(set(sizes.tokens)) == len(sizes.tokens)
        assert list(sizes.decode_contexts) == sorted(sizes.decode_contexts)
        assert list(sizes.prefill_lengths) == sorted(sizes.prefill_lengths)
        assert max(sizes.prefill_lengths) <= sizes.most_prompt_tokens


def test_minutes_must_be_some():
    for minutes in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--minutes"):
            Request(TINY, 1, CPU, minutes)


RUN = ("profile", "measure", "--model", "tiny", "--device", "cpu", "--minutes", "0.01")


def test_the_command_prints_one_json_object(tmp_path):
    result = CliRunner().invoke(app, [*RUN, "-o", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert Path(told["written"]) == tmp_path / "cpu" / "tiny" / "tp1"
    assert set(told) == {"written", "seconds", "overlap", "tables", "notes"}
    assert told["overlap"]["best_gain"] >= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--tp", "3"), "--tp 3 does not divide the 4 heads of tiny"),
        (("--tp", "2"), "--tp 2 needs a GPU whose all-reduce is known"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--model", "nope"), "unknown model 'nope'"),
        (("--minutes", "0"), "--minutes 0 must be above 0"),
    ],
)
def test_a_users_error_is_one_line(tmp_path, changes, message):
    result = CliRunner().invoke(app, [*RUN, *changes, "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_what_to_do(tmp_path):
    result = CliRunner().invoke(app, ["profile", "measure", "--model", "tiny", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "finds no GPU on this machine; --device cpu" in result.stderr
