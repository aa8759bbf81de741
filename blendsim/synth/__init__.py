"""Pools of a wanted density and prefix sharing, blended from several sources: the recipe behind
BlendServe's evaluation (appendix A.3) as a solver. `blend` is the door of this room.
"""
