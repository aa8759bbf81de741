"""Which tokens end an answer, as a model directory says."""

import json
from pathlib import Path

from blendsim.errors import InputError

_SAYS_ENDS = ("generation_config.json", "config.json")  # the first that does


def answer_ends(directory: Path) -> frozenset[int]:
    """Ids of the tokens that end an answer; InputError where the directory names none."""
    for name in _SAYS_ENDS:
        path = directory / name
        if not path.is_file():
            continue
        try:
            said = json.loads(path.read_text(encoding="utf-8-sig")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: not a JSON object ({error}); mend it") from error
        ids = said if isinstance(said, list) else [said]
        if said is not None and ids:
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
                raise InputError(f"{path}: eos_token_id {said!r} is no token id; mend it")
            return frozenset(ids)
    raise InputError(
        f"{directory}: neither {' nor '.join(_SAYS_ENDS)} has an eos_token_id, so that no answer "
        "would end; add it"
    )
