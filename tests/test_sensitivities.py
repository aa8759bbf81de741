"""The picture of what each parameter does: its scale, and what it says."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from blendsim.report.plots import sensitivities as plots


class One(NamedTuple):
    """Seconds over one parameter's values."""

    axis: str
    seconds: tuple[float, ...]
    chosen: int = 0
    is_ordered: bool = True

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.seconds))))


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    figures: list[Figure] = []

    def noted(figure: Figure) -> Any:
        figures.append(figure)
        return FigureCanvasAgg(figure)

    monkeypatch.setattr(plots, "FigureCanvasAgg", noted)

    def draw(*each: One, title: str = "t") -> Figure:
        names = ["predicted seconds"] * len(each)
        plots.draw_sensitivities(each, names, tmp_path / "p.png", title)
        return figures[-1]

    return draw


FLAT = One("merge size", (100.0,) * 20)
SMALL = One("token budget", (100.0, 99.0, 101.0, 100.5))


def scale(figure: Figure) -> tuple[float, float]:
    (found,) = {axis.get_ylim() for axis in figure.axes if axis.get_visible()}
    return found


def told(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_a_value_far_above_all_others_does_not_flatten_them(drawn: Any) -> None:
    figure = drawn(One("policy", (100.0, 100.5, 250.0)), FLAT, SMALL)
    low, high = scale(figure)
    assert 98 < low < 99
    assert 101 < high < 103
    assert told(figure) == ["250"]
    assert "Triangle: above the scale" in figure.get_suptitle()


def test_figures_of_neighbours_above_the_scale_do_not_overlap(drawn: Any) -> None:
    far = One("token budget", (3_552.0, 2_662.0, 2_372.0, 2_331.0, *(100.0,) * 10), chosen=9)
    figure = drawn(far, FLAT, FLAT, FLAT)
    assert told(figure) == ["3,552", "2,662", "2,372", "2,331"]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert all(box.y0 > figure.axes[0].get_window_extent().y0 for box in boxes)


def test_without_such_a_value_all_are_on_the_scale(drawn: Any) -> None:
    figure = drawn(SMALL, One("policy", (100.0, 102.0, 103.0)), One("ends", (100.0, 97.0)))
    low, high = scale(figure)
    assert low < 97
    assert high > 103
    assert told(figure) == []
    assert "Triangle" not in figure.get_suptitle()


def test_values_that_gain_much_are_on_the_scale(drawn: Any) -> None:
    low, _ = scale(drawn(FLAT, One("ends", (100.0, 40.0))))
    assert low < 40


def test_a_parameter_that_does_nothing_is_a_line_in_the_middle(drawn: Any) -> None:
    low, high = scale(drawn(FLAT))
    assert (low + high) / 2 == pytest.approx(100.0)
    assert 0 < high - low < 1


def test_the_title_says_of_what_it_is_and_stays_on_the_page(drawn: Any) -> None:
    figure = drawn(FLAT, title="400 requests of " + ", ".join(f"trace-{i}.csv" for i in range(20)))
    lines = figure.get_suptitle().splitlines()
    assert lines[0].startswith("400 requests of trace-0.csv")
    assert "Orange: the chosen value" in " ".join(lines)
    assert max(map(len, lines)) <= plots.LETTERS * figure.get_figwidth()
