"""The paper's evaluation, rebuilt: `python -m paper_repro run` measures every claim."""
