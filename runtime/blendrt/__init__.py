"""blendrt: runs a plan's steps on real tensors, scheduled by the serving core the simulator drives.

The only package that imports torch. It does not import the simulator, so it runs where simpy is
not installed.
"""
