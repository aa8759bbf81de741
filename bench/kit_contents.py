"""What a kit for a GPU machine is made of: packages, plans and, if it is asked for, vLLM.

The base is carried in the call that starts a machine. vLLM goes in calls of its own, in as few
parts as can be: the first one beside the base if it fits, every other alone.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpu_options import say
from gpu_workloads import FILLED, SHORT
from kit_packages import PREBUILD, archive, build_kernels, fetch, install, split
from kit_pieces import NOTE, Piece, fingerprint, run
from kit_thin import thin
from kit_weights import MIB, cut, told, weight

from blendsim.synth.recipes import RECIPES

REPOSITORY = Path(__file__).resolve().parents[1]
THIN = Path(__file__).with_name("kit_thin.py")
#: What gpu_plans.py is asked for to make plans of a pool.
POOLS = {
    **{name: ("--short", name) for name in SHORT},
    **{f"{name}-filled": ("--short", "--filled", name) for name in FILLED},
    **{f"{name}-full": ("--short", "--full", name) for name in RECIPES},
}
ARCHIVE = "vllm.tar.xz"
SLACK = MIB  # of a call: folders, and whatever else is counted that is not in a tar
_MORE = SLACK // 2  # that the tree may grow by before parts are cut anew


@dataclass(frozen=True, slots=True)
class Kit:
    """What is asked for. `pins` is gpu_kit.toml, `limit` bytes that a call may carry, the tree's
    `tree` bytes included.
    """

    out: Path
    pools: tuple[str, ...]
    policies: tuple[str, ...]
    gpu: str
    profile: str
    kernels: tuple[str, ...]
    with_vllm: bool
    jobs: int
    limit: int
    tree: int
    pins: Mapping[str, Any]

    @property
    def base(self) -> Path:
        """What every fresh machine needs."""
        return self.out / "base"

    @property
    def work(self) -> Path:
        """Where what is not carried lies."""
        return self.out.parent / f"{self.out.resolve().name}-work"

    @property
    def room(self) -> int:
        """Bytes that a call carries beside the tree."""
        return self.limit - self.tree - SLACK

    def log(self, name: str) -> Path:
        """Where a piece's commands write what they say."""
        return self.work / f"{name}.log"


def pieces(kit: Kit) -> list[Piece]:
    """All but vLLM's parts, which depend on what these weigh; in the order they are made."""
    tools = _tools(kit)
    kernels = _kernels(kit, tools)
    plans = [_plans(kit, pool) for pool in kit.pools]
    base = _base(kit, kernels, plans)
    return [tools, kernels, *plans, base, *(_vllm(kit) if kit.with_vllm else [])]


def parts(kit: Kit) -> list[Piece]:
    """vLLM's parts, once it is packed and the base is there. ValueError if there is no room.

    They stay as they were cut before while the tree grows by no more than half the slack and they
    are as few: some may be on the machine already.
    """
    packed = kit.work / "vllm" / ARCHIVE
    sizes = cut(packed.stat().st_size, kit.room - weight([kit.base]), kit.room)
    digest = fingerprint([packed])
    note = kit.out / "part-1" / NOTE
    if note.exists():
        before = json.loads(note.read_text())
        known: list[int] = before["sizes"]
        fits = max(known) <= kit.room + _MORE and len(known) <= len(sizes)
        sizes = known if fits and before["archive"] == digest else sizes
    return [
        Piece(
            f"part {number} of vLLM",
            kit.out / f"part-{number}",
            {"archive": digest, "sizes": sizes, "number": number},
            partial(split, packed, number, sizes),
        )
        for number in range(1, len(sizes) + 1)
    ]


def goes_with_base(kit: Kit, first: Piece) -> bool:
    """Whether the first part of vLLM fits beside the base, and so may begin a machine."""
    size: int = first.of["sizes"][0]
    return weight([kit.base]) + size <= kit.room + _MORE


