"""How the runtime sets itself up: the rule by which steps are cut, attention's kernels and pieces,
and which GEMMs are timed in a stream of work.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import flashinfer_stand_in
import numpy as np
import pytest
import torch
from cuda_stand_in import install

from blendrt.attention import flashinfer, support
from blendrt.attention.flashinfer import FlashInferAttention
from blendrt.attention.layout import Rows, lay_out
from blendrt.attention.splitting import MOST_CHUNKS
from blendrt.attention.support import FlashInferSettings
from blendrt.config import TINY, DecoderConfig
from blendrt.loading import overlap_rule
from blendrt.profiler.kernels import measure_gemm
from blendrt.profiler.rig import build_rig
from blendrt.profiler.sizes import CPU_SIZES
from blendrt.profiler.timer import EventTimer, WallTimer
from blendsim.batch import Batch
from blendsim.perf.measured import chosen_model
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BLOCK = 4
LLAMA = find_model("llama-3.1-8b")
H200 = System(LLAMA, find_gpu("h200"))
#: Four heads a KV head: decodes run on tensor cores.
GROUPED = replace(TINY, heads=8, kv_heads=2, head_dim=64)


# The rule


def test_the_measured_profile_that_is_shipped_makes_the_rule() -> None:
    rule = overlap_rule(H200, "auto", CPU)
    assert rule.model is not None
    measured = chosen_model(H200, "auto", "measured")
    assert np.array_equal(rule.model.layer_seconds, measured.layer_seconds)
    assert rule.model.measured


def test_another_overlap_is_that_of_the_imported_profile() -> None:
    rule = overlap_rule(H200, "table", CPU)
    assert rule.model is not None
    assert (rule.model.overlap, rule.model.measured) == ("table", ())


def test_where_no_measured_profile_is_shipped_the_imported_one_makes_the_rule() -> None:
    rule = overlap_rule(System(find_model("qwen3-8b"), find_gpu("h200")), "auto", CPU)
    assert rule.model is not None
    assert rule.model.measured == ()


def test_without_any_profile_the_rule_has_no_model(tmp_path: Path) -> None:
    assert overlap_rule(H200, "auto", CPU, tmp_path).model is None


@pytest.mark.parametrize("context", [512, 1024, 2048, 4096, 8192])
def test_steps_of_2048_tokens_over_full_memory_are_run_whole(context: int) -> None:
    """On an H200 cutting those was measured to lose."""
    decodes = min(2000, H200.kv_blocks * H200.block_tokens // context)
    prompt = 2048 - decodes
    step = Batch(prompt, 1, prompt * (prompt + 1) // 2, decodes, decodes * context, decodes)
    assert overlap_rule(H200, "auto", CPU).attention_sms(step) is None


def test_a_step_that_cutting_makes_little_shorter_is_run_whole() -> None:
    """Less than cutting was seen to cost."""
    step = Batch(256, 2, 16_384, 512, 512 * 2048, 512)
    half = Batch(*(-(-count // 2) for count in step))
    rule = overlap_rule(H200, "auto", CPU)
    assert rule.model is not None
    whole, reads, _ = rule.model.seconds(step)
    assert rule.model.together(2 * rule.model.seconds(half)[0], reads) < whole + reads
    assert rule.attention_sms(step) is None


# Attention


def flash(
    settings: FlashInferSettings = FlashInferSettings(), config: DecoderConfig = GROUPED
) -> FlashInferAttention:
    return FlashInferAttention(config, BLOCK, CPU, torch.bfloat16, settings, flashinfer_stand_in)


def split_pages(attention: FlashInferAttention, *contexts: int) -> int | None:
    """What planning these decodes told FlashInfer."""
    ends = np.cumsum([-(-context // BLOCK) for context in contexts])
    rows = [list(range(end - -(-n // BLOCK), end)) for end, n in zip(ends, contexts, strict=True)]
    nothing = np.zeros(0, np.int64)
    lengths = np.array(contexts, np.int64)
    attention.plan(lay_out(nothing, nothing, Rows.of([]), lengths, Rows.of(rows), BLOCK, CPU))
    pages: int | None = attention._turns[0].decode.split_pages
    return pages


def test_a_chunk_that_is_set_is_rounded_up_to_pages() -> None:
    assert split_pages(flash(FlashInferSettings(decode_chunk=10)), 30, 30) == 3


def test_a_chunk_of_zero_leaves_cutting_to_flashinfer() -> None:
    assert split_pages(flash(FlashInferSettings(decode_chunk=0)), 20_000, 30) is None


def test_by_itself_a_long_context_among_short_ones_is_cut() -> None:
    attention = flash()
    attention._slots = 33
    pages = split_pages(attention, 20_000, 30)
    assert pages is not None
    assert 0 < pages * BLOCK < 20_000


def test_by_itself_short_contexts_are_left_whole() -> None:
    assert split_pages(flash(), 30, 30) is None


def test_the_kernel_without_tensor_cores_is_told_no_chunk() -> None:
    settings = FlashInferSettings(decode_chunk=10, tensor_cores=False)
    assert split_pages(flash(settings), 30, 30) is None


def test_the_decode_workspace_holds_the_results_of_all_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Float32 values and a sum for every head of a tile of 16 queries."""
    asked = []
    on = flashinfer._Workspaces.on
    monkeypatch.setattr(
        flashinfer._Workspaces, "on", lambda device, size: asked.append(size) or on(device, size)
    )
    config = DecoderConfig.from_spec(LLAMA)
    flash(config=config)
    values = MOST_CHUNKS * config.kv_heads * 16 * config.heads // config.kv_heads
    assert asked[0] >= 4 * values * (config.head_dim + 1)


