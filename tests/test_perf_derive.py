"""A model's tables cut from a GPU's kernels: what is measured, and what lies between or beyond."""

import numpy as np
import pytest

from blendsim.errors import ProfileError
from blendsim.perf.atlas import read_atlas
from blendsim.perf.derive import derive_profile
from blendsim.perf.grids import AttentionGrid, HeadShape, along, complete
from blendsim.perf.kernel_times import attention, gemm_seconds
from blendsim.perf.model_shapes import gemm_shapes, head_shape
from blendsim.perf.store import profiles_directory
from blendsim.perf.waves import Waves, _error, fit_waves, stretch
from blendsim.specs import GPUS, find_gpu, find_model
from blendsim.system import System

ROOT = profiles_directory()
A100, LLAMA = find_gpu("a100-80g"), find_model("llama-3.1-8b")


@pytest.fixture(scope="module")
def atlas():
    return read_atlas(ROOT / "a100-80g" / "kernels")


def test_a_measured_gemm_is_taken_as_measured(atlas):
    seconds, note = gemm_seconds(atlas.gemms["bf16"], 6144, 4096)
    i, j = (
        np.searchsorted(atlas.gemms["bf16"].outputs, 6144),
        np.searchsorted(atlas.gemms["bf16"].inputs, 4096),
    )
    assert note == "measured"
    assert np.array_equal(seconds, atlas.gemms["bf16"].seconds[i, j])


def test_a_gemm_between_measured_ones_lies_between_them(atlas):
    seconds, note = gemm_seconds(atlas.gemms["bf16"], 28_672, 4096)
    j = np.searchsorted(atlas.gemms["bf16"].inputs, 4096)
    below, above = (
        atlas.gemms["bf16"].seconds[np.searchsorted(atlas.gemms["bf16"].outputs, n), j]
        for n in (16_384, 65_536)
    )
    assert note == "between measured n 16384 and 65536"
    assert ((below <= seconds) & (seconds <= above)).all()


def test_a_gemm_beyond_the_largest_grows_at_its_rate(atlas):
    largest, _ = gemm_seconds(atlas.gemms["bf16"], 65_536, 4096)
    twice, note = gemm_seconds(atlas.gemms["bf16"], 131_072, 4096)
    assert note == "n beyond the measured 65536, at its rate"
    assert twice == pytest.approx(2 * largest)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_gemm_left_out_is_predicted_within_its_stated_error(gpu):
    """Leave-one-out over measured n from 1,024 to 12,288: the error docs/profiles.md states."""
    grid = read_atlas(ROOT / gpu / "kernels").gemms["bf16"]
    wide = (grid.inputs >= 1024) & (grid.inputs <= 16_384)
    errors = []
    for i in np.flatnonzero((grid.outputs >= 1024) & (grid.outputs <= 12_288)):
        low, here, high = (grid.outputs[k] for k in (i - 1, i, i + 1))
        weight = (here - low) / (high - low)
        guess = (1 - weight) * grid.seconds[i - 1] + weight * grid.seconds[i + 1]
        errors.append((guess / grid.seconds[i] - 1)[wide][:, grid.tokens >= 128].ravel())
    error = np.abs(np.concatenate(errors))
    assert np.nanmedian(error) < 0.10


def test_more_kv_heads_are_a_larger_batch_to_the_kernel(atlas):
    """4 heads on 4 KV heads stand in for 8 on 8, batch doubled; the measured 8 on 8 judges."""
    grids = {shape: grid for shape, grid in atlas.decode.items() if shape.kv_heads != 8}
    guess, note = attention(grids, HeadShape(8, 8, 128))
    assert note == "measured 4/4/128, batch × 2 (same blocks)"
    truth = atlas.decode[HeadShape(8, 8, 128)]
    rows = dict(zip(guess.batches, guess.seconds, strict=True))
    errors = [
        rows[b][j] / truth.seconds[i, j] - 1
        for i, b in enumerate(truth.batches)
        for j, s in enumerate(truth.lengths)
        if b in rows and s in guess.lengths and b * s >= 1 << 14
    ]
    assert len(errors) > 50
    assert np.nanmedian(np.abs(errors)) < 0.03
    assert np.nanmax(np.abs(errors)) < 0.20


