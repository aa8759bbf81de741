"""Plans of orders of one's own, to run beside those of the policies."""

from collections.abc import Mapping

from blendsim.plan import Plan
from blendsim.planner.make import Groundwork
from blendsim.planner.own import Order, reordered
from blendsim.search.problem import Problem, plan_policy

RANKED_BY = "dfs"  # whose requests each of several ranks keeps


def own_plans(
    problem: Problem, own: Mapping[str, Order] | None, ground: Groundwork | None = None
) -> dict[str, Plan]:
    """The plans of orders of the workload's rows by their names, and of the policy whose ranks they
    keep; nothing for none. InputError for what is no order, or called as a policy.
    """
    if not own:
        return {}
    ranked = plan_policy(problem, RANKED_BY, ground=ground)
    return {RANKED_BY: ranked} | {name: reordered(ranked, own[name], name) for name in own}
