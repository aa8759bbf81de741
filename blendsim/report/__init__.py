"""Report: what a run was worth, in numbers, bounds, sentences and tables."""
