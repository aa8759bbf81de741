"""Planner: lengths as far as they may be known, the resource-aware prefix tree, and one order a
policy.
"""