def _tools(kit: Kit) -> Piece:
    """FlashInfer and what it imports, for this machine's Python."""
    packages, log = kit.pins["packages"], kit.log("tools")
    pins = [packages["flashinfer"], *packages["to_build"]]
    pins += packages["to_build_fa3"] if "fa3" in kit.kernels else []

    def fill(part: Path) -> None:
        fetch(pins, None, log, part / "wheels")
        install(part / "wheels", None, log, part)
        shutil.rmtree(part / "wheels")

    of = {"pins": pins, "python": list(sys.version_info[:2])}
    return Piece("FlashInfer for this machine", kit.work / "tools", of, fill)


def _kernels(kit: Kit, tools: Piece) -> Piece:
    """FlashInfer with its kernels built."""
    fill = partial(build_kernels, tools.place, kit.kernels, kit.jobs, kit.log("kernels"))
    of = {
        "kernels": kit.kernels,
        "flashinfer": kit.pins["packages"]["flashinfer"],
        "code": fingerprint([PREBUILD]),
    }
    return Piece("kernels", kit.work / "kernels", of, fill, (tools.name,))


def _plans(kit: Kit, pool: str) -> Piece:
    """Plans of a pool; made anew when the code or the figures they are made by change."""
    sources = ["blendsim", "profiles", "bench/gpu_plans.py", "bench/gpu_workloads.py"]
    of = {
        "pool": pool,
        "policies": kit.policies,
        "gpu": kit.gpu,
        "profile": kit.profile,
        "code": fingerprint(REPOSITORY / name for name in sources),
    }
    name = f"plans-{pool}"

    def fill(part: Path) -> None:
        command: list[str | Path] = [sys.executable, REPOSITORY / "bench" / "gpu_plans.py"]
        system = ("--gpu", kit.gpu, "--profile", kit.profile)
        run([*command, "-o", part, *system, "--policy", *kit.policies, *POOLS[pool]], kit.log(name))
        shutil.copy(kit.log(name), part / f"{pool}.md")  # what the simulator expects

    return Piece(f"plans of {pool}", kit.work / name, of, fill)


def _base(kit: Kit, kernels: Piece, plans: list[Piece]) -> Piece:
    """Packages for PYTHONPATH, and plans."""
    there, pins = kit.pins["there"], kit.pins["packages"]["beside_flashinfer"]

    def fill(part: Path) -> None:
        packages = part / "packages"
        fetch(pins, there, kit.log("base"), part / "wheels")
        install(part / "wheels", there, kit.log("base"), packages)
        shutil.rmtree(part / "wheels")
        shutil.copytree(kernels.place / "flashinfer", packages / "flashinfer")
        (part / "plans").mkdir()
        for one in plans:
            for path in (*one.place.glob("*.parquet"), *one.place.glob("*.md")):
                shutil.copy(path, part / "plans")

    made_from = (kernels, *plans)
    of = {"pins": pins, "there": there, "from": [one.of for one in made_from]}
    return Piece("base", kit.base, of, fill, tuple(one.name for one in made_from))


def _vllm(kit: Kit) -> Iterator[Piece]:
    """vLLM and its packages, as wheels and as one archive without what that machine cannot use."""
    there, packages, log = kit.pins["there"], kit.pins["packages"], kit.log("vllm")
    left_out, archs = packages["vllm_left_out"], packages["vllm_archs"]
    of = {"pins": packages["vllm"], "there": there}
    get = partial(fetch, packages["vllm"], there, log)
    wheels = Piece("wheels of vLLM", kit.work / "vllm-wheels", of, get)

    def fill(part: Path) -> None:
        install(wheels.place, there, log, part / "tree")
        done = thin(part / "tree", archs)
        say(f"vLLM: {told(done.zeroed)} of other GPUs' code zeroed in {done.files} libraries")
        if done.odd:
            say(f"vLLM: left as they are: {', '.join(path.name for path in done.odd)}")
        archive(part / "tree", left_out, part / ARCHIVE)
        shutil.rmtree(part / "tree")

    yield wheels
    packed = {**of, "left_out": left_out, "archs": archs, "code": fingerprint([THIN])}
    yield Piece("vLLM", kit.work / "vllm", packed, fill, (wheels.name,))
