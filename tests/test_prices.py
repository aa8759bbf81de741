"""Price files: what they may say, and what a run then costs."""

from pathlib import Path

import pytest

from blendsim.errors import InputError
from blendsim.search.prices import Offer, Prices, read_prices

HOUR = 3_600.0


def read(folder: Path, text: str) -> Prices:
    path = folder / "prices.toml"
    path.write_text(text)
    return read_prices(path)


def test_a_price_an_hour_and_an_offer_are_read(tmp_path: Path) -> None:
    prices = read(
        tmp_path,
        'currency = "EUR"\n[gpu_hour]\nh100 = 2\n[[offer]]\ngpu = "h100"\nname = "spot"\n'
        "gpu_hour = 0.5\nbilling_minutes = 60\ngpus = 8\n",
    )
    assert prices.currency == "EUR"
    assert prices.offers == (Offer("h100", 2.0), Offer("h100", 0.5, "spot", 60.0, 8))


def test_a_price_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = 'currency = "EUR"\n[gpu_hour]\nh100 = 2\n'
    assert read(tmp_path, f"\ufeff{text}").offers == (Offer("h100", 2.0),)


def test_time_is_billed_in_whole_units() -> None:
    prices = Prices("EUR", (Offer("h100", 2.0, billing_minutes=60),), Path("p"))
    assert prices.bill("h100", 1, HOUR).cost == 2.0
    assert prices.bill("h100", 1, HOUR + 1).cost == 4.0
    assert prices.bill("h100", 1, HOUR + 1).gpu_hours == 2.0


def test_gpus_are_rented_in_whole_units() -> None:
    prices = Prices("EUR", (Offer("h100", 2.0, gpus=8),), Path("p"))
    assert prices.bill("h100", 3, HOUR).cost == 16.0
    assert prices.bill("h100", 9, HOUR).gpu_hours == 16.0


def test_a_run_takes_the_offer_that_is_cheapest_for_it() -> None:
    spot = Offer("h100", 1.0, "spot", billing_minutes=600)
    prices = Prices("EUR", (Offer("h100", 2.0), spot, Offer("h200", 0.1)), Path("p"))
    assert prices.bill("h100", 1, HOUR).offer.name == ""
    assert prices.bill("h100", 1, 9 * HOUR).offer.name == "spot"


def test_gpus_are_priced_by_any_name_they_have(tmp_path: Path) -> None:
    text = 'currency = "EUR"\n[gpu_hour]\n"NVIDIA H200" = 2\nT4 = 1\n[[offer]]\ngpu = "A100-80GB"\n'
    prices = read(tmp_path, text + "gpu_hour = 0.5\n")
    assert prices.offers == (Offer("h200", 2.0), Offer("T4", 1.0), Offer("a100-80g", 0.5))


