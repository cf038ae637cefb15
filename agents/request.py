"""The request of `POST /v1/responses`: what is read of it, and what is refused instead of being ignored.

Source: https://platform.openai.com/docs/api-reference/responses/create.
"""

from typing import Any

from msgspec import Struct

from tidegate.errors import InvalidRequest

MAX_TOOLS = 64
MAX_ITEMS = 1_000


class CreateResponse(Struct):
    """The body. Unknown fields are ignored, as everywhere in this API; known ones that are not offered are refused."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = False
    store: bool | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = True
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    user: str | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    background: bool | None = False
    conversation: Any = None
    prompt: Any = None


def check(request: CreateResponse) -> None:
    """Refuses what cannot be done.

    Raises:
        InvalidRequest: it asks for what is not offered, or a number is out of range.
    """
    _refuse_what_is_not_offered(request)
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise InvalidRequest("`max_output_tokens` must be at least 1.", param="max_output_tokens")
    if request.max_tool_calls is not None and request.max_tool_calls < 0:
        raise InvalidRequest("`max_tool_calls` must not be negative.", param="max_tool_calls")
    if len(request.tools) > MAX_TOOLS or (isinstance(request.input, list) and len(request.input) > MAX_ITEMS):
        raise InvalidRequest(f"At most {MAX_TOOLS} tools and {MAX_ITEMS} input items.", param="tools")


def _refuse_what_is_not_offered(request: CreateResponse) -> None:
    offered_text = {None, "text"}
    kind = (
        (request.text or {}).get("format", {}).get("type")
        if isinstance((request.text or {}).get("format", {}), dict)
        else "?"
    )
    for name, refused in (
        ("background", request.background),
        ("conversation", request.conversation is not None),
        ("prompt", request.prompt is not None),
        ("truncation", request.truncation not in (None, "disabled")),
        ("text", kind not in offered_text),
        ("include", set(request.include or ()) - {"file_search_call.results"}),
    ):
        if refused:
            raise InvalidRequest(f"This value of `{name}` is not offered yet. Leave it out.", param=name)


def messages_of(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as chat messages.

    Raises:
        InvalidRequest: an item of a kind that is not offered, or without what it needs.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for item in given:
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_message(item))
        elif kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": _text(item, "call_id"), "content": _output(item)})
        elif kind not in ("reasoning", "mcp_list_tools", "mcp_call", "file_search_call"):
            raise InvalidRequest(f"Input items of type {str(kind)[:64]!r} are not offered.", param="input")
    if not messages:
        raise InvalidRequest("`input` holds no message.", param="input")
    return messages


def _message(item: dict[str, Any]) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest("A message needs a role: user, assistant, system or developer.", param="input")
    if isinstance(content, str):
        return {"role": "system" if role == "developer" else role, "content": content}
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise InvalidRequest("A message's content must be a text or a list of parts.", param="input")
    parts = [_part(part) for part in content]
    texts_only = all(part["type"] == "text" for part in parts)
    shown: Any = "\n".join(part["text"] for part in parts) if texts_only else parts
    return {"role": "system" if role == "developer" else role, "content": shown}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": _text(part, "text")}
        case "refusal":
            return {"type": "text", "text": _text(part, "refusal")}
        case "input_image" if isinstance(part.get("image_url"), str):
            return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    raise InvalidRequest(f"Content parts of type {str(part.get('type'))[:64]!r} are not offered.", param="input")


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """A function call of an earlier answer; calls made together belong to one message."""
    call = {
        "id": _text(item, "call_id"),
        "type": "function",
        "function": {"name": _text(item, "name"), "arguments": _text(item, "arguments")},
    }
    if messages and messages[-1]["role"] == "assistant" and messages[-1].get("tool_calls"):
        messages[-1]["tool_calls"].append(call)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _output(item: dict[str, Any]) -> str:
    output = item.get("output")
    if isinstance(output, list):
        return "\n".join(_text(part, "text") for part in output if isinstance(part, dict))
    return _text(item, "output")


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(
            f"An input item of type {str(item.get('type'))[:64]!r} needs the text `{name}`.", param="input"
        )
    return value
