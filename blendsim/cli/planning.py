"""`blendsim plan` and `blendsim compare`: a pool of requests in, a table of policies or baselines
out.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blendsim.cli import options as o
from blendsim.cli.idle import idle
from blendsim.cli.lists import LISTED, read_systems
from blendsim.cli.orders import load_ordered, read_orders
from blendsim.cli.output import print_json, print_lines, tell, width
from blendsim.cli.places import require_tables
from blendsim.cli.pooled import takes_pool
from blendsim.cli.progress import Progress
from blendsim.cli.ranges import range_told, true_seconds, unchecked
from blendsim.cli.remarks import (
    best_served,
    hurried,
    memory_told,
    not_yours,
    saving_told,
    unseen,
)
from blendsim.cli.rental import Wanted, rent
from blendsim.cli.searching import cut_told, found_json, found_told, given_effort
from blendsim.cli.servers import server_json
from blendsim.cli.stopping import Cut, ends_at_once
from blendsim.errors import InputError

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.arrays import Ints
    from blendsim.request import Workload
    from blendsim.search import Choice
    from blendsim.search.schedule_search import Effort, Found
    from blendsim.search.spread import Spread
    from blendsim.settings import Settings


@takes_pool(gpu=o.Gpus, tp=o.Tps, pp=o.Pps, dp=o.Dps, quantization=o.Quantizations)
def plan(
    ctx: typer.Context,
    price: o.Price = None,
    deadline: o.Deadline = None,
    max_cost: o.MaxCost = None,
    order: o.Orders = None,
    evaluations: o.FurtherEvaluations = None,
    budget: o.FurtherBudget = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the chosen plan here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Choose in which order a pool of requests should run and, of several systems, on which."""
    systems = read_systems(*(ctx.params[name] for name in LISTED))
    wanted = Wanted(systems, price, deadline, max_cost)
    further = given_effort(evaluations, budget)
    if order and (wanted.is_rental or further):
        raise InputError(
            "--order is for the policies of one system: name one, without --price, --deadline and "
            "--max-cost, and without --budget and --evaluations, or leave --order out"
        )
    if wanted.is_rental:
        if further:
            raise InputError(
                "--budget and --evaluations search the schedules of one system; name one, without "
                "--price, --deadline and --max-cost, or leave them out"
            )
        rent(ctx.params | systems.first, wanted, output, json)
        return
    with Progress(is_whole_run=True) as say:
        from blendsim.plan import write_plan
        from blendsim.search.caveats import unfollowed
        from blendsim.search.priced import pricing_notes

        asked = o.resolve(ctx.params | systems.first)
        require_tables([output], o.files_read(ctx.params))
        if further is not None:
            from blendsim.search.auto_search import require_auto

            require_auto(asked.settings)  # before a trace is waited for
        listed = read_orders(order)
        say(asked.reading)
        with ends_at_once(), Cut() as cut:
            began = time.monotonic()
            pool, own = load_ordered(asked, listed, say)
            slow = saving_told(asked, time.monotonic() - began)
            found: Found | None = None
            if further is None:
                choice, spread = _choose(pool, asked.settings, own, say)
            else:
                choice, found, spread = _search_on(pool, asked.settings, further, say, cut)
        notes = [
            *unfollowed(asked.settings, choice.plan),
            *idle([asked.settings], [row.policy for row in choice.rows], pool),
            *choice.notes,
            *unseen(asked, pool, choice.plan),
            *pricing_notes([asked.settings]),
            *memory_told(asked.settings),
            *hurried(choice.log),
            *not_yours(asked.settings),
            *(cut_told(found) if found else []),
        ]
        if output is not None:
            meta = {**choice.plan.meta, "source": asked.source}
            write_plan(replace(choice.plan, meta=meta), output)
    if slow is not None:
        tell(slow)
    visible = int(choice.plan.is_visible.sum())
    if json:
        told = {"advice": choice.advice, "notes": notes, "worlds": spread.seconds}
        told |= found_json(found) if found else {}
        limits = {name: getattr(choice.chosen, name) for name in ("token_budget", "max_running")}
        planned_for = replace(asked.settings, **limits)
        told |= {"visible": visible, "server": server_json(planned_for), "plan": output}
        print_json(_object(choice.rows, choice.chosen, told))
        return
    kept = f"plan written to {output}" if output else "-o plan.parquet keeps this plan"
    where = f"{asked.settings.platform(asked.called)}, engine {asked.settings.engine}"
    if visible < len(choice.plan):
        where += f". Of {len(choice.plan):,} output lengths planning sees {visible:,}"
    is_sampled = asked.settings.sample != 1.0
    true = true_seconds(choice.chosen, pool)
    hangs = range_told(spread, choice.chosen.predicted_seconds, is_sampled=is_sampled, true=true)
    hangs += unchecked([asked.settings])
    advice = [*choice.advice, *(found_told(found) if found else []), *hangs]
    print_lines(_text(choice.rows, choice.chosen, where, advice, notes))
    print_lines(["", kept])


