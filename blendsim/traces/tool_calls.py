"""Tools of a request and calls of them in its messages, as vLLM gives them to a chat template
(`FunctionDefinition` and `chat_utils.py` of its sources), so that the text is the same.
"""

import json
from typing import Any

from blendsim.errors import InputError
from blendsim.traces.counts import shown

#: What vLLM writes of every function, in this order, whether the request has it or not.
_FUNCTION = {"name": None, "description": None, "parameters": None}


def tools_of(body: dict[str, Any], where: str) -> list[Any]:
    """The tools of a request's body, none if it names none. Errors begin with `where`."""
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise InputError(f"{where}: {shown(tools)} is not a list of tools; mend or remove it")
    return [_tool(tool) for tool in tools or ()]


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    if "function" not in tool and "name" in tool:  # as the Responses API has them
        tool = {"function": {name: value for name, value in tool.items() if name != "type"}}
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    return {"type": "function", "function": None} | tool | {"function": _FUNCTION | function}


def with_calls(message: dict[str, Any]) -> dict[str, Any]:
    """The message with arguments of its calls as objects, which are JSON texts in OpenAI's form,
    and without calls where there are none.
    """
    if "tool_calls" not in message:
        return message
    calls = message["tool_calls"]
    if not calls:
        return {name: value for name, value in message.items() if name != "tool_calls"}
    return message | {"tool_calls": list(map(_call, calls))} if isinstance(calls, list) else message


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    return call | {"function": function | {"arguments": _object(function["arguments"])}}


def _object(text: str) -> Any:
    """The object that a text is in JSON, nothing at all being an empty one; else the text."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
