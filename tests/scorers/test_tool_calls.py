"""Tool calls as a score, after BFCL: the key's answers are accepted, mutants are not, and no call where none fits."""

import json

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.reasoning import ReasoningBlock
from posttrain.scorers.tool_calls import ToolCalls
from tests.scorers.form_items import build_item, score_everywhere, score_one

WEATHER = {
    "name": "weather.get",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "scale": {"type": "float"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "options": {"type": "dict", "properties": {"hourly": {"type": "boolean"}}},
            "hours": {"type": "array", "items": {"type": "float"}},
            "point": {"type": "tuple", "items": {"type": "float"}},
            "alerts": {"type": "boolean"},
        },
        "required": ["city"],
    },
}
KEY = {
    "weather.get": {
        "city": ["San Francisco", "SF"],
        "days": [3],
        "scale": [1.0, ""],
        "unit": ["", "C"],
        "options": [{"hourly": [True, ""]}, ""],
        "hours": [[1.0, 2.5], ""],
        "point": [[1.0, 2.0], ""],
        "alerts": [True, ""],
    }
}
COLUMNS = {"function": [WEATHER], "ground_truth": [KEY]}


def score(text, columns=None, **settings):
    return score_one(ToolCalls(**settings), text, {**COLUMNS, **(columns or {})})


@pytest.mark.parametrize(
    "arguments",
    [
        "city='San Francisco', days=3",
        "days=3, city='SF'",
        "city='san-francisco', days=3",
        "city='SF', days=3, scale=1, unit='C'",
        "city='SF', days=3, options={'hourly': True}",
        "city='SF', days=3, options={}",
        "city='SF', days=3, hours=[1, 2.5]",
        "city='SF', days=3, point=(1, 2.0)",
        "city='SF', days=3, point=[1.0, 2.0], alerts=True",
    ],
)
def test_what_the_key_lists_is_right(arguments):
    outcome = score(f"weather.get({arguments})")
    assert (outcome.value, outcome.parts["calls_met"]) == (1.0, 1.0), outcome.why


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("city='SF'", "without 'days'"),
        ("days=3", "without 'city'"),
        ("city='LA', days=3", "'city' = 'LA'"),
        ("city='SF', days=4", "'days' = 4"),
        ("city='SF', days='3'", "'days' = '3'"),
        ("city='SF', days=3.0", "'days' = 3.0"),
        ("city='SF', days=True", "'days' = True"),
        ("city='SF', days=3, alerts=1", "'alerts' = 1"),
        ("city='SF', days=3, alerts='True'", "'alerts'"),
        ("city='SF', days=3, scale=True", "'scale'"),
        ("city='SF', days=3, unit='F'", "'unit'"),
        ("city='SF', days=3, zone='x'", "not to be given"),
        ("city='SF', days=3, options={'daily': True}", "'options'"),
        ("city='SF', days=3, options={'hourly': 'True'}", "'options'"),
        ("city='SF', days=3, options=None", "'options'"),
        ("city='SF', days=3, hours=[2.5, 1.0]", "'hours'"),
        ("city='SF', days=3, hours=[1.0]", "'hours'"),
        ("city='SF', days=3, hours=(1.0, 2.5)", "'hours'"),
        ("city=['SF'], days=3", "'city'"),
    ],
)
def test_anything_else_is_wrong_and_the_reason_names_the_argument(arguments, why):
    outcome = score(f"weather.get({arguments})")
    assert (outcome.status, outcome.value) == ("scored", 0.0)
    assert why in outcome.why


def test_texts_are_compared_as_they_are_where_the_setting_says_so():
    text = "weather.get(city='san francisco', days=3)"
    assert score(text).value == 1.0
    assert score(text, strings="exact").value == 0.0
    assert score("weather.get(city='SF', days=3)", strings="exact").value == 1.0


def test_parallel_calls_are_met_in_any_order_and_each_once():
    key = [{"f": {"a": [1, 2]}}, {"f": {"a": [1]}}]
    columns = {
        "function": [{"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}],
        "ground_truth": key,
    }
    assert score("[f(a=1), f(a=2)]", columns).value == 1.0  # the first entry must leave 1 to the second
    assert score("[f(a=2), f(a=1)]", columns).value == 1.0
    assert score("[f(a=2), f(a=2)]", columns).value == 0.0
    assert score("f(a=1)", columns).why == "1 calls, not 2"
    outcome = score("[f(a=1), f(a=2), f(a=2)]", columns)
    assert (outcome.value, outcome.parts) == (0.0, {"calls_expected": 2.0, "calls_found": 3.0, "calls_met": 2.0})


def test_two_calls_for_the_same_entry_do_not_stand_for_two():
    key = [{"f": {"a": [1]}}, {"f": {"a": [2]}}]
    columns = {
        "function": [{"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}],
        "ground_truth": key,
    }
    assert score("[f(a=1), f(a=1)]", columns).why == "two calls for what was to be called once"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("None of these functions can do that.", 1.0),
        ("weather.get(city='SF', days=3)", 0.0),
        ("Sure: weather.get(city='SF', days=3) it is.", 0.0),
        ('{"name": "other", "arguments": {}}', 0.0),
        ("<tool_call>{broken", 0.0),
        ('{"tool_calls": []}', 0.0),
        ('I call {"name": "weather.get", "arguments": {}} for you', 0.0),
        ("The weather.get function needs a city.", 1.0),
    ],
)
def test_where_nothing_is_to_be_called_a_call_or_an_attempt_is_wrong(text, expected):
    outcome = score(text, {"ground_truth": []})
    assert outcome.value == expected, outcome.why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weather.get(city='Anywhere')", 1.0),
        ("weather.get(city='x', days=2, hours=[1, 2.5], unit='F', options={'hourly': False})", 1.0),
        ("weather.get()", 0.0),
        ("weather.get(city=3)", 0.0),
        ("weather.get(city='x', days=True)", 0.0),
        ("weather.get(city='x', unit='K')", 0.0),
        ("weather.get(city='x', hours=['1'])", 0.0),
        ("weather.get(city='x', options={'daily': True})", 0.0),
        ("weather.get(city='x', zone='y')", 0.0),
        ("weather.put(city='x')", 0.0),
        ("[weather.get(city='x'), weather.put(city='x')]", 0.0),
        ("No call is needed.", 0.0),
    ],
)
def test_validity_asks_for_offered_functions_and_arguments_that_their_schemas_take(text, expected):
    assert score(text, mode="valid").value == expected


def test_functions_may_stand_in_the_problems_tools():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert score_one(ToolCalls(mode="valid"), text, tools=tools).value == 1.0


def test_java_and_javascript_take_bare_names_and_literals_in_texts():
    function = {"name": "f", "parameters": {"properties": {"n": {"type": "long"}, "v": {"type": "any"}}}}
    columns = {"function": [function], "ground_truth": [{"f": {"n": [5], "v": ["mainView"]}}], "language": "java"}
    for text in (
        "f(n=5, v=mainView)",
        'f(n="5L", v="mainView")',
        '{"name": "f", "arguments": {"n": 5, "v": "mainView"}}',
    ):
        assert score(text, columns).value == 1.0
    assert score("f(n='6L', v=mainView)", columns).value == 0.0
    assert score("f(n=5, v=mainView)", {**columns, "language": "python"}).status == "unparsed"


def test_a_text_that_cannot_be_read_is_unparsed_and_the_policys_failure():
    outcome = score("I think weather.get would help")
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_the_reasoning_is_taken_off_by_the_setting():
    text = "<think>which one?</think>\nweather.get(city='SF', days=3)"
    assert score(text).value == 0.0
    assert score(text, reasoning=ReasoningBlock("think")).value == 1.0


@pytest.mark.parametrize(
    "columns",
    [
        {"function": None},
        {"function": [{"parameters": {}}]},
        {"ground_truth": None},
        {"ground_truth": [{"f": {}, "g": {}}]},
        {"ground_truth": [{"f": {"a": 1}}]},
        {"language": "cobol"},
    ],
)
def test_columns_that_cannot_be_used_are_an_error_of_the_data(columns):
    with pytest.raises(DataError):
        score("", columns)


@pytest.mark.parametrize("setting", [{"syntax": "xml"}, {"mode": "fuzzy"}, {"strings": "loose"}])
def test_an_unknown_setting_is_refused(setting):
    with pytest.raises(ValueError, match="one of"):
        ToolCalls(**setting)


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop():
    texts = ["weather.get(city='SF', days=3)", "weather.get(city='SF')", "no", json.dumps([{"name": "f"}])]
    first, *others = score_everywhere(ToolCalls(), [build_item(text, COLUMNS) for text in texts])
    assert [outcome.value for outcome in first] == [1.0, 0.0, 0.0, 0.0]
    assert others == [first] * 3


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["simple_java", "simple_javascript", "parallel_multiple", "live_simple", "live_parallel"]
)
def test_every_answer_of_bfcls_key_is_accepted_and_every_mutant_refused(name, real_data):
    from benchmarks.bfcl import build_item as build_answer
    from benchmarks.bfcl import list_mutants, read_problems, render
    from benchmarks.forms_golden import list_right_texts

    problems = read_problems(real_data / "tools" / "bfcl_v4", name)
    right = [build_answer(problem, text) for problem in problems for text in list_right_texts(problem)]
    refused = [item for item, outcome in zip(right, ToolCalls().score(right), strict=True) if outcome.value != 1.0]
    wrong = [
        build_answer(problem, render(calls, "json"))
        for problem in problems
        for _, _, calls, is_listed in list_mutants(problem)
        if not is_listed
    ]
    accepted = [item for item, outcome in zip(wrong, ToolCalls().score(wrong), strict=True) if outcome.value != 0.0]
    assert len(right) > len(problems) and len(wrong) > len(problems)
    assert (refused, accepted) == ([], [])