BAD = {
    "one GPU twice": (
        'currency = "E"\n[gpu_hour]\nh100 = 2\nH100 = 3\n',
        "has h100 twice, once as H100",
    ),
    "no TOML": ("currency", "not a readable TOML file"),
    "no currency": ("[gpu_hour]\nh100 = 2\n", "currency is missing"),
    "empty currency": ('currency = " "\n', "currency is missing"),
    "currency of a number": ("currency = 5\n", "currency is 5; give a text"),
    "currency of two lines": ('currency = "U\\nD"\n', "currency is 'U\\nD'; give a text"),
    "unknown key": ('currency = "EUR"\n[prices]\nh100 = 2\n', "unknown 'prices'; known: currency"),
    "negative": ('currency = "EUR"\n[gpu_hour]\nh100 = -2\n', "h100 = -2 must be a number from 0"),
    "text": ('currency = "EUR"\n[gpu_hour]\nh100 = "2"\n', "h100 = '2' must be a number"),
    "truth": ('currency = "EUR"\n[gpu_hour]\nh100 = true\n', "h100 = True must be a number"),
    "nan": ('currency = "EUR"\n[gpu_hour]\nh100 = nan\n', "h100 = nan must be a number"),
    "infinite": ('currency = "EUR"\n[gpu_hour]\nh100 = inf\n', "h100 = inf must be a number"),
    "no table": ('currency = "EUR"\ngpu_hour = 2\n', "[gpu_hour] is a table"),
    "no offers": ('currency = "EUR"\noffer = [2]\n', "[[offer]] 1: is no table"),
    "offer without GPU": ('currency = "EUR"\n[[offer]]\ngpu_hour = 2\n', "1: gpu is missing"),
    "offer without price": ('currency = "EUR"\n[[offer]]\ngpu = "h100"\n', "gpu_hour is missing"),
    "offer with more": ('currency = "EUR"\n[[offer]]\ncolour = 1\n', "1: unknown 'colour'"),
    "offer of no text": ('currency = "EUR"\n[[offer]]\ngpu = 1\ngpu_hour = 1\n', "is no text"),
    "half a GPU": (
        'currency = "EUR"\n[[offer]]\ngpu = "h100"\ngpu_hour = 1\ngpus = 0.5\n',
        "gpus = 0.5 must be a whole number",
    ),
    "negative minutes": (
        'currency = "EUR"\n[[offer]]\ngpu = "h100"\ngpu_hour = 1\nbilling_minutes = -1\n',
        "billing_minutes = -1 must be a number",
    ),
    "minutes that time cannot be divided by": (
        'currency = "EUR"\n[[offer]]\ngpu = "h100"\ngpu_hour = 1\nbilling_minutes = 1e-310\n',
        "billing_minutes = 1e-310 is below 1e-06",
    ),
    "more GPUs than there are": (
        f'currency = "EUR"\n[[offer]]\ngpu = "h100"\ngpu_hour = 1\ngpus = 1{"0" * 400}\n',
        "must be a whole number from 1 to 1,048,576",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    text, message = BAD[kind]
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert str(tmp_path / "prices.toml") in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check --price"):
        read_prices(tmp_path / "prices.toml")


def test_a_gpu_without_price_is_said() -> None:
    prices = Prices("EUR", (Offer("h100", 2.0),), Path("p.toml"))
    prices.require(["h100"])
    with pytest.raises(InputError, match=r"p\.toml: no price for h200; add it under"):
        prices.require(["h100", "h200"])


WRONG = {
    "of several": ("a100 = 1\n", "a100: unknown GPU 'a100': several are called so"),
    "of none": ("h100x = 1\n", "h100x: unknown GPU 'h100x'; nearest known: h100"),
    "of an offer": (
        '[[offer]]\nname = "spot"\ngpu = "H100 PCIe"\ngpu_hour = 1\n',
        "offer spot of H100 PCIe: unknown GPU 'H100 PCIe'; nearest known: h100",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_price_of_no_known_gpu_is_refused_as_gpu_refuses_it(tmp_path: Path, kind: str) -> None:
    """It would else be passed over, and another row chosen for it."""
    text, message = WRONG[kind]
    prices = read(tmp_path, f'currency = "EUR"\n[gpu_hour]\nh100 = 2\n{text}')
    with pytest.raises(InputError) as error:
        prices.require(["h100"])
    assert str(error.value).startswith(f"{tmp_path / 'prices.toml'}: {message}")
    assert "; mend the name or leave it out" in str(error.value)


def test_a_price_of_a_gpu_that_is_not_asked_for_is_none_too_many(tmp_path: Path) -> None:
    text = 'currency = "EUR"\n[gpu_hour]\nh100 = 2\n"NVIDIA H200" = 3\n'
    read(tmp_path, text).require(["h100"])


def test_a_gpu_that_a_file_describes_is_known_where_it_is_asked_for() -> None:
    prices = Prices("EUR", (Offer("h100", 2.0), Offer("h100-mine", 1.0)), Path("p.toml"))
    prices.require(["h100-mine", "h100"])
    with pytest.raises(InputError, match=r"h100-mine: unknown GPU.* where --gpu names the file"):
        prices.require(["h100"])


@pytest.mark.parametrize("minutes", [1, 10, 60])
def test_a_run_of_whole_units_is_billed_for_no_more_than_it_took(minutes: int) -> None:
    prices = Prices("EUR", (Offer("h100", 1.0, billing_minutes=minutes),), Path("p"))
    for units in range(1, 300):
        hours = prices.bill("h100", 1, 60.0 * minutes * units).gpu_hours
        assert hours == pytest.approx(minutes * units / 60, rel=1e-12)
        more = prices.bill("h100", 1, 60.0 * minutes * units + 0.01).gpu_hours
        assert more == pytest.approx(minutes * (units + 1) / 60, rel=1e-12)


def test_a_directory_is_no_price_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; name a TOML file with --price"):
        read_prices(tmp_path)
