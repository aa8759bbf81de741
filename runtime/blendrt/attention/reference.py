"""Attention written out in torch: gather the pages, masked softmax in float32. Slow, plainly right.

It runs on any device. Answers come in the queries' type, so float32 queries over a bfloat16 cache
give the exact answer other backends are measured against.
"""

from itertools import pairwise

import torch
from torch import Tensor

from blendrt.attention.layout import AttentionLayout
from blendrt.kv_pool import KvPool

#: Gathered K values at a time: bounds the memory of a batch of many long decodes.
_MOST_GATHERED = 1 << 26


class ReferenceAttention:
    """The `Attention` that others are held to."""

    def plan(self, layout: AttentionLayout) -> None:
        """Take the layout as it is."""
        self._layout = layout

    def prefill(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Chunk after chunk, each over the pages of its request."""
        layout = self._layout
        keys, values = pool.paged(layer)
        answers = torch.empty_like(q) if out is None else out
        at = 0
        rows = layout.prefill_pages.indptr.tolist()
        chunks = zip(layout.prefill_lens.tolist(), layout.prefill_computed.tolist(), strict=True)
        for i, (tokens, computed) in enumerate(chunks):
            pages = layout.prefill_pages.indices[rows[i] : rows[i + 1]][None]
            reach = torch.arange(computed, computed + tokens, device=q.device) + 1
            answers[at : at + tokens] = attend(
                q[None, at : at + tokens], keys, values, pages, reach[None]
            )[0]
            at += tokens
        return answers

    def decode(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Many decodes at a time, their page lists padded to one length."""
        table = self._layout.decode_pages
        keys, values = pool.paged(layer)
        answers = torch.empty_like(q) if out is None else out
        rows = table.indptr.tolist()
        lengths = table.lengths(pool.block_tokens).to(q.device)
        most = max((b - a for a, b in pairwise(rows)), default=0)
        group = max(1, _MOST_GATHERED // max(1, most * keys[0].numel()))
        for start in range(0, len(table), group):
            end = min(start + group, len(table))
            lists = [table.indices[rows[i] : rows[i + 1]] for i in range(start, end)]
            pages = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
            answers[start:end] = attend(
                q[start:end, None], keys, values, pages, lengths[start:end, None]
            )[:, 0]
        return answers


def attend(q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, reach: Tensor) -> Tensor:
    """Attention of q, (requests, tokens, heads, head_dim), over `pages`, (requests, pages): a query
    sees the first `reach`, (requests, tokens), tokens of its request.
    """
    requests, tokens, heads, dim = q.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    # A KV head's queries, of all heads that share it, stand one under the other: keys and values
    # are not copied for each of them.
    queries = q.float().view(requests, tokens, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
    k = keys[pages].flatten(1, 2).float().permute(0, 2, 3, 1)
    v = values[pages].flatten(1, 2).float().transpose(1, 2)
    place = torch.arange(k.shape[-1], device=q.device)
    # NOTE: what lies behind a request is another's, or nobody's: of no weight, but 0 · NaN is NaN.
    v = v.masked_fill((place >= reach.amax(-1, keepdim=True))[:, None, :, None], 0.0)
    scores = (queries.flatten(2, 3) @ k * dim**-0.5).unflatten(2, (group, tokens))
    beyond = place >= reach[..., None]
    weights = scores.masked_fill(beyond[:, None, None], -torch.inf).softmax(-1)
    answers = (weights.flatten(2, 3) @ v).unflatten(2, (group, tokens))
    whole: Tensor = answers.permute(0, 3, 1, 2, 4).reshape(q.shape)
    return whole.to(q.dtype)
