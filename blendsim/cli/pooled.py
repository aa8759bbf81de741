"""The options of commands that plan a pool, written once: `plan`, `search` and `compare` take them
besides their own.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import typer

from blendsim.cli import options as o

OPTIONS: dict[str, Any] = {
    "model": o.Model,
    "gpu": o.Gpu,
    "tp": o.Tp,
    "pp": o.Pp,
    "dp": o.Dp,
    "topology": o.Topology,
    "link": o.Link,
    "engine": o.Engine,
    "quantization": o.Quantization,
    "kv_cache_dtype": o.KvCacheDtype,
    "overlap": o.Overlap,
    "profile": o.Profile,
    "planner": o.Planner,
    "sample": o.Sample,
    "output_guess": o.OutputGuess,
    "token_budget": o.TokenBudget,
    "max_running": o.MaxRunning,
    "cascade": o.Cascade,
    "expert_parallel": o.ExpertParallel,
    "ep": o.ExpertGpus,
    "seed": o.Seed,
    "lengths": o.Lengths,
    "rest": o.Rest,
    "tokenizer": o.Tokenizer,
    "format": o.Format,
    "skip_unusable": o.SkipUnusable,
    "skip_oversize": o.SkipOversize,
    "config": o.Config,
}
_SWITCHES = ("skip_oversize",)  # false when not given; the others are None

Command = Callable[..., None]


def takes_pool(*without: str, **instead: Any) -> Callable[[Command], Command]:
    """Decorator: the command takes traces and all of `OPTIONS` but those `without`, some of another
    kind `instead`, before its own. It reads them from its context: `ctx.params`.
    """
    assert {*without, *instead} <= OPTIONS.keys(), "only what is there is left out or replaced"
    kinds = {name: instead.get(name, kind) for name, kind in OPTIONS.items() if name not in without}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(ctx: typer.Context, **params: Any) -> None:
            command(ctx, **{name: value for name, value in params.items() if name not in shared})

        context, *own = inspect.signature(command).parameters.values()
        shared = {"trace": _keyword("trace", o.Traces)} | {
            name: _keyword(name, kind, False if name in _SWITCHES else None)
            for name, kind in kinds.items()
        }
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        every = [context, *shared.values(), *own]
        call.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in every}
        return call

    return decorate


def _keyword(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
