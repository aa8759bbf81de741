"""Figure 15: the grid of Figure 11 with WildChat as its compute-heavy source."""

from paper_repro.grids import Grid

GRID = Grid("fig15", "wildchat")
parts, measure, verdicts = GRID.parts, GRID.measure, GRID.verdicts
