"""Search: plan a pool, simulate the plans, choose by prediction, compare with other baselines, and
price other systems.
"""

from blendsim.search.choice import Choice, choose, choose_for
from blendsim.search.comparison import Comparison, compare
from blendsim.search.prices import Prices, read_prices
from blendsim.search.problem import Problem, plan_policy, prepare
from blendsim.search.rental import Candidates, Rental, find_candidates, rent
from blendsim.search.simulation import Simulation, simulate_plan
from blendsim.search.stages import first_stage, prepare_rest
from blendsim.settings import Settings

__all__ = [
    "Candidates",
    "Choice",
    "Comparison",
    "Prices",
    "Problem",
    "Rental",
    "Settings",
    "Simulation",
    "choose",
    "choose_for",
    "compare",
    "find_candidates",
    "first_stage",
    "plan_policy",
    "prepare",
    "prepare_rest",
    "read_prices",
    "rent",
    "simulate_plan",
]
