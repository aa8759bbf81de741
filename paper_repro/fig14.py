"""Figure 14: the grid of Figure 11 with ShareGPT as its compute-heavy source."""

from paper_repro.grids import Grid

GRID = Grid("fig14", "sharegpt")
parts, measure, verdicts = GRID.parts, GRID.measure, GRID.verdicts
