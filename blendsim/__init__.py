"""blendsim: in which order a pool of offline LLM requests should run, planned and simulated on
kernel times that were measured on GPUs.

Nouns, and functions between them: trace → Workload → Plan → StepLog → report.
`docs/architecture.md` shows the rooms and who may import whom.
"""

__version__ = "0.1.0"
