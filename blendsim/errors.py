"""What a user can do wrong. The CLI prints these as one line and exits 2, or 4 where one was raised
from the machine's own failure; anything else is a bug.

BlendsimError
├── InputError          a file or value that cannot be used: what, where, what to do
│   ├── OversizeError   requests that no schedule can hold
│   └── Unfit           what cannot be run as it is asked for: what to ask for is told apart
├── UnknownName         a name in none of our tables (model, GPU, engine, …): says the nearest
├── ProfileError        a kernel profile that is missing, unreadable or does not cover what is asked
│   └── NotMeasured     kernels that were not measured on a GPU: what to ask for is told apart
├── PlanMismatch        a plan made for another workload or another number of replicas
└── Unavailable         something this machine lacks: a network, an optional package, a GPU
"""

import difflib
from collections.abc import Iterable, Sequence

from blendsim.printable import listed

_MOST_TOLD = 24  # names of a table, where none is near


class BlendsimError(Exception):
    """Root of all errors a user can mend."""


class InputError(BlendsimError):
    """A file or value that cannot be used."""


class OversizeError(InputError):
    """Requests longer than the model's context or the KV capacity."""


class _Remedied(Exception):
    """Says `what` is wrong apart, for those who know better what to do `instead`, or were not
    asked.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}; {instead}")
        self.what = what


class Unfit(_Remedied, InputError):
    """Something that cannot be run as it is asked for."""


class UnknownName(BlendsimError):
    """A name that is in none of our tables. `several` are the things that go by it, where it is a
    short name of more than one; those that are known are then the nearest. `others` says what to do
    for what the tables do not have.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        several: Sequence[str] = (),
        others: str = "",
    ) -> None:
        names = sorted(known)
        meant = [each for each in several if each in names]
        if meant:
            among = "" if len(meant) == len(several) else f" ({', '.join(several)})"
            super().__init__(
                f"unknown {kind} {name!r}: several are called so{among}; "
                f"{'nearest known' if not among else 'of these known'}: {', '.join(meant)}"
            )
            return
        cased = {each.lower(): each for each in names}
        near = difflib.get_close_matches(name.lower(), cased, n=3, cutoff=0.4)
        near.sort(key=lambda each: not each.startswith(name.lower()))  # `a100`: a100-80g, not h100
        told = listed([cased[each] for each in near] or names, _MOST_TOLD)
        end = f"; {others}" if others else ""
        super().__init__(f"unknown {kind} {name!r}; nearest known: {told}{end}")


class ProfileError(BlendsimError):
    """A kernel profile that is missing, unreadable or too narrow."""


class NotMeasured(_Remedied, ProfileError):
    """Kernels that are not among those measured on a GPU."""


class PlanMismatch(BlendsimError):
    """A plan made for another workload or another number of replicas."""


class Unavailable(BlendsimError):
    """Something this machine lacks: a network, an optional package, a GPU."""
