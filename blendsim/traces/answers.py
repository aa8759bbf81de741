"""Answers as lines of an OpenAI batch's results, in the shape of the endpoint that was asked.

Lines are ASCII: nothing that a model may write can end one or be no UTF-8.
"""

import hashlib
import json
from typing import Any, NamedTuple

from blendsim.traces.asked import Asked, Kind


class Reply(NamedTuple):
    """What came of one request."""

    text: str
    is_cut: bool  # at the most tokens it may have, rather than where the model or a text ended it
    prompt_tokens: int
    completion_tokens: int


def answer_line(asked: Asked, reply: Reply, created: int) -> str:
    """The results line of a request that was answered, at `created` seconds since 1970."""
    bodies = {Kind.CHAT: _chat, Kind.TEXT: _text, Kind.RESPONSE: _response}
    body = bodies[asked.kind](asked, reply, created)
    return _line(asked.custom_id, 200, body, digest=asked.digest)


def error_line(custom_id: str, message: str, is_ours: bool = False) -> str:
    """The results line of a request that cannot be answered, and why: where OpenAI has it for a
    request that its endpoint refuses or, where the fault `is_ours`, fails at; and beside the
    response as well, for readers who look there.
    """
    status, kind = (500, "server_error") if is_ours else (400, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": None}
    beside = {"code": kind, "message": message}
    return _line(custom_id, status, {"error": error}, beside)


def digest_answered(row: dict[str, Any]) -> str | None:
    """What the request asked for that one of our result lines answers, as `Asked.digest` has it;
    None where it does not tell: in lines that others wrote, or we before we told.
    """
    key, told = _key(row["custom_id"]), row["response"].get("request_id")
    is_ours = row.get("id") == f"batch_req_{key}" and isinstance(told, str)
    return told.removeprefix("req_") if is_ours and told != f"req_{key}" else None


def _line(
    custom_id: str,
    status: int,
    body: dict[str, Any],
    error: dict[str, Any] | None = None,
    digest: str = "",
) -> str:
    key = _key(custom_id)
    response = {"status_code": status, "request_id": f"req_{digest or key}", "body": body}
    row = {"id": f"batch_req_{key}", "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(row)


def _key(custom_id: str) -> str:
    """What ids are made of: the same for the same request, in every run."""
    return hashlib.sha256(custom_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _chat(asked: Asked, reply: Reply, created: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    return _completion("chatcmpl", asked, reply, created) | {
        "choices": [{"index": 0, "message": message} | _ending(reply)]
    }


def _text(asked: Asked, reply: Reply, created: int) -> dict[str, Any]:
    return _completion("cmpl", asked, reply, created) | {
        "choices": [{"index": 0, "text": reply.text} | _ending(reply)]
    }


def _completion(prefix: str, asked: Asked, reply: Reply, created: int) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{_key(asked.custom_id)}",
        "object": str(asked.kind),
        "created": created,
        "model": asked.model,
        "choices": [],
        "usage": {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        },
    }


def _ending(reply: Reply) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": "length" if reply.is_cut else "stop"}


def _response(asked: Asked, reply: Reply, created: int) -> dict[str, Any]:
    key = _key(asked.custom_id)
    status = "incomplete" if reply.is_cut else "completed"
    message = {
        "id": f"msg_{key}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
    }
    return {
        "id": f"resp_{key}",
        "object": str(asked.kind),
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if reply.is_cut else None,
        "model": asked.model,
        "output": [message],
        "parallel_tool_calls": False,
        "temperature": asked.temperature,
        "tool_choice": "none",
        "tools": [],
        "top_p": asked.top_p,
        "usage": {
            "input_tokens": reply.prompt_tokens,
            "output_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        },
    }
