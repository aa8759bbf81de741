"""Search: plan a pool, simulate the plans, choose by prediction, compare with other systems."""

from blendsim.search.choice import Choice, choose
from blendsim.search.comparison import Comparison, compare
from blendsim.search.problem import Problem, plan_policy, prepare
from blendsim.search.simulation import Simulation, simulate_plan
from blendsim.settings import Settings

__all__ = [
    "Choice",
    "Comparison",
    "Problem",
    "Settings",
    "Simulation",
    "choose",
    "compare",
    "plan_policy",
    "prepare",
    "simulate_plan",
]
