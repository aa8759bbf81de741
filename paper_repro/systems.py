"""The systems whose runs are compared, in one place: rows of blendsim's baselines."""

from blendsim.baselines import BASELINES, Baseline

VLLM = "vLLM-DFS"
SGLANG = "SGLang-DFS"
DFS = "NanoFlow-DFS"  # the paper's strongest baseline
BALANCE = "NanoFlow-Balance"
BLEND = "BlendServe"
PACED = "Paced"  # ours

#: Policies of ours that the paper does not have: measured and drawn, never counted as a baseline.
BEYOND: tuple[str, ...] = (PACED,)
#: Figure 7's bars in its order, then ours.
SYSTEMS = (VLLM, SGLANG, DFS, BALANCE, BLEND, *BEYOND)
#: The same as policies of the planner, where orders are compared on one engine.
ORDERS = ("dfs", "blend", "paced")
POOLS = tuple(row.name for row in BASELINES if row.topology != "colocated")  # Figure 8
COMMON_BUDGET = 2_048  # tokens a step; every comparison is made at it, and at each one's own best


def system(name: str) -> Baseline:
    """The baseline of that name."""
    return next(row for row in BASELINES if row.name == name)
