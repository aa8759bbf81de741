"""When a step is cut in two, and which share of the GPU its decode attention gets.

Cutting has a price: each half's GEMMs read all weights. It pays if the halves' compute, overlapped
with the reads, takes less than the whole step's compute and then its reads. A step model says so
where there is one; without, small steps and steps with little to overlap are left whole.
"""

from dataclasses import dataclass

from blendrt.executor.streams import NO_PARTITION, SM_STEP
from blendsim.batch import Batch
from blendsim.perf.fit import Shares
from blendsim.perf.model import StepModel
from blendsim.perf.step import cut_worth

#: Without a model: below this a GEMM is bound by its weights, and half of one costs as much.
LEAST_TOKENS = 512
LEAST_DECODES = 64
#: Attention's share where none was measured: NanoFlow's best split (OSDI'25, Table 3).
DEFAULT_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class OverlapRule:
    """Chooses, step by step, between one piece and two, and the share."""

    least_tokens: int = LEAST_TOKENS
    least_decodes: int = LEAST_DECODES
    default_sms: int = NO_PARTITION
    model: StepModel | None = None
    shares: Shares | None = None  # measured; they need a model to be chosen by

    @property
    def choices(self) -> list[int]:
        """Every share it may choose for a step that is cut."""
        if self.model is None or self.shares is None:
            return [self.default_sms]
        return sorted(set(self.shares.attention_sms.tolist()))

    def attention_sms(self, counts: Batch) -> int | None:
        """SMs for decode attention, NO_PARTITION for plain streams; None: run the step whole."""
        if counts.decode_requests < 2:
            return None  # nothing to run beside the other half's GEMMs
        if self.model is None:
            tokens = counts.prefill_tokens + counts.decode_requests
            is_small = tokens < self.least_tokens or counts.decode_requests < self.least_decodes
            return None if is_small else self.default_sms
        whole, reads, _ = self.model.seconds(counts)
        compute = 2.0 * self.model.seconds(_half(counts))[0]
        if self.model.together(compute, reads) >= cut_worth(self.model) * (whole + reads):
            return None
        return self.default_sms if self.shares is None else self.shares.at(compute, reads)


def default_sms(sm_count: int) -> int:
    """NanoFlow's share of a GPU, in the steps a partition comes in."""
    return max(SM_STEP, round(DEFAULT_SHARE * sm_count / SM_STEP) * SM_STEP)


def _half(counts: Batch) -> Batch:
    """One of two nano-batches; what is odd goes to it."""
    return Batch(*(-(-count // 2) for count in counts))
