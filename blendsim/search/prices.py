"""Prices of GPUs by the hour, from a file of the user's: none are built in, for they change.

An offer is one way to rent a GPU. Where a GPU has several, a run takes the one that is cheapest
for it, billing units counted.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.files import read_toml_file
from blendsim.printable import short
from blendsim.specs import GPUS, gpu_name, unknown_gpu

_TOP = ("currency", "gpu_hour", "offer")
_MOST = 1e12  # in any currency, and of minutes
_MOST_GPUS = 1 << 20  # in one unit
_LEAST_UNIT = 1e-6  # minutes; less is no unit that anyone bills by


class Offer(NamedTuple):
    """One way to rent a GPU."""

    gpu: str
    gpu_hour: float  # price of one GPU for an hour
    name: str = ""  # such as "spot"
    billing_minutes: float = 0.0  # time is billed in whole units of this; 0: as long as it takes
    gpus: int = 1  # GPUs are rented in whole units of this many


class Bill(NamedTuple):
    """What a run costs."""

    cost: float
    gpu_hours: float  # that are paid for
    offer: Offer


class Prices(NamedTuple):
    """A price list."""

    currency: str
    offers: tuple[Offer, ...]
    path: Path  # where it was read from

    def require(self, gpus: Iterable[str]) -> None:
        """InputError unless each of these GPUs has a price, and each price is of a GPU of the
        tables or of one of these, which a file may describe.
        """
        gpus = list(gpus)
        known = [*GPUS, *(gpu for gpu in gpus if gpu not in GPUS)]
        for offer in self.offers:
            if offer.gpu not in known:
                where = f"offer {offer.name} of {offer.gpu}" if offer.name else offer.gpu
                raise InputError(
                    f"{self.path}: {where}: {unknown_gpu(offer.gpu, known)}; mend the name or "
                    "leave it out: a GPU that a file describes is known where --gpu names the file"
                )
        priced = {offer.gpu for offer in self.offers}
        for gpu in gpus:
            if gpu not in priced:
                raise InputError(
                    f"{self.path}: no price for {gpu}; add it under [gpu_hour], or leave it out "
                    "of --gpu"
                )

    def bill(self, gpu: str, gpus: int, seconds: float) -> Bill:
        """The cheapest bill for holding so many of a GPU for so long."""
        bills = [_bill(offer, gpus, seconds) for offer in self.offers if offer.gpu == gpu]
        return min(bills, key=lambda bill: bill.cost)


def _bill(offer: Offer, gpus: int, seconds: float) -> Bill:
    # NOTE: units are of seconds: as hours, 23 minutes are a little more than 23 units of a minute.
    hours = _whole(seconds, offer.billing_minutes * 60) / 3_600
    paid = _whole(gpus, offer.gpus) * hours
    return Bill(paid * offer.gpu_hour, paid, offer)


def _whole(amount: float, unit: float) -> float:
    return math.ceil(amount / unit) * unit if unit else amount


def read_prices(path: Path) -> Prices:
    """The price list in a TOML file (docs/rent.md); InputError for what it cannot mean."""
    raw = read_toml_file(path, "--price")
    _known(raw, _TOP, str(path))
    currency = raw.get("currency", "")
    if not isinstance(currency, str) or not currency.strip() or not currency.isprintable():
        is_blank = isinstance(currency, str) and not currency.strip()
        found = "is missing" if is_blank else f"is {short(currency)}"
        raise InputError(f'{path}: currency {found}; give a text, as in currency = "USD"')
    table, more = raw.get("gpu_hour", {}), raw.get("offer", [])
    if not isinstance(table, dict) or not isinstance(more, list):
        raise InputError(f"{path}: [gpu_hour] is a table and [[offer]] are tables; mend it")
    offers: list[Offer] = []
    for gpu, price in table.items():
        found = gpu_name(gpu)
        if any(offer.gpu == found for offer in offers):
            raise InputError(f"{path}: [gpu_hour] has {found} twice, once as {gpu}; leave one out")
        offers.append(Offer(found, _number(price, f"{path}: [gpu_hour] {gpu}")))
    offers += [_offer(entry, f"{path}: [[offer]] {k}") for k, entry in enumerate(more, 1)]
    return Prices(currency.strip(), tuple(offers), path)


def _offer(entry: Any, where: str) -> Offer:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is no table; mend it")
    _known(entry, Offer._fields, where)
    for key in ("gpu", "gpu_hour"):
        if key not in entry:
            raise InputError(f"{where}: {key} is missing; give it")
    for key in ("gpu", "name"):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(f"{where}: {key} = {entry[key]!r} is no text; mend it")
    units = entry.get("gpus", 1)
    if type(units) is not int or not 1 <= units <= _MOST_GPUS:
        raise InputError(
            f"{where}: gpus = {repr(units)[:24]} must be a whole number from 1 to {_MOST_GPUS:,}"
        )
    billed = _number(entry.get("billing_minutes", 0), f"{where}: billing_minutes")
    if 0.0 < billed < _LEAST_UNIT:
        raise InputError(
            f"{where}: billing_minutes = {billed:g} is below {_LEAST_UNIT:g}; give 0 for time "
            "that is billed as long as it takes"
        )
    return Offer(
        gpu_name(entry["gpu"]),
        _number(entry["gpu_hour"], f"{where}: gpu_hour"),
        entry.get("name", ""),
        billed,
        units,
    )


def _known(entry: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in entry:
        if key not in names:
            raise InputError(f"{where}: unknown {key!r}; known: {', '.join(names)}")


def _number(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MOST:
        raise InputError(f"{where} = {value!r} must be a number from 0 to {_MOST:g}")
    return float(value)
