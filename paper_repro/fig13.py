"""Figure 13: the grid of Figure 11 with Azure as its compute-heavy source."""

from paper_repro.grids import Grid

GRID = Grid("fig13", "azure")
parts, measure, verdicts = GRID.parts, GRID.measure, GRID.verdicts
