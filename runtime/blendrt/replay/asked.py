"""From a plan and the settings that were asked for to a job. Whoever replays a plan makes it here,
so that all serve it by the same rules and refuse the same.

On a floor of its own: it reads settings, which stand above the rest of the runtime.
"""

from blendrt.replay.job import Job
from blendsim.errors import InputError
from blendsim.plan import Plan
from blendsim.planner.outlook import look_ahead, reported_lengths, sort_pool
from blendsim.request import Workload
from blendsim.settings import Settings


def asked_job(plan: Plan, workload: Workload, settings: Settings, engine: str | None = None) -> Job:
    """The plan with all that a run of it takes, on the engine that is asked for or the one of
    another name. Outputs are as long as `simulate` takes them: the trace's, or drawn where it has
    none.

    InputError for what only the simulator models, rounds of prefill and decode included.
    """
    settings.require_runnable("replay")
    flavour = (settings if engine is None else settings.for_engine(engine)).flavour()
    if flavour.prefill_first:
        raise InputError(
            f"replay runs no rounds as {flavour.name} does; give --engine vllm, or plan with "
            "--engine nanoflow, vllm or sequential"
        )
    (prompts, tree), system = sort_pool(workload), settings.system
    sampling = (settings.sample, settings.seed, settings.length_rule, settings.output_guess)
    drawn = look_ahead(workload, tree, system, *sampling).drawn
    return Job(plan, workload, reported_lengths(workload, drawn), prompts, system, flavour)
