"""Reading the tool calls that a model wrote, in four forms, without running anything.

* `python`: `f(a=1)`, `[f(a=1), g(b="x")]`, or one call a line; literals only.
* `json`: `{"name": ..., "arguments": {...}}` (or `parameters`), or a list of them.
* `openai`: `{"tool_calls": [{"type": "function", "function": {"name": ..., "arguments": "<JSON>"}}]}`, or the list.
* `hermes`: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, once for each call.

`any` takes whichever of them a text is written in. Numbers are bounded as in `strict_json`.
"""

from __future__ import annotations

import ast
import io
import keyword
import math
import re
import tokenize
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.chat.strict_json import MAX_DEPTH, MAX_DIGITS, JsonRefusedError, parse_json

Syntax = Literal["python", "json", "openai", "hermes", "any"]
MAX_CHARACTERS = 100_000
MAX_DOTS = 16
_BRACKETS = (frozenset("([{"), frozenset(")]}"))
_SIGNS = {*"()[]{},=:.-+", "**"}
_OPENERS = {*"([{,=:", ""}
"""Signs that a value, and so a sign or `**` before it, may follow; "" is the start of a line."""
_LITERAL_NAMES = {"True", "False", "None"}
_FENCE = re.compile(r"\s*```(?:json|python|py|tool_code|tool_call)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)
_MARK = re.compile(r"<(/?)tool_call>")


class CallRefusedError(ValueError):
    """A text that holds no calls in the form asked for; its message says why in a sentence part."""


class Name(str):
    """A bare name in the place of a value (`controller=mapController`), which stands for a variable."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a function's name and its arguments by name.

    Made by `read_calls`, read by `call_matching`. Values are plain data; a tuple of Python stays one.
    Example: `math.gcd(a=12, b=18)` is `Call("math.gcd", {"a": 12, "b": 18})`.
    """

    name: str
    arguments: dict[str, Any]


def read_calls(
    text: str, syntax: Syntax, *, allows_text: bool = False, allows_fence: bool = False, allows_names: bool = False
) -> list[Call]:
    """Return the calls of a text, in order.

    Args:
        text: What the model wrote, after its reasoning.
        syntax: The form, see the module.
        allows_text: Whether words may stand around `<tool_call>` blocks.
        allows_fence: Whether the other forms may stand in one code fence.
        allows_names: Whether a bare (dotted) name is a value in `python`.

    Raises:
        CallRefusedError: There are none, or not in this form.
    """
    if len(text) > MAX_CHARACTERS:
        raise CallRefusedError(f"longer than {MAX_CHARACTERS} characters")
    if syntax == "hermes" or (syntax == "any" and _MARK.search(text)):
        return _read_tagged(text, allows_text=allows_text)
    if allows_fence and (fenced := _FENCE.fullmatch(text)):
        text = fenced[1]
    text = text.strip()
    if syntax == "python" or (syntax == "any" and not _looks_like_json(text)):
        calls = _read_python(text, allows_names=allows_names)
    else:
        calls = _read_json(text, syntax)
    if not calls:
        raise CallRefusedError("no call")
    return calls


def _looks_like_json(text: str) -> bool:
    return text.startswith("{") or re.match(r"\[\s*[{\]]", text) is not None


def _read_tagged(text: str, *, allows_text: bool) -> list[Call]:
    calls = []
    start = end = 0
    is_open = False
    for mark in _MARK.finditer(text):
        if bool(mark[1]) != is_open:
            raise CallRefusedError("a <tool_call> tag that is not closed, or closed twice")
        if is_open:
            calls.append(_read_entry(_parse(text[start : mark.start()]), "json"))
        elif text[end : mark.start()].strip() and not allows_text:
            raise CallRefusedError("text around the <tool_call> blocks")
        is_open = not is_open
        start = end = mark.end()
    if is_open or not calls:
        raise CallRefusedError("a <tool_call> that is not closed" if is_open else "no <tool_call>")
    if text[end:].strip() and not allows_text:
        raise CallRefusedError("text around the <tool_call> blocks")
    return calls


def _read_json(text: str, syntax: Syntax) -> list[Call]:
    value = _parse(text)
    if syntax != "json" and isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        known = value.keys() <= {"tool_calls", "role", "content"}
        if not known or value.get("content") not in (None, ""):
            raise CallRefusedError("more than tool calls in the message")
        value = value["tool_calls"]
    return [_read_entry(entry, syntax) for entry in (value if isinstance(value, list) else [value])]


def _read_entry(entry: Any, syntax: Syntax) -> Call:
    if not isinstance(entry, dict):
        raise CallRefusedError(f"a JSON {type(entry).__name__} where a call was expected")
    if syntax != "json" and isinstance(entry.get("function"), dict):
        if not entry.keys() <= {"function", "type", "id", "index"} or entry.get("type", "function") != "function":
            raise CallRefusedError("keys beside 'function' that no call has")
        entry = entry["function"]
        if isinstance(entry.get("arguments"), str):
            entry = {**entry, "arguments": _parse(entry["arguments"])}
    elif syntax == "openai":
        raise CallRefusedError("a call without 'function'")
    key = "parameters" if "parameters" in entry else "arguments"
    if entry.keys() - {"id", "type"} != {"name", key}:
        raise CallRefusedError("a call has the keys 'name' and 'arguments', and no other")
    name, arguments = entry["name"], entry[key]
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise CallRefusedError("'name' is no text, or 'arguments' no object")
    return Call(name, arguments)


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except JsonRefusedError as error:
        raise CallRefusedError(str(error)) from None


def _read_python(text: str, *, allows_names: bool) -> list[Call]:
    _check_tokens(text)
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CallRefusedError(f"no Python calls: {type(error).__name__}") from None
    calls = []
    for statement in statements:
        if not isinstance(statement, ast.Expr):
            raise CallRefusedError("a statement where a call was expected")
        value = statement.value
        nodes = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        calls += [_read_call(node, allows_names=allows_names) for node in nodes]
    return calls


def _check_tokens(text: str) -> None:
    """Refuse what calls of literals never hold, before a parser recurses over it.

    Only brackets nest, to `MAX_DEPTH`: no operators, no keywords, no call of a call, no long chain of attributes.
    """
    depth = dots = 0
    previous = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL):
                continue
            sign = token.string if token.type == tokenize.OP else ""
            depth += (sign in _BRACKETS[0]) - (sign in _BRACKETS[1])
            dots = dots + 1 if sign == "." else dots if token.type == tokenize.NAME else 0
            is_chained = previous in _BRACKETS[1] and sign in _BRACKETS[0] | {"."}
            is_operator = sign in {"-", "+", "**"} and previous not in _OPENERS
            is_word = token.type == tokenize.NAME and keyword.iskeyword(token.string)
            if (sign and sign not in _SIGNS) or is_chained or is_operator or depth > MAX_DEPTH or dots > MAX_DOTS:
                raise CallRefusedError(f"no Python calls of literals: {sign!r}")
            if is_word and token.string not in _LITERAL_NAMES:
                raise CallRefusedError(f"no Python calls of literals: {token.string!r}")
            if token.type == tokenize.NUMBER and len(token.string) > MAX_DIGITS + 10:
                raise CallRefusedError(f"a number of more than {MAX_DIGITS} digits")
            previous = sign or ("" if token.type == tokenize.NEWLINE else "x")
    except (tokenize.TokenError, SyntaxError):
        raise CallRefusedError("no Python calls: not closed, or not Python") from None


