"""Pacing rules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pacing:
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    lines: tuple[tuple[float, float], ...]
    read_seconds: float
    hold: float
    left_room: float = 1.0
    up: float = 0.0
    lasts: float = 10000.0
    full: float = 0.95
    slack: float = 0.01
    look: int = 256
    skip: int = 1
