"""What all tests share: Hypothesis without deadlines (compiled code is slow the first time) and
without surprises from one run to the next.
"""

from hypothesis import settings

settings.register_profile("blendsim", deadline=None, derandomize=True)
settings.load_profile("blendsim")
