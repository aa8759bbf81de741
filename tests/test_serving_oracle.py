"""The compiled serving core and its slow twin take the same steps, whatever the world."""

from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from serving_worlds import compare, worlds


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_both_cores_take_the_same_steps(world: World) -> None:
    assert compare(world) >= max(world.outputs)
