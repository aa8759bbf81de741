"""Sizes that are measured: the most telling ones first, since time may end before the list does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """What each table measures, in the order it is measured. A row of a grid is measured whole or
    not at all; the first `least` rows of each are measured whatever time is left.
    """

    tokens: tuple[int, ...]  # of GEMMs and small operators
    decode_batches: tuple[int, ...]
    decode_contexts: tuple[int, ...]  # ascending
    most_context_tokens: int  # of one call, all requests together
    prefill_batches: tuple[int, ...]
    prefill_lengths: tuple[int, ...]  # ascending
    most_prompt_tokens: int
    chunks: tuple[tuple[int, int], ...]  # (tokens, computed before them)
    skewed: tuple[tuple[int, int], ...]  # (batch, mean context)
    pair_tokens: tuple[int, ...]
    pair_ratios: tuple[float, ...]  # memory over compute to aim at
    pair_batch: int  # requests decoded beside GEMMs, at most
    gemm_tile: int  # `tokens` up to 32 of these are its multiples, so that stairs show
    settled_tokens: int  # GEMMs of so many and more draw the power that clocks depend on
    beside: tuple[int, int]  # (batch, context) of the decodes between them
    least: int = 2


#: Attention's shares of the GPU tried for a pair, beside two plain streams.
PAIR_SHARES = (0.36, 0.24, 0.48, 0.3, 0.42, 0.18, 0.6, 0.12, 0.72)

GPU_SIZES = Sizes(
    tokens=(
        *(1, 16_384, 256, 2048, 64, 512, 1024, 4096, 8192, 128, 1536, 768, 384, 16, 3072, 192),
        *(640, 896, 1280, 1792, 320, 448, 576, 704, 832, 960, 1152, 1408, 1664, 1920, 2560, 32),
        *(1088, 1216, 1344, 1472, 1600, 1728, 1856, 1984, 6144, 12_288, 8, 4, 2, 48),
    ),
    decode_batches=(1, 1024, 256, 64, 512, 128, 16, 4, 384, 768, 192, 32, 8, 2),
    decode_contexts=(16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536),
    most_context_tokens=1 << 22,
    prefill_batches=(1, 16, 4, 2, 8),
    prefill_lengths=(16, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192, 16_384),
    most_prompt_tokens=1 << 15,
    chunks=tuple((q, c) for q in (512, 2048, 128) for c in (1024, 4096, 16_384)),
    skewed=((256, 1024), (64, 4096), (512, 512), (128, 2048)),
    pair_tokens=(1024, 512, 2048, 768),
    pair_ratios=(
        *(1.0, 0.5, 2.0, 1.33, 0.25, 0.75, 3.0, 0.1),
        *(1.15, 0.6, 1.6, 0.35, 0.9, 2.4),  # between them: held back, or to predict those
    ),
    pair_batch=256,
    gemm_tile=64,
    settled_tokens=128,
    beside=(128, 1024),
)

#: Enough to go through every table on a CPU in a second or two.
CPU_SIZES = Sizes(
    tokens=(1, 32, 8),
    decode_batches=(1, 4, 2),
    decode_contexts=(16, 64),
    most_context_tokens=128,
    prefill_batches=(1, 2),
    prefill_lengths=(16, 64),
    most_prompt_tokens=64,
    chunks=((16, 32),),
    skewed=((4, 32),),
    pair_tokens=(8, 16),
    pair_ratios=(1.0, 0.5),
    pair_batch=8,
    gemm_tile=1,
    settled_tokens=32,
    beside=(2, 16),
)


def pair_shares(sm_count: int, step: int) -> list[int]:
    """Attention's SMs in the steps a partition comes in, each once, leaving a step to the GEMMs."""
    tried = [round(share * sm_count / step) * step for share in PAIR_SHARES]
    return list(dict.fromkeys(sms for sms in tried if step <= sms <= sm_count - step))
