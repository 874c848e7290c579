"""Checks messages and brings them into the house's one form.

The form: `role` is system, user, assistant or tool; `content` is text, or None beside `tool_calls`;
`tool_calls` are `{"type": "function", "function": {"name", "arguments"}}` with the arguments as an
object where they are JSON; thinking lies in `reasoning_content`. Keys that mean nothing to the house
are kept for the template to read.
"""

from __future__ import annotations

import json
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.records import Message
from posttrain.data.rows import RowError, shorten

ROLES = ("system", "user", "assistant", "tool")
_ROLE_NAMES = {role: role for role in ROLES} | {"developer": "system", "function": "tool"}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_JSON_TYPES = (str, int, float, bool, list, dict)
_TEXT_CALL = "<tool_call>"


def read_messages(value: Any, column: str) -> list[Message]:
    """Return a list of messages in the house's form.

    Args:
        value: A list of `{role, content, ...}`, as it stands in a row.
        column: The column's name, for messages of errors.

    Raises:
        RowError: Something in it is no message.
    """
    if not isinstance(value, list | tuple):
        raise RowError(
            "wrong type",
            f"'{column}' is {_describe_type(value)}, not a list of messages",
            f'write {column} as [{{"role": "user", "content": ...}}, ...], or map a column of text',
        )
    if not value:
        raise RowError("empty messages", f"'{column}' is an empty list", "leave the row out")
    return [_read_message(message, f"{column}[{index}]") for index, message in enumerate(value)]


def is_messages(value: Any) -> bool:
    """Return whether a column holds messages rather than text."""
    return isinstance(value, list | tuple) and all(isinstance(message, dict) and "role" in message for message in value)


