"""What is to be known of a plan and its seconds that is not said of any run: whether the engine can
follow it, and what its steps are priced by.
"""

from blendsim.plan import DUAL_SCAN, Plan
from blendsim.search.priced import pricing_notes
from blendsim.serving.flavour import VLLM_PLANNED, find_flavour
from blendsim.settings import Settings

VLLM = "vllm"


def caveats(settings: Settings, plan: Plan) -> list[str]:
    """What results have of a plan for these settings, beside their notes."""
    return [*unfollowed(settings, plan), *pricing_notes([settings])]


def unfollowed(settings: Settings, plan: Plan | None) -> list[str]:
    """A note where the engine schedules by itself, in one line, and `plan` is taken from both
    ends, or where what follows plans has no pipeline.
    """
    if settings.engine == VLLM_PLANNED and settings.pp > 1:
        return [
            "the scheduler that has vLLM follow a plan does not run in a pipeline (docs/vllm.md): "
            f"with --pp {settings.pp} these are times of what could be, and --engine vllm has "
            "those of vLLM by itself"
        ]
    is_alone = find_flavour(settings.engine).one_line
    if plan is None or not (is_alone and has_two_ends(plan)):
        return []
    if settings.engine == VLLM:
        return [
            "vLLM by itself serves requests in one line, so it cannot follow this plan, which is "
            "taken from both ends; fed in this order it may take longer than predicted: plan by "
            f"--engine {VLLM_PLANNED} for vLLM with our scheduler in it, else by --planner dfs"
        ]
    return [
        "SGLang serves requests in one line, so it cannot follow this plan, which is taken "
        "from both ends; fed in this order it may take longer than predicted: plan by "
        "--planner dfs"
    ]


def has_two_ends(plan: Plan) -> bool:
    """Whether an engine that follows the plan takes requests from both its ends."""
    return plan.admission == DUAL_SCAN