def _read_call(node: ast.expr, *, allows_names: bool) -> Call:
    if not isinstance(node, ast.Call):
        raise CallRefusedError(f"a {type(node).__name__} where a call was expected")
    if node.args:
        raise CallRefusedError("an argument without a name")
    arguments: dict[str, Any] = {}
    for pair in node.keywords:
        value = _read_value(pair.value, allows_names=allows_names)
        if pair.arg is None and not isinstance(value, dict):
            raise CallRefusedError("** before something else than a mapping")
        for name, part in value.items() if pair.arg is None else [(pair.arg, value)]:
            if name in arguments:
                raise CallRefusedError(f"the argument {name[:40]!r} twice")
            arguments[name] = part
    return Call(_read_name(node.func), arguments)


def _read_name(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise CallRefusedError("a function that has no plain name")
    return ".".join([node.id, *reversed(parts)])


def _read_value(node: ast.expr, *, allows_names: bool) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
        return _check_plain(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _read_value(node.operand, allows_names=False)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CallRefusedError("a sign before something else than a number")
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.List):
        return [_read_value(item, allows_names=allows_names) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_read_value(item, allows_names=allows_names) for item in node.elts)
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _read_value(key, allows_names=False) for key in node.keys]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            raise CallRefusedError("a mapping whose keys are not all different texts")
        values = [_read_value(value, allows_names=allows_names) for value in node.values]
        return dict(zip(keys, values, strict=True))
    if allows_names and isinstance(node, ast.Name | ast.Attribute):
        return Name(_read_name(node))
    raise CallRefusedError(f"a {type(node).__name__}, which is no literal")


def _check_plain(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**MAX_DIGITS:
        raise CallRefusedError(f"a number of more than {MAX_DIGITS} digits")
    if isinstance(value, float) and not math.isfinite(value):
        raise CallRefusedError("a number too large for a float")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise CallRefusedError("half of a surrogate pair in a text") from None
    return value
