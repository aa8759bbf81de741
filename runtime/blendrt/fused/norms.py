"""Norms of every query and key head, as Qwen3 has them."""

from typing import NamedTuple

from torch import Tensor


class HeadNorms(NamedTuple):
    """Weights (head_dim,) of the norms of queries and of keys, and what keeps a root above 0."""

    q: Tensor
    k: Tensor
    eps: float
