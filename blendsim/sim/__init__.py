"""Simulator: the serving core with a clock and a performance model, in a SimPy world."""