def test_a_group_between_measured_ones_lies_between_them(atlas):
    guess, note = attention(dict(atlas.decode), HeadShape(28, 4, 128))
    assert note == "between measured 24/4/128 and 32/4/128"
    low, high = (complete(atlas.decode[HeadShape(h, 4, 128)]) for h in (24, 32))
    i, j = list(low.batches).index(32.0), list(low.lengths).index(1024.0)
    assert guess.seconds[i, j] == pytest.approx((low.seconds[i, j] + high.seconds[i, j]) / 2)


def test_a_group_beyond_all_measured_ones_is_refused(atlas):
    with pytest.raises(ProfileError, match="no attention measured near 512 heads on 1 KV heads"):
        attention(dict(atlas.decode), HeadShape(512, 1, 128))


def test_a_tp_without_measured_all_reduce_is_refused(atlas):
    with pytest.raises(ProfileError, match=r"no all-reduce measured for --tp 16"):
        derive_profile(atlas, A100, find_model("llama-3.1-8b"), 16)


def test_gemm_shapes_of_tensor_parallel_ranks_add_up():
    for tp in (1, 2, 4, 8):
        shapes = gemm_shapes(LLAMA, tp)
        layer = sum(n * k for name, (n, k) in shapes.items() if name != "head")
        assert tp * layer == LLAMA.layer_parameters - 2 * LLAMA.hidden


def test_kv_heads_are_repeated_when_there_are_more_gpus():
    assert gemm_shapes(find_model("qwen-2.5-7b"), 28)["qkv"][0] == 3 * 128


def test_values_between_points_are_straight_and_beyond_them_at_the_last_rate():
    xs, ys = np.array([2.0, 4.0]), np.array([10.0, 30.0])
    assert along(xs, ys, np.array([1.0, 2.0, 3.0, 4.0, 8.0])).tolist() == [10, 10, 20, 30, 60]


def test_a_hole_takes_the_faster_neighbours_rate():
    grid = AttentionGrid(
        np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([[5.0, 8.0], [6.0, np.nan]])
    )
    assert complete(grid).seconds[1, 1] == pytest.approx(40 * min(8 / 20, 6 / 20))


def test_waves_are_found_in_a_grid_that_has_them_and_in_no_other():
    batches, lengths = 2.0 ** np.arange(12), 2.0 ** np.arange(8, 17)
    smooth = 20e-6 + batches[:, None] * lengths * 2e-9
    stepped = smooth * stretch(batches * 8, 216.0, 0.3)[:, None]
    shape = HeadShape(32, 8, 128)
    found = fit_waves({shape: AttentionGrid(batches, lengths, stepped)}, 108)
    assert (found.blocks_per_sm, found.share) == (2, 0.3)
    assert found.error < 0.01 < found.error_without
    assert fit_waves({shape: AttentionGrid(batches, lengths, smooth)}, 108).share == 0.0


def test_a_cliff_that_explains_little_of_the_noise_is_not_believed():
    """Of many shares some fit noise a little better than none does."""
    batches, lengths = 2.0 ** np.arange(12), 2.0 ** np.arange(8, 17)
    noise = np.random.default_rng(0).normal(1.0, 0.05, (12, 9))
    seconds = (20e-6 + batches[:, None] * lengths * 2e-9) * noise
    slightly = seconds * stretch(batches * 8, 216.0, 0.05)[:, None]
    grids = {HeadShape(32, 8, 128): AttentionGrid(batches, lengths, slightly)}
    errors = [_error(grids, 108 * blocks, share) for blocks in (1, 2) for share in (0.0, 0.05, 0.1)]
    assert 0.9 * errors[0] < min(errors) < errors[0]
    assert fit_waves(grids, 108) == Waves(1, 0.0, *[round(errors[0], 4)] * 2)


def test_a_full_wave_is_not_stretched():
    blocks = np.array([1.0, 108.0, 109.0, 216.0])
    assert stretch(blocks, 108.0, 0.5).tolist() == pytest.approx([1, 1, 1 + 0.5 * (107 / 109), 1])


@pytest.mark.parametrize("tp", [1, 2, 8, 16])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "qwen-2.5-72b"])
def test_kv_of_a_gpu_is_its_part_of_the_replicas(model, tp):
    """With more GPUs than KV heads these are repeated, and no GPU holds less than one."""
    spec = find_model(model)
    system = System(spec, find_gpu("h200"), tp, kv_bytes=1 << 40)
    assert spec.layers * head_shape(spec, tp).kv_bytes * tp == system.kv_bytes_per_token
