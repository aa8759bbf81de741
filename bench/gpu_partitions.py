"""What a part of a GPU's SMs does, where the overlap of a profile comes from, piece by piece.

    python bench/gpu_partitions.py [-o gpu-partitions.json]

GEMMs and decode attention alone on their parts and together, and decodes of unlike contexts by how
these are cut (experiments.partitions). Takes half a minute on an H200; all of it goes to the
JSON file after every measurement, tables are printed (gpu_partitions_table.py).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from gpu_options import say
from gpu_partitions_table import table


def main() -> None:
    """Measure and print."""
    from experiments.partitions import measure_parts

    from blendrt.profiler.target import find_decoder, find_target, open_device

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-partitions.json"))
    parser.add_argument("--model", default="llama-3.1-8b")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []

    def keep(told: dict[str, Any]) -> None:
        found.append(told)
        given.output.write_text(json.dumps(found))

    device = open_device("cuda")
    measure_parts(find_decoder(given.model), device, keep, say)
    print(*table(found, find_target(device).sm_count), sep="\n")


if __name__ == "__main__":
    main()
