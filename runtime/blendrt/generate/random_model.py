"""The model that `blendsim run --model tiny` answers with: random, of two layers, with bytes as
tokens, for a try without weights.

It is a model's directory but for the weights, which are drawn from the seed. One in seventeen of
its tokens ends an answer, so that answers end by themselves.
"""

from pathlib import Path

from blendsim.errors import InputError

NAME = "tiny"
SIGNATURE = "tiny (random)"  # what its answers call their model, whatever was asked for


def random_model(gpu: bool) -> Path:
    """Its directory; InputError on a GPU, or where a directory of that name may be meant."""
    if gpu:
        raise InputError(f"--model {NAME} is to try run on a CPU; give --model DIR, or drop --gpu")
    if Path(NAME).exists():
        raise InputError(
            f"--model {NAME} is the small random model, and there is a {NAME} here, too; write "
            f"./{NAME} for that, or run elsewhere"
        )
    return Path(__file__).parent / NAME
