"""Whether a call names a function that is offered, with arguments that its schema takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.chat.calls import Call

_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "char": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "tuple": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
_ALIASES = {"object": "dict", "hashmap": "dict", "arraylist": "array", "long": "integer", "double": "float"} | {
    "number": "float", "short": "integer", "byte": "integer", "list": "array", "int": "integer", "str": "string",
}  # fmt: skip


def find_schema_fault(call: Call, functions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return None where a call names an offered function and gives what its schema takes, else what is wrong."""
    if call.name not in functions:
        return f"calls {call.name[:60]!r}, which is not offered"
    schema = functions[call.name].get("parameters") or {}
    return _find_fault(call.arguments, {"type": "dict", **schema}, call.name)


def _find_fault(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    names = [_simplify(kind) for kind in kinds]
    if not any(name not in _TYPES or _TYPES[name](value) for name in names):
        return f"{where} is {_show(value)}, not of type {' or '.join(map(str, kinds))}"
    options = schema.get("enum")
    if options and not any(type(value) is type(option) and value == option for option in options):
        return f"{where} is {_show(value)}, none of those allowed"
    if isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        properties = schema["properties"]
        missing = [name for name in schema.get("required") or () if name not in value]
        unknown = [name for name in value if name not in properties]
        if missing or unknown:
            return f"{where} without {missing[0]!r}" if missing else f"{where} with the unknown {unknown[0][:60]!r}"
        faults = (_find_fault(part, properties[name], f"{where}.{name}") for name, part in value.items())
        return next((fault for fault in faults if fault), None)
    if isinstance(value, list | tuple) and isinstance(schema.get("items"), Mapping):
        faults = (_find_fault(item, schema["items"], f"{where}[{n}]") for n, item in enumerate(value))
        return next((fault for fault in faults if fault), None)
    return None


def _simplify(kind: Any) -> str:
    name = str(kind).lower()
    return _ALIASES.get(name, name)


def _show(value: Any) -> str:
    return repr(value)[:80]
