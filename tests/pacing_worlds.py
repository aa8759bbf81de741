"""Small worlds whose steps are paced: the pools of serving_worlds.py on a machine made by hand."""

from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import strategies as st
from oracle_serving import World
from serving_worlds import core_of, worlds

from blendsim.pacing import Gains, Pacing
from blendsim.serving.core import ServingCore

#: Compute of a step grows in stairs, so that some sizes are no corner of the hull.
MACHINE = Pacing(
    gains=Gains(most_tokens=64, look_steps=4),
    sizes=(1, 2, 4, 8, 12, 16, 24, 32, 64),
    seconds=(4.0, 4.0, 4.0, 5.0, 8.0, 8.5, 14.0, 18.0, 36.0),
    lines=((1.0, 0.5), (0.3, 1.0)),
    read_seconds=0.1,
    spread=(1.5, 1.2, 3.0),
)


class PacedWorld(NamedTuple):
    """A world, how it is paced, and whose length planning saw."""

    world: World
    pacing: Pacing
    visible: tuple[bool, ...]
    source: tuple[int, ...]

    def core(self) -> ServingCore:
        """A fresh core."""
        return core_of(self.world, self.pacing, self.visible, self.source)


@st.composite
def paced_worlds(draw: st.DrawFn) -> PacedWorld:
    """1–12 requests in little memory without a host; lengths of some are visible, then right."""
    world = replace(draw(worlds()), host=0, dual=True)
    n = len(world.prompts)
    visible = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    estimates = [
        output if seen else estimate
        for output, estimate, seen in zip(world.outputs, world.estimates, visible, strict=True)
    ]
    gains = Gains(
        most_tokens=draw(st.sampled_from([1, 7, 64])),
        left_room=draw(st.sampled_from([0.0, 1.0, 5.0])),
        fill=draw(st.sampled_from([0.5, 0.93])),
        slack=draw(st.sampled_from([0.0, 0.05, 0.5])),
        efficiency=draw(st.sampled_from([0.0, 0.5, 0.9])),
        caution=draw(st.sampled_from([0.0, 1.0])),
        look_steps=draw(st.sampled_from([1, 8])),
        crowd=draw(st.sampled_from([0.25, 1.0, 1e9])),
        longest_fill=draw(st.sampled_from([0.0, 0.55, 1.0])),
        keeps_awaited=world.knows_plan,
    )
    return PacedWorld(
        replace(world, estimates=tuple(estimates)),
        replace(MACHINE, gains=gains, read_seconds=draw(st.sampled_from([0.01, 0.1, 1.0]))),
        tuple(visible),
        tuple(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
    )


def record_of(core: ServingCore) -> Any:
    """Where pacing is in the run."""
    return core.state.pace[0].record[0]


#: Three dense requests and three light ones, in memory for all.
AMPLE = PacedWorld(
    World(
        prompts=tuple((k,) * n for k, n in enumerate((30, 25, 20, 4, 3, 2))),
        outputs=(2, 3, 4, 30, 40, 50),
        estimates=(2, 3, 4, 30, 40, 50),
        densities=(9.0, 8.0, 7.0, 0.3, 0.2, 0.1),
        capacity=400,
        block=1,
        budget=32,
        max_running=32,
        dual=True,
    ),
    MACHINE,
    (True,) * 6,
    (0,) * 6,
)
