"""The settings a request's body may have when it is to be answered: those that are honoured, those
that say nothing about the answer, and those that cannot be honoured, with why.
"""

from collections.abc import Mapping

from blendsim.errors import InputError
from blendsim.traces.chat import RESERVED
from blendsim.traces.counts import shown
from blendsim.traces.prompt_forms import PROMPT_NAMES

#: Settings that are honoured.
HONOURED = frozenset(
    {
        *PROMPT_NAMES,
        "instructions",
        "model",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "max_completion_tokens",
        "max_tokens",
        "max_output_tokens",
        "chat_template_kwargs",
        "n",
    }
)

#: Settings that say nothing about the answer.
IDLE = frozenset(
    {
        "max_tool_calls",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)

_TOOLS = "tools cannot be called"
_PROBABILITIES = "probabilities of tokens are not given"
_SHAPE = "answers are text of no set shape"
_WEIGHTS = "tokens cannot be weighed"
_EFFORT = "models are run as they are; what a chat template takes goes in chat_template_kwargs"
_STATE = "answers to earlier requests are not kept"

#: Settings that cannot be honoured: why, and the values that ask for nothing.
REFUSED: dict[str, tuple[str, tuple[object, ...]]] = {
    "audio": ("answers are text", ()),
    "background": ("a batch is answered as a whole", (False,)),
    "best_of": ("one answer is drawn", (1,)),
    "conversation": (_STATE, ()),
    "echo": ("answers do not repeat their prompt", (False,)),
    "frequency_penalty": (_WEIGHTS, (0, 0.0)),
    "function_call": (_TOOLS, ("none", "auto")),
    "functions": (_TOOLS, ([],)),
    "include": ("answers have nothing but their text", ([],)),
    "logit_bias": (_WEIGHTS, ({},)),
    "logprobs": (_PROBABILITIES, (False,)),
    "modalities": ("answers are text", (["text"],)),
    "presence_penalty": (_WEIGHTS, (0, 0.0)),
    "previous_response_id": (_STATE, ()),
    "reasoning": (_EFFORT, ({},)),
    "reasoning_effort": (_EFFORT, ()),
    "response_format": (_SHAPE, ({"type": "text"},)),
    "stream": ("answers are written to a file", (False,)),
    "suffix": ("answers only go on from their prompt", ("",)),
    "text": (_SHAPE, ({}, {"format": {"type": "text"}})),
    "tool_choice": (_TOOLS, ("none", "auto")),
    "tools": (_TOOLS, ([],)),
    "top_logprobs": (_PROBABILITIES, (0,)),
    "truncation": ("prompts are not cut", ("disabled",)),
    "verbosity": (_EFFORT, ()),
    "web_search_options": (_TOOLS, ()),
}


#: Values of honoured settings that ask for what is done without them.
_DEFAULTS: dict[str, float] = {"n": 1, "temperature": 1.0, "top_p": 1.0}


def telling(body: Mapping[str, object]) -> dict[str, object]:
    """The settings of a body that its answer hangs on, written in one way: without the model, which
    is --model's, those that are idle, and values that ask for what is done without them.
    """
    said: dict[str, object] = {}
    for name, value in body.items():
        if name == "model" or name in IDLE or _says_nothing(name, value):
            continue
        if name == "temperature" and type(value) is int and value == 0:
            said[name] = 0.0
        else:
            said[name] = [value] if name == "stop" and isinstance(value, str) else value
    return said


def _says_nothing(name: str, value: object) -> bool:
    if name in REFUSED:
        return value is None or _is_harmless(name, value)
    if name in _DEFAULTS:
        return value is None or (not isinstance(value, bool) and value == _DEFAULTS[name])
    return value is None or (name in ("stop", "chat_template_kwargs") and value in ([], {}))


def _is_harmless(name: str, value: object) -> bool:
    # NOTE: by type, too: False is no probabilities, 0 is those of the tokens that are taken.
    return any(type(value) is type(same) and value == same for same in REFUSED[name][1])


def require_doable(name: str, value: object, where: str) -> None:
    """InputError beginning with `where` if this setting cannot be honoured."""
    where = f"{where}, column {shown(f'body.{name}')}"
    if name in REFUSED:
        if not _is_harmless(name, value):
            reason = REFUSED[name][0]
            raise InputError(f"{where}: {shown(value)} cannot be done, {reason}; remove it")
    elif name == "chat_template_kwargs":
        if not isinstance(value, dict) or value.keys() & RESERVED:
            raise InputError(
                f"{where}: {shown(value)} is not settings of a chat template, none of them "
                f"called {', '.join(sorted(RESERVED))}; mend or remove it"
            )
    elif name not in HONOURED | IDLE:
        raise InputError(f"{where}: is no setting that is known; remove it")
