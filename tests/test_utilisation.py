"""MFU, MBU and running requests of a log, against sums made by hand from the models' sizes."""

from dataclasses import replace

import numpy as np
import pytest

from blendsim.report.utilisation import utilisation
from blendsim.specs import GPUS, MODELS
from blendsim.steplog import COUNTS, TIMES, StepLog
from blendsim.system import System

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 4_096, 32, 32, 8, 128, 14_336, 128_256
MATRICES = LAYERS * (2 * HIDDEN * (HEADS + KV_HEADS) * HEAD_DIM + 3 * HIDDEN * MLP)
HEAD = HIDDEN * VOCAB
H100, LLAMA = GPUS["h100"], MODELS["llama-3.1-8b"]


def log_of(seconds: list[float], **columns: list[int]) -> StepLog:
    """Steps one after another, all columns 0 but those given."""
    counts = np.zeros((len(seconds), len(COUNTS)), np.int64)
    for name, values in columns.items():
        counts[:, COUNTS.index(name)] = values
    times = np.zeros((len(seconds), len(TIMES)))
    times[:, TIMES.index("seconds")] = seconds
    times[:, TIMES.index("start")] = np.cumsum([0.0, *seconds[:-1]])
    return StepLog(counts, times, np.zeros(len(seconds), np.int32), {})


STEPS = log_of(
    [0.3, 0.1],
    prefill_tokens=[100, 0],
    prefill_pairs=[5_050, 0],
    decode_requests=[0, 2],
    context_tokens=[0, 300],
    sampled_tokens=[1, 2],
    running=[1, 3],
)


def test_flops_are_those_of_the_model() -> None:
    pairs = 4 * LAYERS * HEADS * HEAD_DIM * (5_050 + 300)
    flops = 2 * (102 * MATRICES + 3 * HEAD) + pairs
    assert utilisation(STEPS, System(LLAMA, H100), 1, 0).mfu == pytest.approx(
        flops / (H100.flops * 0.4)
    )


def test_bytes_are_weights_once_a_step_and_the_reads() -> None:
    moved = 2 * 2 * (MATRICES + HEAD) + 300 * 2 * LAYERS * KV_HEADS * HEAD_DIM * 2
    found = utilisation(STEPS, System(LLAMA, H100), 1, 0).mbu
    assert found == pytest.approx(moved / (H100.bandwidth * 0.4))


def test_reads_that_cascade_attention_spares_are_no_bytes() -> None:
    all_read = log_of([1.0], decode_requests=[3], context_tokens=[3_000])
    spared = log_of([1.0], decode_requests=[3], context_tokens=[3_000], shared_reads=[2_000])
    system = System(LLAMA, H100)
    less = utilisation(all_read, system, 1, 0).mbu - utilisation(spared, system, 1, 0).mbu
    assert less == pytest.approx(2_000 * system.kv_bytes_per_token / H100.bandwidth)


def test_running_requests_count_by_time() -> None:
    found = utilisation(STEPS, System(LLAMA, H100), 1, 0)
    assert found.mean_running == pytest.approx((0.3 * 1 + 0.1 * 3) / 0.4)
    assert found.most_running == 3


def test_what_is_computed_again_is_no_use() -> None:
    again, once = log_of([1.0], prefill_tokens=[100]), log_of([1.0], prefill_tokens=[60])
    system = System(LLAMA, H100)
    assert utilisation(again, system, 1, 40).mfu == pytest.approx(
        utilisation(once, system, 1, 0).mfu
    )


