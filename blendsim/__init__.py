"""blendsim: scheduling for offline batch LLM inference, planned, simulated and checked against a
GPU.

Six nouns, and functions between them: trace → Workload → Plan → StepLog → report.
`docs/architecture.md` shows the rooms and who may import whom.
"""

__version__ = "0.1.0"
