"""Planning a pool that is answered for real, in two stages: a sample first, then the rest by what
it showed. Where a run goes on that broke off, its sample's answers count as seen.
"""

from dataclasses import replace

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.plan import fingerprint
from blendsim.planner.sample import choose_sample
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, select
from blendsim.search.problem import Problem, costs_of, prepare
from blendsim.settings import Settings
from blendsim.wording import Say


def first_stage(workload: Workload, share: float, seed: int) -> Bools:
    """(n,) which requests to answer first, to learn how long answers are: as planning samples a
    pool whose lengths are known to a trace, and the same ones whenever it is asked.
    """
    n = len(workload)
    tree = pool_tree(workload, sort_prompts(workload))
    could = replace(workload, has_output=np.ones(n, np.bool_), is_known=np.zeros(n, np.bool_))
    return choose_sample(could, tree.group_of_rows, share, np.random.default_rng(seed))


def prepare_rest(
    workload: Workload,
    settings: Settings,
    rest: Ints,
    seen: Bools,
    lengths: Ints,
    progress: Say = lambda _: None,
) -> Problem:
    """The requests `rest` as a pool of its own, expected to answer as those in the mask `seen` did:
    request i of these with `lengths[i]` tokens. Nobody is sampled any more. The engine that is to
    answer runs by then, so that its token budget and running limit are settled.
    """
    engine = settings.flavour()
    settings = replace(settings, token_budget=engine.token_budget, max_running=engine.max_running)
    known = replace(
        workload, output_len=np.where(seen, lengths, 0), has_output=seen, is_known=seen & False
    )
    whole = prepare(known, replace(settings, sample=1.0), progress)
    part = select(replace(workload, has_output=seen & False, output_len=0 * lengths), rest)
    hidden = np.zeros(len(rest), np.bool_)
    estimates = whole.lengths._replace(
        expected=whole.lengths.expected[rest],
        uncut=whole.lengths.uncut[rest],
        is_visible=hidden,
        is_sampled=hidden,
        workload_hash=fingerprint(part, hidden),
    )
    prompts = sort_prompts(part)
    return Problem(
        workload=part,
        prompts=prompts,
        tree=pool_tree(part, prompts),
        settings=settings,
        model=whole.model,
        lengths=estimates,
        drawn=whole.drawn[rest],
        costs=costs_of(part, prompts, settings, estimates.expected),
    )
