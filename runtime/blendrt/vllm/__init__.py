"""vLLM as an engine: fed in plan order with fixed output lengths, its steps kept as a step log."""
