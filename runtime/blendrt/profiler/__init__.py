"""The profiler: what a model's kernels take on this machine, as the tables simulations read."""