def test_nor_is_the_attention_of_what_is_computed_again() -> None:
    """Half of the prompt's tokens, and so about half of its pairs."""
    once = log_of([1.0], prefill_tokens=[512], prefill_pairs=[512 * 513 // 2])
    twice = log_of([1.0], prefill_tokens=[1024], prefill_pairs=[512 * 513])
    found = [
        utilisation(log, System(LLAMA, H100), 1, again).mfu
        for log, again in ((once, 0), (twice, 512))
    ]
    assert found[0] == pytest.approx(found[1])


def test_gpus_of_a_replica_share_it_and_idle_replicas_count() -> None:
    one = utilisation(STEPS, System(LLAMA, H100), 1, 0)
    two, of_two = (utilisation(STEPS, System(LLAMA, H100, tp=2), n, 0) for n in (1, 2))
    assert two.mfu == pytest.approx(one.mfu / 2)
    assert two.mbu == pytest.approx(one.mbu / 2)
    assert of_two.mfu == pytest.approx(two.mfu / 2)
    assert of_two.mean_running == two.mean_running


def test_weights_in_fp8_are_half_the_bytes_and_half_the_peak() -> None:
    bf16, fp8 = LLAMA, replace(LLAMA, weights="fp8")
    log = log_of([1.0], prefill_tokens=[64])  # no head is half: it stays bf16
    before, after = (utilisation(log, System(model, H100), 1, 0) for model in (bf16, fp8))
    assert after.mfu == pytest.approx(before.mfu / 2)
    assert after.mbu * H100.bandwidth == pytest.approx(MATRICES + 2 * HEAD)


def test_experts_count_as_far_as_tokens_go_through_them() -> None:
    model = MODELS["mixtral-8x7b"]
    system = System(replace(model, weights="fp8"), H100)
    one, many = log_of([1.0], prefill_tokens=[1]), log_of([1.0], prefill_tokens=[4_096])
    expert = 3 * model.hidden * model.intermediate
    rest = utilisation(one, system, 1, 0).mbu * H100.bandwidth - 2 * model.layers * expert
    everything = utilisation(many, system, 1, 0).mbu * H100.bandwidth
    assert everything == pytest.approx(rest + 8 * model.layers * expert)
    a_token = utilisation(one, system, 1, 0).mfu * system.flops / 2
    ends = 2 * model.vocab * model.hidden  # embeddings are looked up, and nothing was sampled
    assert a_token == pytest.approx(model.active_parameters - ends, rel=1e-3)


def test_states_are_read_and_written_once_a_decode() -> None:
    system = System(MODELS["qwen3.5-9b"], H100)
    step, none = log_of([1.0], decode_requests=[5], context_tokens=[500]), log_of([1.0])
    moved = utilisation(step, system, 1, 0).mbu - utilisation(none, system, 1, 0).mbu
    state = 5 * 2 * system.model.state_bytes + 500 * system.kv_bytes_per_token
    assert moved == pytest.approx(state / H100.bandwidth)


def test_positions_are_multiplied_with_queries_and_keys_of_a_latent_attention() -> None:
    """A head's queries and keys are longer than its values."""
    model = MODELS["deepseek-v3"]
    system = System(replace(model, weights="fp8"), GPUS["h200"], tp=16)
    few, many = (log_of([1.0], decode_requests=[1], context_tokens=[n]) for n in (1_000, 3_000))
    more = utilisation(many, system, 1, 0).mfu - utilisation(few, system, 1, 0).mfu
    a_pair = 2 * model.layers * model.heads / 16 * (128 + 64 + 128)
    assert more == pytest.approx(2_000 * a_pair / system.flops)


@pytest.mark.parametrize(("name", "few", "many"), [("deepseek-v3", 8, 16), ("qwen3-30b-a3b", 1, 8)])
def test_what_every_gpu_computes_for_itself_is_the_models_once(
    name: str, few: int, many: int
) -> None:
    """Routers, a latent attention's way down, and KV heads that GPUs outnumber."""
    log = log_of([1.0], prefill_tokens=[100], decode_requests=[4], sampled_tokens=[4])
    found = [
        tp * utilisation(log, System(MODELS[name], GPUS["h200"], tp), 1, 0).mfu
        for tp in (few, many)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