def _describe_type(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {shorten(value, 40)}"


def _read_message(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise RowError("wrong type", f"{place} is {_describe_type(value)}, not a message with role and content")
    values = {key: part for key, part in value.items() if part is not None}
    role = values.pop("role", None)
    if not isinstance(role, str) or role not in _ROLE_NAMES:
        cure = suggest(role, _ROLE_NAMES) if isinstance(role, str) else "add a role"
        raise RowError("unknown role", f"{place}.role is {_describe_type(role)}", cure)
    if values.pop("weight", 1) != 1:
        cure = "use prompt and completion, which trains on the completion only"
        raise RowError("message weight", f"{place}.weight switches the message off, which is not supported", cure)
    message: Message = {"role": _ROLE_NAMES[role]}
    text, reasoning, calls = _read_content(values.pop("content", None), message["role"], place)
    calls += _read_tool_calls(values, place)
    for key in _REASONING_KEYS:
        extra = values.pop(key, "")
        if not isinstance(extra, str):
            raise RowError("wrong type", f"{place}.{key} is {_describe_type(extra)}, not text")
        reasoning = reasoning or extra
    if text is None and not calls:
        raise RowError("no content", f"{place} ({role}) has neither content nor tool calls", 'write "" or leave it out')
    if (calls or reasoning) and message["role"] != "assistant":
        raise RowError("wrong type", f"{place} ({role}) has tool calls or thinking, which only an assistant has")
    message["content"] = text
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message | {key: part for key, part in values.items() if isinstance(part, _JSON_TYPES)}


def _read_content(value: Any, role: str, place: str) -> tuple[str | None, str, list[dict[str, Any]]]:
    """Return the text, the thinking and the tool calls of a message's content."""
    if value is None or isinstance(value, str):
        return value, "", []
    if role == "tool" and not _is_parts(value):
        return json.dumps(value, ensure_ascii=False, default=str), "", []
    if not isinstance(value, list | tuple):
        raise RowError("wrong type", f"{place}.content is {_describe_type(value)}, not text")
    texts: list[str] = []
    reasons: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, part in enumerate(value):
        where = f"{place}.content[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        inner = part.get("text", part.get("value")) if isinstance(part, dict) else None
        if kind not in ("text", "reasoning", "tool_call"):
            found = f"a part of type {shorten(kind)}" if kind else _describe_type(part)
            raise RowError("wrong type", f"{where} is {found}", "parts are text, reasoning or tool_call")
        if not isinstance(inner, str):
            raise RowError("wrong type", f"{where} holds {_describe_type(inner)}, not text")
        if kind == "tool_call":
            calls += read_calls(inner, where)
        else:
            (texts if kind == "text" else reasons).append(inner)
    text = "".join(texts) if texts or not calls else None
    return text, "".join(reasons), calls


def _is_parts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(part, dict) and "type" in part for part in value)


def _read_tool_calls(values: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Take `tool_calls`, or the older `function_call`, out of a message's values."""
    calls = values.pop("tool_calls", None) or []
    if not isinstance(calls, list | tuple):
        raise RowError("wrong type", f"{place}.tool_calls is {_describe_type(calls)}, not a list")
    single = values.pop("function_call", None)
    listed = [*calls, *([single] if single else [])]
    return [_read_call(call, f"{place}.tool_calls[{index}]") for index, call in enumerate(listed)]


def _read_call(value: Any, place: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("wrong type", f"{place} is {_describe_type(value)}, not a call with a name and arguments")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            parsed = None  # a model's broken call may be what a row is about; the template gets the text as it is
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif not isinstance(arguments, dict):
        raise RowError("wrong type", f"{place}.arguments is {_describe_type(arguments)}, not an object")
    call: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return call | ({"id": value["id"]} if isinstance(value.get("id"), str) else {})


def read_calls(text: str, place: str) -> list[dict[str, Any]]:
    """Return the tool calls that a JSON text spells: one object, or a list of them.

    Raises:
        RowError: Not JSON, or no call.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("wrong type", f"{place} is no JSON: {shorten(text)}") from None
    return [_read_call(call, place) for call in (value if isinstance(value, list) else [value])]


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """Return tools as a list of `{"type": "function", "function": {...}}`, or None where there are none.

    Args:
        value: A list of JSON schemas, bare or wrapped, or the JSON text of such a list.

    Raises:
        RowError: Anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise RowError("wrong type", f"'tools' is no JSON: {shorten(value)}") from None
    if value is None or value == []:
        return None
    if not isinstance(value, list | tuple):
        raise RowError("wrong type", f"'tools' is {_describe_type(value)}, not a list of JSON schemas")
    tools = []
    for index, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("wrong type", f"tools[{index}] is {_describe_type(tool)}, not a schema with a name")
        tools.append(tool if function is not tool else {"type": "function", "function": tool})
    return tools


def check_conversation(messages: list[Message], column: str, *, is_prompt: bool) -> None:
    """Check the order of a conversation's messages.

    Args:
        messages: In the house's form.
        column: The column's name, for messages of errors.
        is_prompt: It must end where an assistant would answer; otherwise it must end with an answer.

    Raises:
        RowError: A system message that is not the first, no user message, a tool's reply to nothing, a
            wrong end.
    """
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        count = roles.count("system")
        raise RowError(
            "misplaced system message", f"'{column}' has {count}, not all at its start", "join them into one"
        )
    if "user" not in roles:
        raise RowError("no user message", f"'{column}' holds only: {', '.join(dict.fromkeys(roles))}")
    for index, role in enumerate(roles):
        if role == "tool" and not _follows_call(messages, index):
            raise RowError("tool reply without a call", f"{column}[{index}] answers no tool call before it")
    if is_prompt and roles[-1] not in ("user", "tool"):
        cure = "leave the assistant's text out, or give it as the completion"
        raise RowError("prompt ends with an answer", f"'{column}' ends with a message of the {roles[-1]}", cure)
    if not is_prompt and roles[-1] != "assistant":
        cure = "leave the last message out, or use it as 'prompt' where completions are sampled"
        raise RowError("ends without an answer", f"'{column}' ends with a message of the {roles[-1]}", cure)


def _follows_call(messages: list[Message], index: int) -> bool:
    """Return whether the assistant called a tool before a reply; a call may also stand in its text."""
    while index and messages[index]["role"] == "tool":
        index -= 1
    caller = messages[index]
    in_text = isinstance(caller.get("content"), str) and _TEXT_CALL in caller["content"]
    return caller["role"] == "assistant" and ("tool_calls" in caller or in_text)
