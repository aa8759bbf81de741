"""The paper's normalisations of output lengths (§6.2): video frames to tokens, and chat answers to
a wanted mean.
"""

import numpy as np

from blendsim.arrays import Floats, Ints

FRAME_TOKENS = 256
VIDEO_MEAN = 16384.0  # tokens, "16 K"; 45 K before
CHAT_MEAN = 256.0  # tokens

_HALVINGS = 60


def video_tokens(frames: Floats, longest: int) -> Ints:
    """Frames × 256 tokens, scaled to a mean of `VIDEO_MEAN` and held in [1 frame, `longest`], in
    whole frames.
    """
    scaled = frames * (VIDEO_MEAN / (frames.mean() * FRAME_TOKENS))
    whole: Ints = np.clip(np.rint(scaled), 1, longest // FRAME_TOKENS).astype(np.int64)
    return whole * FRAME_TOKENS


def with_chat_mean(lengths: Ints) -> Ints:
    """The lengths with a mean of `CHAT_MEAN` and the variance they had, in the same order.

    A shift would leave lengths below one token, a factor would change the variance. a·d^b does
    neither: b fits the coefficient of variation, which grows with b, and a the mean.
    """
    d = lengths.astype(np.float64)
    wanted = d.std() / CHAT_MEAN
    if wanted == 0.0:
        return np.full(len(d), round(CHAT_MEAN), np.int64)
    logs = np.log(d / d.max())
    low, high = 0.0, 8.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        powers = np.exp(middle * logs)
        low, high = (middle, high) if powers.std() < wanted * powers.mean() else (low, middle)
    powers = np.exp(low * logs)
    fitted: Ints = np.maximum(1, np.rint(powers * (CHAT_MEAN / powers.mean()))).astype(np.int64)
    return fitted
