"""Replay: a plan on a real runtime, step by step or by a sample of its steps."""