def test_a_gpus_decode_workspace_is_as_large_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(torch, "zeros", lambda size, **_: made.append(size))
    flashinfer._Workspaces.on(GPU, 1 << 30)
    assert made[1] == 1 << 30


@pytest.mark.parametrize(
    ("major", "is_built", "kernels"), [(9, True, "fa3"), (9, False, "fa2"), (8, True, "fa2")]
)
def test_fa3_runs_prefill_where_it_is_built_on_hopper(
    major: int, is_built: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = ModuleType("flashinfer.jit.attention")
    built.gen_batch_prefill_module = (  # type: ignore[attr-defined]
        lambda *_: SimpleNamespace(is_compiled=is_built)
    )
    monkeypatch.setattr(support.importlib, "import_module", lambda _: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    assert support.has_fa3(GROUPED, GPU, torch.bfloat16) is (kernels == "fa3")


@pytest.mark.parametrize(("is_ready", "kernels"), [(True, "fa3"), (False, "fa2")])
def test_auto_takes_fa3_if_it_lies_ready(
    is_ready: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flashinfer, "has_fa3", lambda *_: is_ready)
    assert flash().backend == kernels


def test_kernels_that_are_named_are_taken() -> None:
    assert flash(FlashInferSettings(prefill="fa3")).backend == "fa3"


# Timers


def test_calls_in_a_stream_of_work_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    device = install(monkeypatch)
    took = (3e-3, 5e-5, 2e-3)
    calls = [lambda i, s=s: device.work(("call", s), s) for s in took]
    found = EventTimer(GPU, repeats=2).among(calls, lambda _: device.work("reads", 1e-3), 0.5)
    assert found == pytest.approx(took)


def test_a_stream_of_work_counts_once_it_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow from half of the rounds on: what the second half takes is told."""
    device = install(monkeypatch)
    rounds = round(EventTimer.SETTLED / (1.5 * 2e-3))

    def slower(i: int) -> None:
        device.work("call", 4e-3 if i > rounds // 2 else 2e-3)

    timer = EventTimer(GPU, repeats=2)
    assert timer.among([slower], lambda _: device.work("reads", 1e-3), 0.5) == pytest.approx([4e-3])


def test_gemms_of_many_tokens_are_timed_in_a_stream_of_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    among = []

    def noted(self: WallTimer, calls: list[object], beside: object, share: float) -> list[float]:
        among.append(len(calls))
        return [1.0] * len(calls)

    monkeypatch.setattr(WallTimer, "among", noted)
    sizes = replace(CPU_SIZES, tokens=(1, 8, 16, 32), settled_tokens=16)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        table = measure_gemm(rig, sizes, lambda: False)
    assert among == [4, 4]
    assert ((table.seconds[:, :4] == 1.0).all(axis=1) == (table.tokens >= 16)).all()
