"""The tensors of a Hugging Face directory's safetensors files, one file or shards, by name.

Reading is strict both ways: a tensor that is missing or of another shape, and one that nobody asked
for (a bias or a layer the decoder would silently leave out), are errors.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from blendsim.errors import InputError, Unavailable


class Part(NamedTuple):
    """A tensor as checkpoints store it."""

    name: str
    shape: tuple[int, ...]


class Checkpoint:
    """A directory's tensors, open between `with` and its end."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._directory, self._device, self._dtype = directory, device, dtype
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._unused: set[str] = set()

    def __enter__(self) -> Self:
        for path in _files(self._directory):
            file = self._open.enter_context(_opened(path, self._device))
            self._files |= dict.fromkeys(file.keys(), file)
        self._unused = set(self._files)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def joined(self, parts: Sequence[Part]) -> Tensor:
        """The parts one below the other, on the device, in the wanted type."""
        rows = sum(part.shape[0] for part in parts)
        shape = (rows, *parts[0].shape[1:])
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        at = 0
        for part in parts:
            tensor[at : at + part.shape[0]].copy_(self._read(part))
            at += part.shape[0]
        return tensor

    def check_all_used(self, may_remain: Sequence[str] = ()) -> None:
        """InputError if a tensor was not asked for; old files keep the rotary wavelengths too."""
        left = {n for n in self._unused if not n.endswith("rotary_emb.inv_freq")} - {*may_remain}
        if left:
            raise InputError(
                f"{self._directory}: tensor {min(left)!r} ({len(left)} such) has no place in the "
                "decoder its config.json describes; give the weights of that config.json"
            )

    def _read(self, part: Part) -> Tensor:
        if part.name not in self._files:
            raise InputError(
                f"{self._directory}: no tensor {part.name!r}; give the weights of its config.json"
            )
        tensor: Tensor = self._files[part.name].get_tensor(part.name)
        if tuple(tensor.shape) != part.shape:
            raise InputError(
                f"{self._directory}: tensor {part.name!r} is {_times(tuple(tensor.shape))}, its "
                f"config.json means {_times(part.shape)}; give the weights of that config.json"
            )
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise InputError(
                f"{self._directory}: tensor {part.name!r} holds {tensor.dtype} values; give "
                "weights in float32, float16 or bfloat16"
            )
        self._unused.discard(part.name)
        return tensor


def _files(directory: Path) -> list[Path]:
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.exists():
        return [single]
    if not index.exists():
        raise InputError(
            f"{directory}: no model.safetensors and no index of shards; give a Hugging Face model "
            "directory with safetensors weights"
        )
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8-sig"))["weight_map"].values()))
        paths = [directory / shard for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: no list of shards ({error!r}); fetch it again") from error
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: this shard is missing; fetch it again")
    return paths


def _opened(path: Path, device: torch.device) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise Unavailable(
            "reading weights needs safetensors: pip install 'blendsim[runtime]'"
        ) from error
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); fetch it again") from error


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
