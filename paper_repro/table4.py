"""Table 4, the six traces: prefix sharing and density, and what else there is to compare them with.

Sharing is that of prompt tokens, in tokens; density is (1 − s)·ΣComp / ΣMem on peak figures of an
A100 (`table_density`). As in the paper every trace has a system prompt before it, here of five
tokens. Rows more than the paper's show what moves a figure: the tokenizer, the release of a trace.
"""

from dataclasses import replace

import numpy as np

from blendsim.perf.density import closed_form, table_density
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload, from_lengths
from blendsim.synth.sources import NAMES
from blendsim.traces.load import load
from paper_repro.claims import Verdict, near, read_claims
from paper_repro.lab import Lab
from paper_repro.table import Table

REQUESTS = {"mmlu": 14_042}  # as many questions as MMLU has
OTHERS, QUICK_OTHERS = 60_000, 20_000  # of a trace whose rows are drawn again and again
LLAMA_3 = 0.83  # Llama-3 tokens a Llama-1 token, in answers
SCALED = "sharegpt in Llama-3 tokens"
AZURE_2024 = (2511, 23)  # mean prompt and output of the code trace, as published with it
NEWER = "azure code of 2024, at its means"
CONVERSATION = "AzureLLMInferenceTrace_conv.csv.gz"


def measure(lab: Lab) -> dict[str, Table]:
    """`traces`: a row a trace, and the variants."""
    origin = lab.sources()
    others = QUICK_OTHERS if lab.quick else OTHERS
    traces = {name: lab.source(name, REQUESTS.get(name, others)) for name in NAMES}
    rows = [_row(lab, name, traces[name], origin[name]) for name in NAMES]
    chat = traces["sharegpt"]
    shorter = np.maximum(1, np.rint(chat.output_len * LLAMA_3)).astype(np.int64)
    about = f"{origin['sharegpt']}; answers × {LLAMA_3}"
    rows.append(_row(lab, SCALED, replace(chat, output_len=shorter), about))
    rows.append(_row(lab, "azure conversation", *_conversation(lab)))
    means = from_lengths([AZURE_2024[0]], [AZURE_2024[1]])
    rows.append(_row(lab, NEWER, means, "one request of the published mean lengths"))
    return {"traces": Table.of(rows)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Two figures a trace; ShareGPT's density in the tokens of the model it is about."""
    found = []
    for name in NAMES:
        row = tables["traces"].record(trace=SCALED if name == "sharegpt" else name)
        for kind, digits in (("sharing", ".3f"), ("density", ".4g")):
            verdict = near(f"table4-{name}-{kind}", row[kind], f"{row[kind]:{digits}}")
            found.append(verdict if verdict.holds else _explained(verdict, tables["traces"], name))
    return found


def _explained(verdict: Verdict, traces: Table, name: str) -> Verdict:
    """The verdict with what an experiment says about the difference."""
    row = traces.record(trace=name)
    if verdict.claim.endswith("sharing"):
        tokens = row["sharing"] * row["prompt_mean"]
        words = f"no text here: all that is shared is {tokens:.0f} tokens of system prompt"
    elif name == "azure":
        newer = traces.record(trace=NEWER)["density"]
        words = f"lengths of 2023; the means of the 2024 release give {newer:.1f}"
    else:
        sharing = read_claims()[f"table4-{name}-sharing"].value or 0.0
        at_theirs = row["density"] * (1 - sharing) / (1 - row["sharing"])
        words = f"{at_theirs:.2f} at the paper's sharing; lengths from {row['origin']}"
    return verdict._replace(words=words)


def _row(lab: Lab, name: str, trace: Workload, origin: str) -> dict[str, float | int | str]:
    costs = closed_form(lab.settings().system, trace.prompt_len, trace.output_len)
    sharing = shareable_tokens(trace, sort_prompts(trace)) / int(trace.prompt_len.sum())
    return {
        "trace": name,
        "sharing": sharing,
        "density": table_density(costs, sharing),
        "prompt_mean": float(trace.prompt_len.mean()),
        "output_mean": float(trace.output_len.mean()),
        "requests": len(trace),
        "origin": origin,
    }


def _conversation(lab: Lab) -> tuple[Workload, str]:
    """Azure's other trace, which the paper does not use, without a system prompt."""
    if lab.data is not None and (lab.data / CONVERSATION).exists():
        return load(str(lab.data / CONVERSATION)), f"file {CONVERSATION}"
    return load("demo:azure-conv"), "generator demo:azure-conv"
