"""How a search is cut short from outside, with what it has found so far."""

from typing import Protocol


class Stop(Protocol):
    """Asked whether a search is to stop, also from its threads."""

    def keep(self) -> None:
        """Hear that from here on there is something to keep: before, it is never asked to stop."""
        ...

    def __call__(self) -> bool:
        """Whether it is to stop."""
        ...


class Never:
    """Nobody stops the search."""

    def keep(self) -> None:
        """Nothing to do."""

    def __call__(self) -> bool:
        """No."""
        return False


NEVER = Never()


class CutShort(Exception):
    """A batch was given up since the search is to stop."""
