"""Paced plans: what they carry, how they are written, and where they run as they were made."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from serving_worlds import core_of_plan
from typer.testing import CliRunner

from blendsim import search
from blendsim.cli.app import app
from blendsim.errors import InputError
from blendsim.pacing import Gains, Pacing, pacing_from_json
from blendsim.perf.overlap import overlap_lines
from blendsim.plan import DUAL_SCAN, Plan, read_plan, write_plan
from blendsim.planner.even import evened
from blendsim.planner.make import PACED, POLICIES
from blendsim.planner.pace import SIZES
from blendsim.request import Workload, from_lengths, pool
from blendsim.serving.flavour import FLAVOURS, find_flavour
from blendsim.serving.knobs import Knobs

MEASURED = {"gpu": "h200", "profile": "measured"}
PACING = Pacing(Gains(), (16, 32), (0.5, 0.75), ((1.0, 0.5), (0.3, 1.0)), 1e-9, (1.25,))


def mixed(n: int = 40, seed: int = 0) -> Workload:
    """Compute-heavy requests, memory-heavy ones of unknown length and some of known length."""
    rng = np.random.default_rng(seed)
    heavy = from_lengths(rng.integers(500, 2_000, n), rng.integers(2, 30, n), source="heavy")
    long = from_lengths(rng.integers(10, 100, n), rng.integers(100, 900, n), source="long")
    known = from_lengths(rng.integers(10, 100, 5), rng.integers(100, 900, 5), source="known")
    return pool([heavy, long, replace(known, is_known=np.ones(5, np.bool_))])


def planned(workload: Workload, **settings: Any) -> tuple[search.Problem, Plan]:
    problem = search.prepare(workload, search.Settings(**settings))
    return problem, search.plan_policy(problem, PACED)


def pacing_of(plan: Plan) -> Pacing:
    assert plan.pacing is not None
    return plan.pacing


# ---- the numbers


def test_pacing_comes_back_from_json() -> None:
    assert pacing_from_json(json.loads(json.dumps(PACING.as_json()))) == PACING


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("most_tokens", 0, "1 to 1,048,576"),
        ("most_tokens", (1 << 20) + 1, "1 to 1,048,576"),
        ("left_room", -0.1, "0 to 100"),
        ("left_room", 100.1, "0 to 100"),
        ("fill", 0.0, "a number above 0 and at most 1"),
        ("fill", 1.1, "a number above 0 and at most 1"),
        ("slack", -0.1, "0 to 1"),
        ("slack", 1.1, "0 to 1"),
        ("efficiency", -0.1, "0 to 1"),
        ("efficiency", 1.1, "0 to 1"),
        ("caution", -0.1, "0 to 10"),
        ("caution", 10.1, "0 to 10"),
        ("caution", float("nan"), "0 to 10"),
        ("trust", -0.1, "0 to 1,000,000,000"),
        ("trust", 1.1e9, "0 to 1,000,000,000"),
        ("trust", 10**400, "0 to 1,000,000,000"),
        ("look_steps", 0, "1 to 1,048,576"),
        ("look_steps", (1 << 20) + 1, "1 to 1,048,576"),
        ("crowd", -0.1, "0 to 1,000,000,000"),
        ("crowd", 1.1e9, "0 to 1,000,000,000"),
        ("longest_fill", -0.1, "0 to 1"),
        ("longest_fill", 1.1, "0 to 1"),
    ],
)
def test_gains_out_of_range_are_refused_with_their_range(
    name: str, value: float, allowed: str
) -> None:
    with pytest.raises(InputError) as refused:
        Gains(**{name: value})  # type: ignore[arg-type]
    assert str(refused.value) == f"pacing: {name} {value} is out of range; give {allowed}"


@pytest.mark.parametrize("name", [*asdict(Gains())])
def test_gains_at_the_ends_of_their_ranges_are_taken(name: str) -> None:
    ends = {"most_tokens": (1, 1 << 20), "look_steps": (1, 1 << 20), "fill": (1e-9, 1.0)}
    ends |= {
        "left_room": (0.0, 100.0),
        "caution": (0.0, 10.0),
        "trust": (0.0, 1e9),
        "crowd": (0.0, 1e9),
        "keeps_awaited": (False, True),
    }
    for value in ends.get(name, (0.0, 1.0)):
        assert getattr(Gains(**{name: value}), name) == value  # type: ignore[arg-type]


# ---- the file


def small_plan() -> Plan:
    return replace(planned(from_lengths([5, 6, 7], [10, 20, 30]))[1], pacing=PACING)


def with_pacing(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the file anew with another pacing."""
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[b"blendsim"])
    head["pacing"] = change(head["pacing"])
    pq.write_table(table.replace_schema_metadata({b"blendsim": json.dumps(head)}), path)


