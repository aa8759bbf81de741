"""What FlashInfer's documentation promises of its paged wrappers, written out token by token.

It takes only the arguments that are positional or keyword in every version from 0.6.6 to 0.7.2, and
refuses what a GPU would refuse or misread: other integer types, tables that do not match, a cache
of another layout. It shares no code with blendrt.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class MissingJITCacheError(RuntimeError):
    """As flashinfer.jit has it."""


jit = SimpleNamespace(MissingJITCacheError=MissingJITCacheError)


class _Paged:
    """What prefill and decode share: a table of pages, and attention over a row of it."""

    def __init__(self) -> None:
        self.plans = 0

    def _take(
        self, indptr: Tensor, indices: Tensor, last_page_len: Tensor, shape: tuple[int, ...]
    ) -> None:
        for table in (indptr, indices, last_page_len):
            assert table.dtype == torch.int32
            assert table.ndim == 1
        assert not indptr.is_cuda
        assert not last_page_len.is_cuda
        assert len(indptr) == len(last_page_len) + 1
        assert int(indptr[-1]) == len(indices)
        self.plans += 1
        self._table = (indptr.tolist(), indices.tolist(), last_page_len.tolist())
        self._shape = shape

    def _attend(self, q: Tensor, paged: tuple[Tensor, Tensor], row: int, hidden: int) -> Any:
        """One query over a row but its last `hidden` tokens: the answer and log2 of the sum."""
        heads, kv_heads, dim, page_size = self._shape
        indptr, indices, last = self._table
        k_cache, v_cache = paged
        assert q.shape == (heads, dim)
        assert k_cache.shape[1:] == v_cache.shape[1:] == (page_size, kv_heads, dim)
        assert k_cache.stride() == v_cache.stride()
        pages = indices[indptr[row] : indptr[row + 1]]
        tokens = (len(pages) - 1) * page_size + last[row] - hidden
        k = torch.cat([k_cache[page] for page in pages])[:tokens].double()
        v = torch.cat([v_cache[page] for page in pages])[:tokens].double()
        answers, sums = [], []
        for head in range(heads):
            mine = head // (heads // kv_heads)
            scores = k[:, mine] @ q[head].double() / math.sqrt(dim)
            answers.append(scores.softmax(0) @ v[:, mine])
            sums.append(scores.logsumexp(0) / math.log(2))
        return torch.stack(answers), torch.stack(sums)


def _into(out: Tensor | None, answers: Tensor) -> Tensor:
    if out is None:
        return answers
    assert (out.shape, out.dtype) == (answers.shape, answers.dtype)
    assert out.is_contiguous()
    return out.copy_(answers)


class BatchPrefillWithPagedKVCacheWrapper(_Paged):
    """Queries in runs, each over its row of the table; causal ones end at the row's end."""

    def __init__(self, workspace: Tensor, kv_layout: str = "NHD", *, backend: str = "auto") -> None:
        super().__init__()
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"
        self.backend = backend

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
    ) -> None:
        assert qo_indptr.dtype == torch.int32
        assert len(qo_indptr) == len(paged_kv_indptr)
        self._queries = qo_indptr.tolist()
        self._causal = causal
        self._types = (q_data_type, kv_data_type)
        shape = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self._take(paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, shape)

    def run(self, q: Tensor, paged: tuple[Tensor, Tensor], *, out: Tensor | None = None) -> Tensor:
        return _into(out, self.run_with_sums(q, paged)[0].to(q.dtype))

    def run_with_sums(self, q: Tensor, paged: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert self._types == (q.dtype, paged[0].dtype)
        assert len(q) == self._queries[-1]
        rows = []
        for row, start in enumerate(self._queries[:-1]):
            end = self._queries[row + 1]
            for i in range(start, end):
                hidden = end - 1 - i if self._causal else 0
                rows.append(self._attend(q[i], paged, row, hidden))
        return torch.stack([a for a, _ in rows]), torch.stack([s for _, s in rows])


class BatchDecodeWithPagedKVCacheWrapper(_Paged):
    """A query a row of the table."""

    def __init__(
        self,
        workspace: Tensor,
        kv_layout: str = "NHD",
        *,
        use_tensor_cores: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"
        self.use_tensor_cores = use_tensor_cores
        self.backend = backend

    def plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
        fixed_split_size: int | None = None,
    ) -> None:
        assert fixed_split_size is None or (self.use_tensor_cores and fixed_split_size > 0)
        self.split_pages = fixed_split_size
        self._types = (q_data_type, kv_data_type)
        shape = (num_qo_heads, num_kv_heads, head_dim, page_size)
        self._take(indptr, indices, last_page_len, shape)

    def run(self, q: Tensor, paged: tuple[Tensor, Tensor], *, out: Tensor | None = None) -> Tensor:
        assert self._types == (q.dtype, paged[0].dtype)
        assert len(q) == len(self._table[2])
        answers = [self._attend(q[i], paged, i, 0)[0] for i in range(len(q))]
        return _into(out, torch.stack(answers).to(q.dtype))


class MultiLevelCascadeAttentionWrapper:
    """Levels of not causal prefill over the same queries, merged by their sums."""

    def __init__(self, levels: int, workspace: Tensor, kv_layout: str = "NHD") -> None:
        self.levels = [
            BatchPrefillWithPagedKVCacheWrapper(workspace, kv_layout) for _ in range(levels)
        ]

    def plan(
        self,
        qo_indptr_arr: list[Tensor],
        paged_kv_indptr_arr: list[Tensor],
        paged_kv_indices_arr: list[Tensor],
        paged_kv_last_page_len: list[Tensor],
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        **types: Any,
    ) -> None:
        shape = (num_qo_heads, num_kv_heads, head_dim, page_size)
        tables = (qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len)
        for level, *table in zip(self.levels, *tables, strict=True):
            level.plan(*table, *shape, **types)

    def run(self, q: Tensor, paged: tuple[Tensor, Tensor]) -> Tensor:
        parts = [level.run_with_sums(q, paged) for level in self.levels]
        answers = torch.stack([a for a, _ in parts])
        shares = torch.stack([s for _, s in parts]).mul(math.log(2)).softmax(0)
        return (answers * shares[..., None]).sum(0).to(q.dtype)
