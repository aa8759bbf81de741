"""Records anew what vLLM's scheduler does with every world: `make vllm-recordings`."""

import gzip
import json

from vllm_knobs import KNOBS, knob_worlds
from vllm_worlds import (
    CAPACITY,
    RECORDINGS,
    environment,
    pipeline_worlds,
    small_worlds,
    stepped,
    trace_world,
)

NUMBER = 12  # of worlds for each knob


def main() -> None:
    """Step all worlds, write one file."""
    groups = {"small": small_worlds(40, False), "twins": small_worlds(20, True)}
    groups |= {name: knob_worlds(name, NUMBER) for name in KNOBS}
    groups |= {"pipeline": pipeline_worlds(30)}
    names = list(CAPACITY)
    worlds = [world for group in groups.values() for world in group]
    found = stepped(worlds + [trace_world(name) for name in names], environment())
    recordings = iter(found["recordings"])
    content = {
        "vllm": found["vllm"],
        "command": "make vllm-env vllm-recordings",
        "worlds": {
            name: [{"world": world, "recording": next(recordings)} for world in group]
            for name, group in groups.items()
        },
        "traces": {name: next(recordings) for name in names},
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    RECORDINGS.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
