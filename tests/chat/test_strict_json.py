"""Strict JSON: what two parsers could read differently is refused, and nothing crashes."""

import pytest

from posttrain.chat.strict_json import MAX_DEPTH, JsonRefusedError, parse_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5, "x", true, null]}', {"a": [1, -2.5, "x", True, None]}),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        (' "[[[{" ', "[[[{"),
        (str(2**64 - 1), 2**64 - 1),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    ],
)
def test_strict_json_is_read(text, value):
    read = parse_json(text)
    assert value is None or read == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"a": 1} x', "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('{"a": 1, "a": 1}', "twice"),
        ('[{"b": {"a": 1, "a": 2}}]', "twice"),
        ("NaN", "no JSON number"),
        ("[-Infinity]", "no JSON number"),
        ("1e400", "too large"),
        ("9" * 21, "21 digits"),
        ("-" + "9" * 5000, "5000 digits"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper"),
        ("[" * 1_000_000, "deeper"),
        ('{"\\udc00": 1}', "surrogate"),
        ('"a\x01b"', "not JSON"),
    ],
)
def test_what_is_not_strict_is_refused_with_the_reason(text, why):
    with pytest.raises(JsonRefusedError, match=why):
        parse_json(text)


@pytest.mark.parametrize("text", ['"' + '\\"' * 200_000, '"\\' * 200_000, '["' * 30 + "a" * 500_000])
def test_a_string_that_is_not_closed_takes_linear_time(text):
    with pytest.raises(JsonRefusedError):
        parse_json(text)
