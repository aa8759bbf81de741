"""`--config FILE.toml`: sections are our dataclasses; what stands on the command line wins."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from blendsim.errors import InputError
from blendsim.fields import Section


def read_config(path: Path | None, sections: Mapping[str, object]) -> dict[str, Section]:
    """The sections of a TOML file, empty where absent; only the names in `sections` are allowed."""
    if path is None:
        return {name: {} for name in sections}
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check --config") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable TOML file ({error}); mend it") from error
    for name, section in raw.items():
        if name not in sections or not isinstance(section, dict):
            raise InputError(
                f"{path}: {name!r} is not a section; known: {', '.join(f'[{s}]' for s in sections)}"
            )
    return {name: raw.get(name, {}) for name in sections}
