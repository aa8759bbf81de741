"""Figure 12: four other models, blended against prefix order, at 2,048 tokens a step.

The paper simulated these, too. Two of the models end at 4,096 tokens of context; as there, they are
given the context that the videos need. What does not fit the KV memory of a model is left out.
"""

import json
from pathlib import Path

from blendsim.specs import find_model
from blendsim.traces.limits import without_oversize
from paper_repro.claims import Verdict, near
from paper_repro.lab import STORE, Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, noting_ours, shares, speedups, spread
from paper_repro.runs import compared_on, joined, traces
from paper_repro.systems import BLEND, DFS, PACED
from paper_repro.table import Table

MODELS = {"qwen-2.5-7b": 1, "llama-2-7b": 1, "qwen-2.5-72b": 8, "deepseek-67b": 8}
RUN = (DFS, BLEND, PACED)
CONTEXT = 131_072  # tokens, as Llama-3.1 has


def parts(lab: Lab) -> list[Part]:
    """A part a model and trace."""
    models = [*MODELS][: 2 if lab.quick else None]
    return [Part("fig12", (model, trace)) for model in models for trace in traces(lab, 1)]


def part(lab: Lab, model: str, trace: str) -> Table:
    """A row a system."""
    tp = MODELS[model]
    settings = lab.settings(model=str(_with_context(model)), tp=tp)
    pool = lab.pool(trace, system=settings.system)
    fitting = without_oversize(pool, settings.system.longest_request, skip=True)
    changes = {"model": settings.model, "tp": tp}
    table = compared_on(lab, fitting, RUN, trace, own_best=False, **changes)
    return joined([table], model=model, left_out=len(pool) - len(fitting))


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a model, trace and system."""
    return {"runs": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Mean and largest speed-up over all models and traces, and the share of the optimum."""
    runs = tables["runs"]
    names = list(dict.fromkeys(runs.column("model")))
    found = [s for name in names for s in speedups(runs, BLEND, DFS, model=name).values()]
    ours = [s for name in names for s in speedups(runs, PACED, DFS, model=name).values()]
    near_optimum = mean(s for name in names for s in shares(runs, BLEND, model=name).values())
    return [
        noting_ours(
            near("fig12-mean", mean(found), spread(found)), {PACED: spread(ours)} if ours else {}
        ),
        near("fig12-most", max(found), f"{max(found):.2f}×"),
        near("fig12-optimum", near_optimum, f"{near_optimum:.1%}"),
    ]


def _with_context(name: str) -> Path:
    """The model's directory with a config.json of at least that context."""
    model = find_model(name)
    directory = STORE / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "qwen2" if model.qkv_bias else "llama",
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab,
        "max_position_embeddings": max(CONTEXT, model.context),
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory
