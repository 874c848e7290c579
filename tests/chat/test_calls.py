"""Tool calls are read in four forms, nothing is run, and nothing that is no call of literals is taken for one."""

import json

import pytest

from posttrain.chat.calls import Call, CallRefusedError, Name, read_calls

ONE = Call("geo.find", {"city": "Rome", "limit": 3})
WRITTEN = {
    "python": "geo.find(city='Rome', limit=3)",
    "json": '{"name": "geo.find", "arguments": {"city": "Rome", "limit": 3}}',
    "openai": json.dumps(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": ONE.name, "arguments": json.dumps(ONE.arguments)}}
            ],
        }
    ),
    "hermes": '<tool_call>\n{"name": "geo.find", "arguments": {"city": "Rome", "limit": 3}}\n</tool_call>',
}


@pytest.mark.parametrize("syntax", WRITTEN)
def test_a_call_is_read_in_its_form_and_by_any(syntax):
    assert read_calls(WRITTEN[syntax], syntax) == read_calls(WRITTEN[syntax], "any") == [ONE]


@pytest.mark.parametrize("syntax", WRITTEN)
def test_a_form_is_not_taken_for_another(syntax):
    for other in WRITTEN.keys() - {syntax}:
        with pytest.raises(CallRefusedError):
            read_calls(WRITTEN[other], syntax)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[f(a=1), g(b=-2.5)]", [Call("f", {"a": 1}), Call("g", {"b": -2.5})]),
        ("f(a=1)\ng(b=True)", [Call("f", {"a": 1}), Call("g", {"b": True})]),
        ("f()", [Call("f", {})]),
        ("f(a=[1, {'b': (2, None)}])", [Call("f", {"a": [1, {"b": (2, None)}]})]),
        ("f(**{'from': 'x', 'b': 1}, c=2)", [Call("f", {"from": "x", "b": 1, "c": 2})]),
        ("f(a='it\\'s, [ok] (x)')", [Call("f", {"a": "it's, [ok] (x)"})]),
        ("f(a='one ' 'two')", [Call("f", {"a": "one two"})]),
        ('[{"name": "f", "parameters": {}}, {"name": "g", "arguments": {}}]', [Call("f", {}), Call("g", {})]),
    ],
)
def test_calls_are_read_with_their_values(text, expected):
    calls = read_calls(text, "any")
    assert calls == expected
    assert [[type(v) for v in c.arguments.values()] for c in calls] == [
        [type(v) for v in c.arguments.values()] for c in expected
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "I would call f.",
        "f(1)",
        "f(a=1, a=2)",
        "f(a=1, **{'a': 2})",
        "f(**x)",
        "f(*[1])",
        "f(a=g(b=1))",
        "f(a=1)(b=2)",
        "f(a=1 + 1)",
        "f(a=2 ** 9)",
        "f(a=not 1)",
        "f(a=lambda: 1)",
        "f(a=[x for x in y])",
        "f(a=f'{x}')",
        "f(a=b'x')",
        "f(a=1j)",
        "f(a={1, 2})",
        "f(a={1: 2})",
        "f(a={'b': 1, 'b': 2})",
        "f(a=x)",
        "f(a=...)",
        "f(a=1e999)",
        "f(a=" + "9" * 21 + ")",
        "f(a=" + "9" * 5000 + ")",
        "f(a='\\ud800')",
        "x = f(a=1)",
        "import os; f(a=1)",
        "f(a=1",
        "f(a='x)",
        "f(a=1)]",
        "(lambda: f)()",
        "f[0](a=1)",
        "f(a=" + "[" * 90_000,
        "f(a=" + "-" * 90_000 + "1)",
        "f(a=" + "[" * 70 + "]" * 70 + ")",
        "f" + ".a" * 40_000 + "()",
        "f" + "()" * 40_000,
        "f(a=" + "1+" * 40_000 + "1)",
        "  f(a=1)\n f(a=2)",
        "f(a=1)" * 20_000,
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_call_of_literals_is_refused_with_a_reason(text):
    with pytest.raises(CallRefusedError) as caught:
        read_calls(text, "python")
    assert str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f"}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": {}, "extra": 1}',
        '{"name": 3, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f", "arguments": {"a": 1, "a": 2}}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '[{"name": "f", "arguments": {}}, 3]',
        '{"function": {"name": "f", "arguments": "{"}}',
        '{"function": {"name": "f", "arguments": "{}"}, "type": "code"}',
        '{"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}], "content": "I will call it"}',
        '<tool_call>{"name": "f", "arguments": {}}',
        '{"name": "f", "arguments": {}}</tool_call>',
        '<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call></tool_call>',
        '<tool_call>{"name": "f", "arguments": {}}</tool_call> and more',
        "<tool_call></tool_call>",
        "<tool_call>f(a=1)</tool_call>",
        "<tool_call>" * 9_000,
    ],
)
def test_json_that_is_no_call_is_refused(text):
    with pytest.raises(CallRefusedError):
        read_calls(text, "any")


def test_words_around_tagged_calls_and_a_code_fence_are_taken_by_settings_alone():
    text = f"I will look it up.\n{WRITTEN['hermes']}\nOne moment."
    assert read_calls(text, "hermes", allows_text=True) == [ONE]
    with pytest.raises(CallRefusedError):
        read_calls(text, "hermes")
    fenced = f"```python\n{WRITTEN['python']}\n```"
    assert read_calls(fenced, "any", allows_fence=True) == [ONE]
    with pytest.raises(CallRefusedError):
        read_calls(fenced, "any")


def test_a_bare_name_is_a_value_by_setting_alone():
    (call,) = read_calls("f(a=View.GONE, b=[x])", "python", allows_names=True)
    assert call.arguments == {"a": "View.GONE", "b": ["x"]}
    assert isinstance(call.arguments["a"], Name)
