"""What commands that search say alike: how long a search shall go on, and what it did."""

from typing import TYPE_CHECKING, Any

from blendsim.cli.lists import read_seconds

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.search.schedule_search import Effort, Found

LEAST = 0.001  # the least that is told of a gain


def read_effort(evaluations: int | None, budget: str | None) -> "Effort":
    """The effort that `--evaluations` and `--budget` ask for."""
    from blendsim.search.schedule_search import Effort

    return Effort(evaluations, None if budget is None else read_seconds(budget, "--budget"))


def given_effort(evaluations: int | None, budget: str | None) -> "Effort | None":
    """The same, or None where neither is given."""
    is_given = evaluations is not None or budget is not None
    return read_effort(evaluations, budget) if is_given else None


def effort_told(found: "Found") -> str:
    """What the search did and how to repeat it."""
    from blendsim.wording import counted

    tally = found.tally
    spent = " Nothing new was left to try." if tally.is_spent else ""
    return (
        f"{counted(tally.evaluations, 'evaluation')} in {tally.seconds:,.1f} s: "
        f"{counted(tally.whole, 'simulation')} of the whole pool and {tally.thinned} of smaller "
        f"ones. --evaluations {tally.evaluations} repeats this search.{spent}"
    )


def ranks_told(shown: int, first: int, given: int, ranked: int) -> list[str]:
    """Which schedules a leaderboard's lines are of, where not of all: of `ranked` ones it was
    `given` the `first` and the fixed policies, and has shown those that look like none above.
    """
    if shown == ranked:
        return []
    named = f"the first {first} and the fixed policies" if given < ranked else ""
    alike = "of those that differ in nothing shown here the first" if shown < given else ""
    return [f"{shown} of {ranked:,} schedules: {'; '.join(filter(None, [named, alike]))}."]


def cut_told(found: "Found", has_picture: bool = False) -> list[str]:
    """A note where a signal cut the search short, and with it the picture that it was to have."""
    if not found.tally.is_cut:
        return []
    from blendsim.wording import counted

    tried = counted(found.tally.evaluations, "evaluation")
    undrawn = "; no picture was drawn" if has_picture else ""
    return [
        f"the search was cut short by a signal after {tried}, and keeps the best that it had "
        f"found{undrawn}"
    ]


def gain_told(gain: float) -> str:
    """How far what was found is ahead of the policies, as a share of their seconds."""
    if gain < LEAST:
        return f"hardly less than the best fixed policy, by under {LEAST:.1%}"
    return f"{gain:.1%} less than the best fixed policy"


def none_told(found: "Found") -> str:
    """That a fixed policy was kept, and why."""
    best = found.leaderboard[0]
    if best.is_fixed or best.seconds == found.seconds:
        return "No other schedule is predicted to be faster than the policies."
    gain = 1 - best.seconds / found.seconds
    policy, gains = found.chosen.policy, f"{gain:.1%}" if gain >= LEAST else f"under {LEAST:.1%}"
    return (
        f"The best schedule tried gains {gains} on {policy}, which may be chance: {policy} is kept."
    )


def worlds_told(found: "Found") -> list[str]:
    """What schedules were compared by, where lengths are not known."""
    if not found.worlds:
        return []
    return [
        "Not all lengths are known: schedules were compared by typical seconds, the geometric "
        f"mean of those in {found.worlds} worlds that the sample allows. The predicted seconds of "
        "a policy's row are those in the one world that simulate shows."
    ]


def measures_drawn(found: "Found") -> list[str]:
    """What each of the sensitivities is in. Other samples are drawn for one world, whatever
    schedules are compared by.
    """
    from blendsim.search.sweep import SAMPLING

    return [
        "typical seconds" if found.worlds and each.axis != SAMPLING else "predicted seconds"
        for each in found.sensitivities
    ]


def schedule_told(found: "Found") -> str:
    """The searched schedule: its policy, and what it has otherwise than a fixed one."""
    values = ", ".join(f"{name} {value}" for name, value in found.schedule.items())
    return f"The searched schedule: {values}."


def found_told(found: "Found") -> list[str]:
    """Which schedule was found, and what the search did."""
    if not found.is_searched:
        return [none_told(found), *worlds_told(found), effort_told(found)]
    return [schedule_told(found), *worlds_told(found), effort_told(found)]


def found_json(found: "Found") -> dict[str, Any]:
    """What `--json` tells of a search besides rows."""
    name = "typical_seconds" if found.worlds else "predicted_seconds"
    return {
        "leaderboard": [
            {name: entry.seconds, "is_fixed": entry.is_fixed, **entry.values}
            for entry in found.leaderboard
        ],
        "search": {name: found.seconds, "worlds": found.worlds, **found.tally._asdict()},
    }
