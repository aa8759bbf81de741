"""Costs of requests whose decodes read a prefix together (cascade attention): of its reads each has
its share, and the rest of them are query-key pairs.
"""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.perf.density import RequestCosts
from blendsim.prefix import PrefixTree, SortedPrompts, build_tree, common_blocks
from blendsim.request import Workload
from blendsim.system import System


def share_reads(
    costs: RequestCosts,
    workload: Workload,
    expected: Ints,
    prompts: SortedPrompts,
    system: System,
    most_running: int,
) -> RequestCosts:
    """`costs` of the closed form with every prefix read once for all that can decode it together:
    its readers, as far as `most_running` and the KV cache allow, at expected lengths.

    A pair costs 4·H·L FLOPs at the peak (H: heads × head size), in both products of attention.
    Cascade attention is not modelled for latent attention (`sim.run.require_modelled`).
    """
    p = workload.prompt_len[prompts.order].astype(np.float64)
    d = expected[prompts.order].astype(np.float64)
    tree = build_tree(common_blocks(prompts, system.block_tokens))
    path = tree.depth[tree.leaf_parent] * system.block_tokens
    together = _together(tree, p - path + 0.5 * d, system, most_running)
    spared = np.empty(len(d))
    blocks = _spared(tree.parent, tree.depth, together)
    spared[prompts.order] = d * blocks[tree.leaf_parent] * system.block_tokens
    model, gpu = system.model, system.gpu
    per_read = system.kv_bytes_per_token / (gpu.bandwidth * system.tp)
    per_pair = 4.0 * model.heads * model.head_dim * model.full_layers / (gpu.flops * system.tp)
    return costs._replace(
        compute=costs.compute + spared * per_pair, memory=costs.memory - spared * per_read
    )


def _together(tree: PrefixTree, held: Floats, system: System, most_running: int) -> Floats:
    """How many readers of each node decode at once at most, of a private `held` tokens each."""
    readers = np.maximum(tree.last - tree.first, 1)
    running = np.concatenate(([0.0], np.cumsum(held)))
    mean = np.maximum((running[tree.last] - running[tree.first]) / readers, 1.0)
    room = (system.kv_blocks - tree.depth) * system.block_tokens
    return np.asarray(np.clip(room / mean, 1.0, np.minimum(readers, most_running)), np.float64)


@allocating_kernel
def _spared(parent: Ints, depth: Ints, together: Floats) -> Floats:
    """Σ length · (1 − 1/together) from the root to each node, blocks."""
    spared = np.zeros(len(parent))
    for k in range(1, len(spared)):
        above = parent[k]
        length = depth[k] - depth[above]
        spared[k] = spared[above] + length * (1.0 - 1.0 / together[k])
    return spared
