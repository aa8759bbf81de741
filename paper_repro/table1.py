"""Table 1, the kernel model: milliseconds a layer of Llama-3.1-8B on an A100 against the paper's.

Our model is a profile of measured kernels (vLLM's, docs/profiles.md); nothing in it was fitted to
the paper's figures. We read the paper's GEMM column as all that a layer computes per token, so ours
has the small operators in it.
"""

from blendsim.perf.kernels import memory_seconds
from blendsim.perf.model import StepModel, step_model
from blendsim.specs import BYTES_PER_VALUE
from paper_repro.claims import Verdict, near, read_claims
from paper_repro.lab import Lab
from paper_repro.reading import percent
from paper_repro.table import Table

BATCHES = (512, 768, 1024)
CONTEXT = 1024  # tokens each request of the batch attends to


def measure(lab: Lab) -> dict[str, Table]:
    """`kernels`: a row a batch."""
    settings = lab.settings()
    model = step_model(settings.system, settings.overlap)
    return {"kernels": Table.of([_row(model, batch) for batch in BATCHES])}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Six times, each to be as near to the paper's measurement as the paper's own model is."""
    found = []
    for row in tables["kernels"].records():
        for kind, work, unit in (
            ("gemm", row["gemm_flops"], "TFLOP/s"),
            ("attention", row["attention_bytes"], "TB/s"),
        ):
            name = f"table1-{kind}-{row['batch']}"
            paper = read_claims()[name].value
            ours = row[f"{kind}_ms"]
            verdict = near(name, ours, f"{ours:.3f} ms ({percent(ours / paper)})")
            if not verdict.holds:
                rates = [work / ms / 1e9 for ms in (ours, paper)]
                verdict = verdict._replace(
                    words=f"our kernels reach {rates[0]:.3g} {unit}, the paper's {rates[1]:.3g}"
                )
            found.append(verdict)
    return found


def _row(model: StepModel, batch: int) -> dict[str, float | int]:
    """Times of one layer, and the work behind them."""
    spec = model.system.model
    layer = 1e3 / spec.layers
    reads = batch * CONTEXT * 2 * BYTES_PER_VALUE * spec.kv_width
    return {
        "batch": batch,
        "gemm_ms": float(model.layer_seconds[batch]) * layer,
        "small_operators_ms": float(model.small_seconds[batch]) * layer,
        "attention_ms": float(memory_seconds(model.tables, batch, batch * CONTEXT)) * layer,
        "gemm_flops": 2 * batch * spec.layer_parameters,
        "attention_bytes": reads,
    }
