"""vLLM as an engine: fed in plan order, its steps kept as a step log; answers of fixed lengths, or
as long as the model makes them.
"""
