"""All that a GPU machine without a network needs beside the tree, in one folder to carry there.

    python bench/gpu_kit.py [-o build/gpu-kit] [--pools trace1-filled trace2-filled] [--fa3]
                            [--vllm] [--limit 64MiB] [--list]

Makes FlashInfer with its kernels built (runtime/prebuild.py), plans of the pools
(bench/gpu_plans.py) and, with --vllm, vLLM for one kind of GPU (bench/kit_thin.py), in parts that
fit under the limit beside the tree.
Versions stand in bench/gpu_kit.toml. What is there is not made again, and what broke off is made
anew. Prints what is in the kit, what it weighs, and what to run there (bench/gpu_kit_run.sh).
With --list nothing is made. Exit 2, with a line that names it, if a piece is missing.
"""

import argparse
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpu_options import POLICIES
from gpu_plans import COMPARED
from kit_contents import POOLS, REPOSITORY, Kit, goes_with_base, parts, pieces
from kit_pieces import NOTE, Piece, make_all
from kit_weights import read_size, told, tree_files, weight
from machine import row

PINS = Path(__file__).with_suffix(".toml")
RUN = "bench/gpu_kit_run.sh"
KERNELS = ("decode", "fa2")
FA3_KERNELS = ("page", "fa3")
TOO_MUCH = "raise --limit or carry fewer pools"


class Call(NamedTuple):
    """One call of the GPU machine: what is carried in beside the tree, and what is run."""

    carried: tuple[Path, ...]
    command: str


def calls(kit: Kit, cut: list[Piece]) -> Iterator[Call]:
    """The calls that the kit is for: our runtime's, and vLLM's on one machine that stays warm.

    A part that goes alone needs the base there, from a call before.
    """
    yield Call((kit.base,), f"bash {RUN} ours")
    for number, part in enumerate(cut, 1):
        is_beside = number == 1 and goes_with_base(kit, part)
        carried = (kit.base, part.place) if is_beside else (part.place,)
        yield Call(carried, f"bash {RUN} {'vllm' if number == len(cut) else f'gather {number}'}")


def table(kit: Kit, found: list[Call]) -> Iterator[str]:
    """What is carried, call by call, and what it weighs with the tree."""
    yield row("carry", "run there", "weighs", f"of {told(kit.limit)}")
    yield row(*["---"] * 4)
    for one in found:
        total = weight(one.carried) + kit.tree
        names = " ".join(str(place) for place in one.carried)
        yield row(names, one.command, told(total), f"{total / kit.limit:.0%}")


def listed(kit: Kit, made: list[Piece]) -> Iterator[str]:
    """What is in the kit."""
    yield row("in the kit", "weighs")
    yield row("---", "---")
    yield row("the tree, which travels by itself", told(kit.tree))
    places = [kit.base / "packages", kit.base / "plans", *(one.place for one in made)]
    for place in places:
        yield row(str(place), told(weight([place])) if place.exists() else "missing")


def finish(kit: Kit, missing: dict[str, str], is_only_listed: bool) -> None:
    """vLLM's parts, and all that is to be told."""
    cut: list[Piece] = []
    if not missing:
        try:
            cut = parts(kit) if kit.with_vllm else []
        except ValueError as error:
            missing["parts of vLLM"] = f"{error}; {TOO_MUCH}"
        missing |= lacking(cut) if is_only_listed else make_all(cut)
    print(*listed(kit, cut), sep="\n")
    if missing:
        why = [f"{name} ({told_of})" if told_of else name for name, told_of in missing.items()]
        fail(f"missing in {kit.out}: {', '.join(why)}")
    if kit.with_vllm and not is_only_listed:
        remove_others(kit, cut)
    found = list(calls(kit, cut))
    if weight(found[0].carried) > kit.room:
        weighs, left = told(weight(found[0].carried)), told(max(kit.room, 0))
        fail(f"{kit.base} weighs {weighs}, the tree leaves {left}; {TOO_MUCH}")
    print("", *table(kit, found), sep="\n")


def lacking(made: list[Piece]) -> dict[str, str]:
    """Pieces that are not there, by name."""
    return {one.name: "" for one in made if not one.is_made}


def remove_others(kit: Kit, cut: list[Piece]) -> None:
    """Parts of a former cut."""
    for place in set(kit.out.glob("part-*")) - {one.place for one in cut}:
        if (place / NOTE).exists():
            shutil.rmtree(place)


def fail(text: str) -> None:
    """End with a user's error."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def parse() -> tuple[Kit, bool]:
    """The command line: the kit, and whether it is only listed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-kit"))
    parser.add_argument(
        "--pools", nargs="+", choices=POOLS, default=["trace1-filled", "trace2-filled"]
    )
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=COMPARED)
    parser.add_argument("--gpu", default="h200", help="that plans are made for")
    parser.add_argument("--profile", default="measured", help="whose kernels plans are made by")
    parser.add_argument("--fa3", action="store_true", help="build fa3 too: 20 minutes, two cores")
    parser.add_argument("--vllm", action="store_true", help="and vLLM, 244 MB to download")
    parser.add_argument("--limit", default="64MiB", help="of a call, the tree included")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--list", action="store_true", help="make nothing, tell what is there")
    given = parser.parse_args()
    try:
        limit, tree = read_size(given.limit), weight(tree_files(REPOSITORY))
    except ValueError as error:
        parser.error(str(error))
    kit = Kit(
        out=given.output,
        pools=tuple(dict.fromkeys(given.pools)),
        policies=tuple(name for name in POLICIES if name in given.policy),
        gpu=given.gpu,
        profile=given.profile,
        kernels=(*KERNELS, *(FA3_KERNELS if given.fa3 else ())),
        with_vllm=given.vllm,
        jobs=given.jobs,
        limit=limit,
        tree=tree,
        pins=tomllib.loads(PINS.read_text()),
    )
    return kit, given.list


def main() -> None:
    """Make what is missing, and tell what there is."""
    kit, is_only_listed = parse()
    found = pieces(kit)
    finish(kit, lacking(found) if is_only_listed else make_all(found), is_only_listed)


if __name__ == "__main__":
    main()