def test_plans_from_before_a_gain_are_served_without_it(tmp_path: Path) -> None:
    write_plan(small_plan(), tmp_path / "plan")

    def before(pacing: dict[str, Any]) -> dict[str, Any]:
        for name in ("keeps_awaited", "crowd", "longest_fill"):
            del pacing["gains"][name]
        return pacing

    with_pacing(tmp_path / "plan", before)
    read = read_plan(tmp_path / "plan").pacing
    assert read is not None
    assert not read.gains.keeps_awaited
    assert read.gains.crowd == 1e9  # so many never end together
    assert read.gains.longest_fill == 0.0


def test_plan_file_keeps_the_pacing(tmp_path: Path) -> None:
    write_plan(small_plan(), tmp_path / "plan")
    assert read_plan(tmp_path / "plan").pacing == PACING


@pytest.mark.parametrize("settings", [{}, MEASURED], ids=["lines", "measured"])
def test_pacing_that_a_planner_made_comes_back_from_a_file(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plan = planned(mixed(), **settings)[1]
    write_plan(plan, tmp_path / "plan")
    assert read_plan(tmp_path / "plan").pacing == plan.pacing


def test_pacing_from_before_overlaps_were_measured_is_read(tmp_path: Path) -> None:
    write_plan(small_plan(), tmp_path / "plan")
    with_pacing(tmp_path / "plan", lambda p: {name: p[name] for name in p if name != "measured"})
    assert read_plan(tmp_path / "plan").pacing == PACING


def test_plan_file_without_pacing_is_an_unpaced_plan(tmp_path: Path) -> None:
    write_plan(replace(small_plan(), pacing=None), tmp_path / "plan")
    assert read_plan(tmp_path / "plan").pacing is None
    table = pq.read_table(tmp_path / "plan")
    head = json.loads(table.schema.metadata[b"blendsim"])
    del head["pacing"]  # as in files from before there was any
    pq.write_table(
        table.replace_schema_metadata({b"blendsim": json.dumps(head)}), tmp_path / "plan"
    )
    assert read_plan(tmp_path / "plan").pacing is None


# ---- the planner


def test_paced_is_a_policy_in_the_order_of_blend_evened_out() -> None:
    problem, plan = planned(mixed())
    blend = search.plan_policy(problem, "blend")
    assert PACED in POLICIES
    assert (plan.policy, plan.admission) == (PACED, DUAL_SCAN)
    rest = ~blend.is_first
    places = evened(blend.density[rest], blend.root_density, blend.is_visible[rest])
    assert np.array_equal(plan.order[~rest], blend.order[~rest])
    assert np.array_equal(plan.order[rest], blend.order[rest][places])
    assert np.array_equal(plan.density[rest], blend.density[rest][places])


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != PACED])
def test_no_other_policy_is_paced(policy: str) -> None:
    problem = search.prepare(mixed(10), search.Settings())
    assert search.plan_policy(problem, policy).pacing is None


def test_settings_gains_travel_in_the_plan() -> None:
    gains = Gains(most_tokens=777, caution=0.5)
    assert pacing_of(planned(mixed(), pacing=gains)[1]).gains == gains


def test_sizes_take_what_the_profile_says_and_more_for_more_tokens() -> None:
    problem, plan = planned(mixed())
    pacing = pacing_of(plan)
    assert pacing.sizes == SIZES
    assert list(SIZES) == sorted(set(SIZES))
    assert len(pacing.seconds) == len(SIZES)
    beside = np.array(pacing.seconds) - problem.model.tables.layers_with_network[list(SIZES)]
    assert beside > 0 if np.isscalar(beside) else (beside > 0).all()
    assert beside / np.array(SIZES) == pytest.approx(beside[0] / SIZES[0])  # a token its share


def test_beside_the_gemms_a_token_costs_its_share_of_head_and_attention() -> None:
    """Known lengths, so that the totals are the trace's; one kind of request of p = 100, d = 10."""
    problem, plan = planned(from_lengths([100] * 8, [10] * 8), sample=1.0)
    model, n = problem.model, 1_024
    each = 10 * model.best_head_seconds_per_token
    each += sum(range(1, 101)) * model.best_prefill_seconds_per_pair
    expected = model.tables.layers_with_network[n] + n * each / 110
    assert pacing_of(plan).seconds[SIZES.index(n)] == pytest.approx(expected)


def test_engines_that_do_not_overlap_are_paced_by_the_sum() -> None:
    assert pacing_of(planned(mixed(), engine="sequential")[1]).lines == ((1.0, 1.0),)
    problem, plan = planned(mixed(), overlap="max")
    lines = overlap_lines("max", problem.model.system)
    assert pacing_of(plan).lines == tuple((a, b) for a, b, _ in lines.tolist())


def test_a_measured_overlap_is_priced_as_its_steps_are_charged() -> None:
    problem, plan = planned(mixed(), **MEASURED)
    ratios, times = problem.model.measured
    assert pacing_of(plan).measured == tuple(zip(ratios.tolist(), times.tolist(), strict=True))


