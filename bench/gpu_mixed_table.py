"""The tables of gpu_mixed.py, from what it wrote; beside further profiles with `--profile`.

python bench/gpu_mixed_table.py gpu-mixed.json [--profile DIR...]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpu_mixed_parts import KINDS, Found, models_of, prices
from machine import row

from blendsim.errors import ProfileError

HEAD = "head"
_STEP = (
    *("step", "by", "ms", "MHz or error", "GEMMs", "of them LM head", "decode attention"),
    *("prefill attention", "small", "nothing runs", "ms traced", "MHz traced", "host, ms"),
)
_GEMM = ("step", "by", "rows", "qkv", "o", "gate_up", "down", "a layer's four", "LM head")


def tables(found: Sequence[Found]) -> Iterator[str]:
    """All that was found."""
    machine = _only(found, what="machine")
    yield (
        "Milliseconds in a settled row; a step's parts are from a trace. In rows of what the model "
        "misses, nothing runs in all that no traced kernel accounts for."
    )
    yield ""
    yield from part_lines(found)
    yield ""
    yield "GEMMs: microseconds a layer, and of the LM head."
    yield ""
    yield from gemm_lines(found, int(machine["layers"]) if machine else 1)
    for one in found:
        if one["what"] == "left out":
            yield f"\nLeft out: {one['why']}"


def part_lines(found: Sequence[Found]) -> Iterator[str]:
    """A table of every step's parts, measured and by each profile, and the difference."""
    yield row(*_STEP)
    yield row(*["---"] * len(_STEP))
    for step in _steps(found):
        measured = [one for one in found if one["what"] == "row" and one["step"] == step]
        for one in measured:
            yield _measured(one, _trace(found, one))
        engines = measured[0]
        for model in (one for one in found if one["what"] == "model" and one["step"] == step):
            yield row(*_model(step, model), *[""] * 4)
            yield row(*_missing(step, engines, _trace(found, engines), model), "", "", "")


def _measured(one: Found, traced: Found | None) -> str:
    head = (one["step"], one["way"], _ms(one["seconds"]), _megahertz(one))
    if traced is None:
        return row(*head, *[""] * 8, _ms(one["host"]))
    ends = (_ms(traced["idle"]), _ms(traced["seconds"]), _megahertz(traced), _ms(one["host"]))
    return row(*head, *_kinds(traced), *ends)


def _model(step: str, model: Found) -> tuple[str, ...]:
    return (step, model["by"], _ms(model["seconds"]), "", *_kinds(model))


def _missing(step: str, one: Found, traced: Found | None, model: Found) -> tuple[str, ...]:
    """What a step took less what the model has, and the time in which no kernel runs, which the
    model has none for: seconds of the row that no traced kernel accounts for.
    """
    missing = one["seconds"] - model["seconds"]
    head = (step, f"{one['way']} less {model['by']}", _ms(missing, "+"))
    error = f"{-missing / one['seconds']:+.1%}"
    if traced is None:
        return (*head, error, *[""] * 6)
    told, had = traced["kinds"], model["kinds"]
    kinds = [_ms(told.get(kind, 0.0) - had[kind], "+") for kind in KINDS]
    apart = ""
    if traced["operators"]:
        apart = _ms(traced["operators"][HEAD] - model["operators"][HEAD], "+")
    left = _ms(one["seconds"] - traced["busy"], "+")
    return (*head, error, kinds[0], apart, *kinds[1:], left)


def _kinds(one: Found) -> tuple[str, ...]:
    gemms, *others = (_ms(one["kinds"].get(kind, 0.0)) for kind in KINDS)
    return (gemms, _ms(one["operators"].get(HEAD)), *others)


def gemm_lines(found: Sequence[Found], layers: int) -> Iterator[str]:
    """A table of every step's GEMMs."""
    yield row(*_GEMM)
    yield row(*["---"] * len(_GEMM))
    for step in _steps(found):
        for one in found:
            if one.get("step") == step and one.get("operators"):
                *in_layers, head = one["operators"].values()
                each = [seconds / layers for seconds in in_layers]
                cells = [f"{seconds * 1e6:.1f}" for seconds in (*each, sum(each), head)]
                by = one["by"] if one["what"] == "model" else one["way"]
                yield row(step, by, f"{one.get('rows', '')}", *cells)


def _steps(found: Sequence[Found]) -> list[str]:
    """Steps that were run, in order."""
    return list(dict.fromkeys(one["step"] for one in found if one["what"] == "row"))


def _trace(found: Sequence[Found], one: Found) -> Found | None:
    return _only(found, what="trace", step=one["step"], way=one["way"])


def _only(found: Sequence[Found], **of: str) -> Found | None:
    """The first finding of that kind."""
    return next((one for one in found if of.items() <= one.items()), None)


def _megahertz(one: Found) -> str:
    return "" if one["megahertz"] is None else f"{one['megahertz']:,.0f}"


def _ms(seconds: float | None, sign: str = "") -> str:
    return "" if seconds is None else f"{seconds * 1e3:{sign}.2f}"


def main() -> None:
    """Print the tables of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("found", type=Path)
    parser.add_argument("--profile", nargs="+", type=Path, default=[], help="further tp1 folders")
    given = parser.parse_args()
    try:
        found = json.loads(given.found.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{given.found}: not what gpu_mixed.py writes: {error}")
    machine = _only(found, what="machine")
    if machine is None:
        parser.error(f"{given.found}: not what gpu_mixed.py writes: it says of no machine")
    if given.profile:
        found = [one for one in found if one["what"] != "model"]
        try:
            found += prices(models_of(machine["model"], machine["gpu"], given.profile), found)
        except ProfileError as error:
            parser.error(str(error))
    print(*tables(found), sep="\n")


if __name__ == "__main__":
    main()
