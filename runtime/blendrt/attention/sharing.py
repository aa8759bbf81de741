"""Which decodes of a batch read the same leading pages, for attention that reads those pages once.

    decode a  [ s s s s | a a ]        shared  [ s s s s ]         one row a group
    decode b  [ s s s s | b ]     →    own     [ a a ] [ b ]       one row a member, never empty
    decode c  [ c c c ]                alone   [ c c c ]

A page holds tokens of one prefix, so decodes that have the same page at one depth share all pages
before it. Groups have one level: what some members share beyond the others counts as their own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blendrt.attention.layout import Pages, PageTable, Rows, page_table, upload
from blendsim.arrays import Ints


@dataclass(frozen=True, slots=True)
class SharedDecodes:
    """A batch's decodes, those in groups apart from the others."""

    members: Tensor  # (M,) int64, device: decodes in groups, group after group
    group_indptr: Tensor  # (groups + 1,) int32, host: each group's members
    shared: PageTable  # (groups,) full pages that all members of a group begin with
    own: PageTable  # (M,) what follows
    lone: Tensor  # int64, device: all other decodes
    alone: PageTable  # all their pages


def share(
    table: PageTable, block_tokens: int, least_members: int, least_pages: int
) -> SharedDecodes:
    """Groups of at least `least_members` decodes with at least `least_pages` pages in common."""
    device = table.indices.device
    lengths = table.lengths(block_tokens).numpy().astype(np.int64)
    rows = np.split(table.numbers.numpy(), table.indptr.numpy()[1:-1])
    groups = [g for g in _candidates(rows, least_pages) if len(g) >= least_members]
    depths = [_common(rows, group) for group in groups]
    groups = [group for group, depth in zip(groups, depths, strict=True) if depth >= least_pages]
    depths = [depth for depth in depths if depth >= least_pages]
    sizes = [len(group) for group in groups]
    members = np.concatenate([*groups, np.zeros(0, np.int64)])
    cut = np.repeat(np.array(depths, np.int64), sizes)
    lone = np.setdiff1d(np.arange(len(table)), members)

    def pages(rows: list[Pages], tokens: Ints) -> PageTable:
        return page_table(Rows.of(rows), tokens, block_tokens, device)

    return SharedDecodes(
        members=upload(torch.from_numpy(members), device),
        group_indptr=torch.tensor([0, *np.cumsum(sizes, dtype=np.int64)], dtype=torch.int32),
        shared=pages(
            [rows[group[0]][:depth] for group, depth in zip(groups, depths, strict=True)],
            np.array(depths, np.int64) * block_tokens,
        ),
        own=pages(
            [rows[i][depth:] for i, depth in zip(members, cut, strict=True)],
            lengths[members] - cut * block_tokens,
        ),
        lone=upload(torch.from_numpy(lone), device),
        alone=pages([rows[i] for i in lone], lengths[lone]),
    )


def _candidates(rows: list[Pages], least_pages: int) -> list[Ints]:
    """Decodes with the same page at the least depth that counts, a page of their own behind it."""
    long = np.array([i for i, row in enumerate(rows) if len(row) > least_pages], np.int64)
    keys = np.array([rows[i][least_pages - 1] for i in long], np.int64)
    order = np.argsort(keys, kind="stable")
    return np.split(long[order], np.flatnonzero(np.diff(keys[order])) + 1)


def _common(rows: list[Pages], group: Ints) -> int:
    """Pages all of a group begin with, one left to each."""
    most = min(len(rows[i]) for i in group) - 1
    alike = (np.stack([rows[i][:most] for i in group]) == rows[group[0]][:most]).all(axis=0)
    return most if alike.all() else int(alike.argmin())