def _choose(
    pool: "Workload", settings: "Settings", own: "dict[str, Ints]", say: Progress
) -> "tuple[Choice, Spread]":
    """The best fixed policy or order of one's own, and its times in other worlds that the sample
    allows.
    """
    from blendsim.search import choose_for, prepare
    from blendsim.search.spread import spread, with_range
    from blendsim.search.trial import engine_of

    problem = with_range(prepare(pool, settings, say))
    choice = choose_for(problem, say, own)
    engine = engine_of(problem, choice.chosen)
    return choice, spread(problem, choice.plan, engine, progress=say)


def _search_on(
    pool: "Workload", settings: "Settings", further: "Effort", say: Progress, cut: Cut
) -> "tuple[Choice, Found, Spread]":
    """The best of the fixed policies and of what a search finds, which has compared in such
    worlds.
    """
    from blendsim.search.auto_search import choose_and_search
    from blendsim.search.spread import NO_SPREAD

    return *choose_and_search(pool, settings, further, say, cut), NO_SPREAD


@takes_pool("topology", "link", "engine", "planner")
def compare(
    ctx: typer.Context,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            "--engine",
            help="Only these engines' baselines, as in vllm,nanoflow; distserve: its pools.",
        ),
    ] = None,
    order: o.Orders = None,
    json: o.Json = False,
) -> None:
    """Put every baseline side by side on one pool, at the token budget that is best for it by
    prediction (pools of prefill and decode replicas: of their engine's own and 2,048), at the best
    running limit where its engine preempts, and at 2,048.
    """
    with Progress(is_whole_run=True) as say:
        from blendsim.baselines import named_baselines
        from blendsim.search import compare as compare_baselines

        asked = o.resolve(ctx.params)
        baselines = named_baselines(engines)
        listed = read_orders(order)
        say(asked.reading)
        with ends_at_once():
            pool, own = load_ordered(asked, listed, say)
            rows, common, notes, caveats = compare_baselines(
                pool, asked.settings, baselines, say, own
            )
    best = max(rows, key=lambda row: row.tokens_per_second_per_gpu)
    notes = [*notes, *caveats, *best_served(rows, best)]
    if json:
        from blendsim.report.metrics import as_json

        told = {"notes": notes, "common": [as_json(row) for row in common]}
        print_json(_object(rows, best, told))
        return
    from blendsim.report.tables import (
        BUDGETS,
        comparison_table,
        limits_told,
        paragraphs,
        pool_line,
    )

    columns = width()
    below = [*([] if asked.settings.token_budget else [BUDGETS]), *limits_told(rows, common)]
    print_lines(
        [
            *paragraphs([pool_line(best, asked.settings.platform(asked.called))], columns),
            "",
            *comparison_table(rows, common, best.policy, columns),
            "",
            *paragraphs(below, columns),
            *paragraphs([f"Note: {note}" for note in notes], columns),
        ]
    )


def _object(rows: list[Any], best: Any, told: dict[str, Any]) -> dict[str, Any]:
    from blendsim.report.metrics import as_json

    several = [as_json(row) | {"chosen": row is best} for row in rows]
    return as_json(best) | ({"rows": several} if len(rows) > 1 else {}) | told


def _text(rows: list[Any], best: Any, where: str, advice: list[str], notes: list[str]) -> list[str]:
    from blendsim.report.tables import paragraphs, policy_table, pool_line

    columns = width()
    return [
        *paragraphs([pool_line(best, where)], columns),
        "",
        *policy_table(rows, best, columns),
        "",
        *paragraphs(advice, columns),
        *paragraphs([f"Note: {note}" for note in notes], columns),
    ]
