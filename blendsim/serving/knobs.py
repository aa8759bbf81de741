"""Settings of vLLM's scheduler beyond memory, token budget and running limit, by vLLM's names."""

from dataclasses import dataclass

from blendsim.errors import InputError
from blendsim.fields import settle


@dataclass(frozen=True, slots=True)
class Knobs:
    """vLLM 0.33's own defaults: none of these rules binds."""

    #: Share of the KV blocks that stay free when a request enters beside others.
    watermark: float = 0.0
    #: Steps from one that computes prompts to the next, while requests decode and none waits.
    prefill_schedule_interval: int = 1
    #: Tokens of one prompt that a step computes at most, unless it is alone; 0: no limit.
    long_prefill_token_threshold: int = 0
    #: Requests in the engine at once; None: `max_running`.
    max_num_active_seqs: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        if not 0 <= self.watermark < 1:
            raise InputError(f"watermark = {self.watermark} must be at least 0 and below 1")
        for name, least in (
            ("prefill_schedule_interval", 1),
            ("long_prefill_token_threshold", 0),
            ("max_num_active_seqs", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} = {value} must be at least {least}")
        if self.prefill_schedule_interval > 1 and self.long_prefill_token_threshold > 0:
            raise InputError(
                "prefill_schedule_interval with long_prefill_token_threshold is not modelled; "
                "set one of the two"
            )

    def blocks_kept_free(self, capacity: int) -> int:
        """The watermark in blocks; vLLM counts a block more than can be used."""
        return int(self.watermark * (capacity + 1))


AS_SHIPPED = Knobs()
