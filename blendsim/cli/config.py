"""`--config FILE.toml`: sections are our dataclasses; what stands on the command line wins."""

from collections.abc import Mapping
from pathlib import Path

from blendsim.errors import InputError
from blendsim.fields import Section
from blendsim.files import read_toml_file


def read_config(path: Path | None, sections: Mapping[str, object]) -> dict[str, Section]:
    """The sections of a TOML file, empty where absent; only the names in `sections` are allowed."""
    if path is None:
        return {name: {} for name in sections}
    raw = read_toml_file(path, "--config")
    for name, section in raw.items():
        if name not in sections or not isinstance(section, dict):
            raise InputError(
                f"{path}: {name!r} is not a section; known: {', '.join(f'[{s}]' for s in sections)}"
            )
    return {name: raw.get(name, {}) for name in sections}