def test_a_measured_overlap_for_which_no_step_is_cut_is_priced_as_the_sum() -> None:
    """On an H200 pairs promise less than steps are cut for."""
    pacing = pacing_of(planned(mixed(), **MEASURED, nano_batches=2)[1])
    assert np.diff(pacing.measured) == pytest.approx(1.0)
    assert np.array(pacing.lines) == pytest.approx(1.0)


def test_no_overlap_is_measured_where_lines_say_all() -> None:
    for name in ("nanoflow", "sequential"):
        assert pacing_of(planned(mixed(), engine=name)[1]).measured == ()
    assert pacing_of(planned(mixed(), engine="sequential", **MEASURED)[1]).measured == ()


def test_spread_is_one_where_all_lengths_are_visible() -> None:
    assert set(pacing_of(planned(mixed(), sample=1.0)[1]).spread) == {1.0}


def test_spread_of_a_sources_hidden_lengths_is_their_squares_over_the_means() -> None:
    workload = mixed(200)
    source = (np.arange(len(workload)) % 2).astype(np.int32)
    workload = replace(workload, source=source, source_names=("even", "odd"))
    problem, plan = planned(workload, sample=0.2)
    for kind in (0, 1):
        hidden = ~problem.lengths.is_visible & (source == kind)
        drawn, mean = problem.drawn[hidden] * 1.0, problem.lengths.expected[hidden] * 1.0
        expected = max(1.0, (drawn**2).sum() / (mean**2).sum())
        assert pacing_of(plan).spread[kind] == pytest.approx(expected)
    assert min(pacing_of(plan).spread) > 1.0


def test_hidden_lengths_change_no_byte_of_a_paced_plan(tmp_path: Path) -> None:
    workload = mixed(60)
    first = planned(workload, sample=0.2)[1]
    seen = np.zeros(len(workload), np.bool_)
    seen[first.order] = first.is_visible
    assert 0 < seen.sum() < len(workload)
    other = np.where(seen, workload.output_len, 1 + workload.output_len[::-1] % 97)
    write_plan(first, tmp_path / "first")
    write_plan(planned(replace(workload, output_len=other), sample=0.2)[1], tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_ranks_share_the_pacing() -> None:
    plan = planned(mixed(), dp=2)[1]
    assert np.unique(plan.rank).tolist() == [0, 1]
    assert plan.pacing is not None


# ---- the engines


@pytest.mark.parametrize("name", FLAVOURS)
def test_engines_that_mix_prompts_with_decodes_can_pace(name: str) -> None:
    assert find_flavour(name).can_pace == (not name.startswith("sglang"))


@pytest.mark.parametrize(
    "knobs",
    [
        Knobs(watermark=0.1),
        Knobs(long_prefill_token_threshold=64),
        Knobs(prefill_schedule_interval=2),
    ],
    ids=["watermark", "slices", "interval"],
)
def test_turned_knobs_cannot_be_paced(knobs: Knobs) -> None:
    assert not find_flavour("vllm", knobs=knobs).can_pace


@pytest.mark.parametrize("name", ["nanoflow", "sglang"])
def test_state_is_paced_where_the_engine_can(name: str) -> None:
    problem, plan = planned(mixed(10))
    core = core_of_plan(problem, plan, name)
    assert len(core.state.pace) == find_flavour(name).can_pace


# ---- --config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [f"{p},{d}" for p, d in [(900, 10), (30, 200)] * 10]
    (tmp_path / "trace.csv").write_text(
        "\n".join(["num_prefill_tokens,num_decode_tokens", *rows]) + "\n"
    )
    return tmp_path


def plan_with(config: str) -> Any:
    Path("c.toml").write_text(config)
    options = ("--trace", "trace.csv", "--planner", "paced", "--config", "c.toml", "-o", "plan")
    return CliRunner().invoke(app, ("plan", *options))


def test_config_file_reaches_the_plan(folder: Path) -> None:
    result = plan_with("[settings.pacing]\nmost_tokens = 512\ncaution = 2\n")
    assert result.exit_code == 0, result.output
    found = pacing_of(read_plan(folder / "plan"))
    assert found.gains == Gains(most_tokens=512, caution=2.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fill = 1.5", "pacing: fill 1.5 is out of range; give a number above 0 and at most 1"),
        ("most_token = 5", "no setting 'most_token'; nearest known: most_tokens"),
        ("most_tokens = 0.5", "most_tokens = 0.5 is not of type int"),
        ('slack = "much"', "slack = 'much' is not of type float"),
    ],
)
def test_wrong_gains_in_a_config_file_are_one_line(folder: Path, line: str, message: str) -> None:
    result = plan_with(f"[settings.pacing]\n{line}\n")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (folder / "plan").exists()


def test_pacing_that_is_no_section_is_one_line(folder: Path) -> None:
    result = plan_with("[settings]\npacing = 3\n")
    assert result.exit_code == 2
    assert "pacing = 3 is not of type Gains" in " ".join(result.output.split())
