"""Whether calls are those that an answer key asks for.

The key has BFCL's form (Patil et al. 2025, the Berkeley Function-Calling Leaderboard): for each call
`{name: {parameter: [value, another value that is as good, ...]}}`, where an empty text among the values says that the
parameter may be left out. Mappings inside values hold lists of alternatives in turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.chat.calls import Call, Name
from posttrain.scorers.source_literals import read_literal

Strings = Literal["lenient", "exact"]
Language = Literal["python", "java", "javascript"]
_IGNORED = re.compile(r"[ ,./\-_*^]")
_FLOATS = {"float", "double", "number"}


def match_calls(
    calls: Sequence[Call],
    key: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]],
    functions: Mapping[str, Mapping[str, Any]],
    *,
    strings: Strings,
    language: Language,
) -> tuple[int, str | None]:
    """Return how many entries of the key are met, each by a call of its own in any order, and what is wrong, if any.

    Args:
        calls: What the model called.
        key: What was to be called.
        functions: Each offered function's description by its name.
        strings: `lenient` compares texts without case, spaces and `,./-_*^`, and takes one kind of quotation mark for
            the other, as BFCL does; `exact` compares them as they are.
        language: Whose literals and bare names are values.
    """
    reasons = [
        [find_mismatch(call, wanted, functions, strings=strings, language=language) for wanted in key] for call in calls
    ]
    num_met = _count_pairs([[reason is None for reason in row] for row in reasons], len(key))
    if num_met == len(key) == len(calls):
        return num_met, None
    if len(calls) != len(key):
        return num_met, f"{len(calls)} calls, not {len(key)}"
    unmet = next((row for row in reasons if None not in row), None)
    if unmet is None:
        return num_met, "two calls for what was to be called once"
    return num_met, min((reason for reason in unmet if reason), key=lambda reason: reason.startswith("calls "))


def find_mismatch(
    call: Call,
    wanted: Mapping[str, Mapping[str, Sequence[Any]]],
    functions: Mapping[str, Mapping[str, Any]],
    *,
    strings: Strings,
    language: Language,
) -> str | None:
    """Return None where one call is what one entry of the key asks for, else what is wrong with it."""
    ((name, parameters),) = wanted.items()
    if call.name != name:
        return f"calls {call.name[:60]!r}, not {name!r}"
    schema = functions.get(name, {}).get("parameters") or {}
    declared = schema.get("properties") or {}
    # The key decides which parameters there are: a few of BFCL's keys name one that the schema lacks, and the reverse.
    for parameter, alternatives in parameters.items():
        is_required = parameter in (schema.get("required") or ()) or "" not in alternatives
        if is_required and parameter not in call.arguments:
            return f"{name} without {parameter!r}"
    for parameter, value in call.arguments.items():
        if parameter not in parameters:
            return f"{name} with {parameter[:60]!r}, which was not to be given"
        description = declared.get(parameter) or {}
        if not _is_among(value, parameters[parameter], description, strings, language):
            return f"{name} with {parameter!r} = {_show(value)}"
    return None


# many parameters: one value, what it may be, what the schema says of it, and the two settings
def _is_among(
    value: Any, alternatives: Sequence[Any], description: Mapping[str, Any], strings: Strings, language: Language
) -> bool:
    """Return whether a value is one of the alternatives.

    No alternatives at all stand for the empty list: seven parameters of BFCL's keys are written so.
    """
    forms = [value]
    if language != "python" and isinstance(value, str) and not isinstance(value, Name):
        forms.append(read_literal(value))
    return any(_is_equal(form, option, description, strings) for form in forms for option in alternatives or [[]])


def _is_equal(value: Any, option: Any, description: Mapping[str, Any], strings: Strings) -> bool:
    if isinstance(option, bool) or option is None:
        return value is option
    if isinstance(option, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        is_allowed = isinstance(value, int) or isinstance(option, float) or _kind(description) in _FLOATS
        return is_allowed and value == option
    if isinstance(option, str):
        return isinstance(value, str) and _fold(value, strings) == _fold(option, strings)
    if isinstance(option, list):
        items = description.get("items") or {}
        is_list = isinstance(value, list) or (isinstance(value, tuple) and _kind(description) in ("tuple", "any"))
        return (
            is_list
            and len(value) == len(option)
            and all(_is_equal(x, y, items, strings) for x, y in zip(value, option, strict=True))
        )
    return (
        isinstance(option, dict) and isinstance(value, dict) and _is_mapping_equal(value, option, description, strings)
    )


def _is_mapping_equal(
    value: Mapping[str, Any], option: Mapping[str, Any], description: Mapping[str, Any], strings: Strings
) -> bool:
    properties = description.get("properties") or {}
    for name, part in value.items():
        if name not in option:
            return False
        alternatives = option[name] if isinstance(option[name], list) else [option[name]]
        inner = properties.get(name) or {}
        if not any(_is_equal(part, alternative, inner, strings) for alternative in alternatives or [[]]):
            return False
    return all(name in value or (isinstance(part, list) and "" in part) for name, part in option.items())


def _kind(description: Mapping[str, Any]) -> str:
    return str(description.get("type") or "any").lower()


def _fold(text: str, strings: Strings) -> str:
    return text if strings == "exact" else _IGNORED.sub("", text).lower().replace("'", '"')


def _show(value: Any) -> str:
    return repr(value)[:80]


def _count_pairs(fits: Sequence[Sequence[bool]], num_wanted: int) -> int:
    """Return the most calls that can be paired with entries of the key, one to one (augmenting paths)."""
    owner: list[int | None] = [None] * num_wanted

    def place(call: int, tried: set[int]) -> bool:
        for wanted in range(num_wanted):
            if fits[call][wanted] and wanted not in tried:
                tried.add(wanted)
                held = owner[wanted]
                if held is None or place(held, tried):
                    owner[wanted] = call
                    return True
        return False

    return sum(place(call, set()) for call in range(len(fits)))
