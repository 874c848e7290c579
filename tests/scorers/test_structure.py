"""Form rules: the hostile cases, more of the same kinds, and rules that cannot be read."""

import json
from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.reasoning import ReasoningBlock
from posttrain.scorers.structure import RULES, Structure
from tests.scorers.form_items import build_item, score_everywhere, score_one

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "hostile_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
FORMAT_CASES = [case for case in CASES if case["kind"] == "format"]
PERSON = {"rule": "json_object", "keys": ["name", "age"], "types": {"name": "str", "age": "int"}}
THINK = {"rule": "think_then_answer", "tags": ["think", "answer"]}
PLAIN = {"rule": "plain_text"}
SCHEMA = {
    "rule": "json_schema",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"pattern": "^(a|aa)+$"}}},
}
UNIQUE = {"rule": "json_schema", "schema": {"type": "array", "uniqueItems": True}}

# rule, text, whether it keeps the rule
OWN_CASES = [
    (PERSON, '{"age": 3, "name": "Ann"}', True),
    (PERSON, ' \n{"name": "Ann", "age": 3}\n', True),
    (PERSON, '{"name": "Ann", "age": 3, "admin": true}', False),
    (PERSON, '{"name": "Ann"}', False),
    (PERSON, '{"name": " ", "age": 3}', False),
    (PERSON, '{"name": "Ann", "age": 3.0}', False),
    (PERSON, '{"name": "Ann", "age": "3"}', False),
    (PERSON, '{"name": "Ann", "age": NaN}', False),
    (PERSON, '[{"name": "Ann", "age": 3}]', False),
    (PERSON, '{"name": "Ann", "age": 3} {"name": "Bo", "age": 4}', False),
    (PERSON, 'Here it is: {"name": "Ann", "age": 3}', False),
    (PERSON, '```json\n{"name": "Ann", "age": 3}\n```', False),
    (PERSON, "{'name': 'Ann', 'age': 3}", False),
    (PERSON, '{"name": "Ann", "age": 3,}', False),
    (PERSON, '{"name": "Ann", "age": 3', False),
    (PERSON, '{"name": "\\ud800", "age": 3}', False),
    (PERSON, '{"name": "Ann", "age": 1e999}', False),
    (PERSON, '{"name": "a\nb", "age": 3}', False),
    (PERSON, "[" * 100_000, False),
    (PERSON, '{"a":' * 100_000, False),
    ({**PERSON, "allow_extra": True}, '{"name": "Ann", "age": 3, "admin": true}', True),
    ({**PERSON, "allow_empty": True}, '{"name": "", "age": 3}', True),
    ({"rule": "json_object", "types": {"x": "list", "y": "null"}}, '{"x": [0], "y": null}', True),
    ({"rule": "json_object", "types": {"x": "float"}}, '{"x": 1}', True),
    ({"rule": "json_object", "types": {"x": "float"}}, '{"x": false}', False),
    ({"rule": "json_array", "min": 2, "max": 3, "items": "int"}, "[1, 2]", True),
    ({"rule": "json_array", "min": 2, "max": 3, "items": "int"}, "[1, true]", False),
    ({"rule": "json_array"}, "[]", False),
    (SCHEMA, '{"n": 1, "s": "aaa"}', True),
    (SCHEMA, '{"n": true}', False),
    (SCHEMA, '{"n": 99999999999999999999999999}', False),
    (UNIQUE, "[1, true, [1], [true]]", True),
    (UNIQUE, "[1, 1.0]", False),
    (UNIQUE, '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', False),
    (UNIQUE, json.dumps([{"a": number} for number in range(20_000)]), True),
    ({"rule": "regex", "pattern": r"\d{3}-\d{4}"}, " 555-1234\n", True),
    ({"rule": "regex", "pattern": r"\d{3}-\d{4}"}, "call 555-1234", False),
    ({"rule": "regex", "pattern": r"a|ab"}, "ab", True),
    (THINK, "<think>2+2 is 4</think>\n<answer>4</answer>", True),
    (THINK, "<think></think><answer>4</answer>", False),
    (THINK, "<think>x</think><answer> \n</answer>", False),
    (THINK, "<answer>4</answer><think>x</think>", False),
    (THINK, "<think>x</think><answer>4</answer><answer>5</answer>", False),
    (THINK, "<think>x<think>y</think></think><answer>4</answer>", False),
    (THINK, "<think>x<answer>4</answer></think>", False),
    (THINK, "<think>x</think><answer>4</answer> done", False),
    (THINK, "Sure. <think>x</think><answer>4</answer>", False),
    (THINK, "<THINK>x</THINK><answer>4</answer>", False),
    (THINK, "<think class='a'>x</think><answer>4</answer>", False),
    (THINK, "<think>x</ think><answer>4</answer>", False),
    (THINK, "<think>x</think><answer>4", False),
    (THINK, "<think>if a < b, thinking <b>hard</b></think><answer>4</answer>", True),
    (THINK, "<think " * 50_000, False),
    (THINK, "< " * 100_000, False),
    ({**THINK, "may_be_empty": ["think"]}, "<think>\n</think><answer>4</answer>", True),
    ({**THINK, "allow_text_outside": True}, "So: <think>x</think> then <answer>4</answer>!", True),
    ({**THINK, "opened_by_prompt": True}, "x</think><answer>4</answer>", True),
    ({**THINK, "opened_by_prompt": True}, "<think>x</think><answer>4</answer>", False),
    (PLAIN, "Just text: 3 < 4 & 5 > 2, a - b.\n\n- one\n1. two\n", True),
    (PLAIN, "Zwölf Äpfel kosten 3 €, ja? 👩\u200d🔬", True),
    (PLAIN, "see <b>this", False),
    (PLAIN, "see </b", False),
    (PLAIN, "a &lt;b&gt; c", False),
    (PLAIN, "a &#x3c; b", False),
    (PLAIN, "This is **bold**", False),
    (PLAIN, "# Title\ntext", False),
    (PLAIN, "[a](http://x.y)", False),
    (PLAIN, "```\ncode\n```", False),
    (PLAIN, "the `code` here", False),
    (PLAIN, "a | b\n--- | ---\n1 | 2", False),
    (PLAIN, "> quoted", False),
    (PLAIN, "red \x9b31m text", False),
    (PLAIN, "back\x08space", False),
    (PLAIN, "user\u202egnp.exe", False),
    (PLAIN, "pay\u200bload", False),
    (PLAIN, "null \x00 byte", False),
    (PLAIN, "good news\rbad", False),
    (PLAIN, "one\r\ntwo", True),
    (PLAIN, "one\u2028two", False),
    (PLAIN, "e" + "\u0301" * 40, False),
    (PLAIN, "e\u0301te\u0301, 5\u00a0km", True),
    ({"rule": "no_comma"}, "Nothing of the kind.", True),
    ({"rule": "no_comma"}, "One，two", False),
    ({"rule": "no_comma"}, "One، two", False),
    ({"rule": "no_comma"}, "...", False),
    ({"rule": "no_comma", "also": "at least 5 words"}, "Too short", False),
    ({"rule": "no_comma", "also": ["at least 2 words", {"rule": "lower_case"}]}, "two words", True),
    ({"rule": "no_comma", "also": ["at least 2 words", {"rule": "lower_case"}]}, "Two words", False),
    ({"rule": "words_between", "min": 2, "max": 3}, "don't well-known", True),
    ({"rule": "words_between", "min": 2, "max": 3}, "one", False),
    ({"rule": "words_between", "min": 2, "max": 3}, "one – — - two", True),
    ({"rule": "words_between", "min": 2, "max": 3}, "- - - -", False),
    ({"rule": "words_between", "max": 3}, "a b c d", False),
    ({"rule": "sentences_between", "min": 2, "max": 2}, "Dr. Ann came. She left.", True),
    ({"rule": "lines_between", "max": 2}, "a\n\nb\n", True),
    ({"rule": "characters_between", "min": 3, "max": 5}, "  abc  ", True),
    ({"rule": "paragraphs_between", "min": 2, "max": 2}, "a\nb\n\nc", True),
    ({"rule": "markdown", "min": {"headings": 1, "list_items": 2}}, "# T\n\n- a\n- b", True),
    ({"rule": "markdown", "min": {"headings": 1}}, "```\n# T\n```", False),
    ({"rule": "markdown", "max": {"links": 0}}, "see [a](http://x.y)", False),
    ({"rule": "markdown", "min": {"tables": 1}}, "a | b\n--- | ---\n1 | 2", True),
    ({"rule": "markdown", "max": {"links": 0}}, "[" * 60_000 + "x", False),
    ({"rule": "one_of", "options": ["yes", "+"]}, "+", True),
    ({"rule": "one_of", "options": ["yes", "no"]}, "yes no", False),
    ({"rule": "upper_case"}, "ALL OF IT 1", True),
    ({"rule": "upper_case"}, "123", False),
    ({"rule": "lower_case"}, "all of it", True),
    ({"rule": "starts_with", "phrase": "Dear"}, "Dear Ann", True),
    ({"rule": "ends_with", "phrase": "Bye."}, "So. Bye. P.S.", False),
    ({"rule": "words_present", "words": ["cat"]}, "A CAT!", True),
    ({"rule": "words_present", "words": ["cat"]}, "concatenate", False),
    ({"rule": "words_absent", "words": ["cat"]}, "a cat", False),
]


@pytest.mark.parametrize("case", FORMAT_CASES, ids=[case["id"] for case in FORMAT_CASES])
def test_every_hostile_case_gets_its_verdict(case):
    outcome = score_one(Structure(), case["payload"], case["task"])
    assert outcome.value == float(case["expected"] == "accept")
    assert outcome.fault != "harness"
    assert outcome.why


def test_there_are_eleven_hostile_cases_of_form():
    assert len(FORMAT_CASES) == 11


@pytest.mark.parametrize(("rule", "text", "expected"), OWN_CASES)
def test_more_cases_of_the_same_kinds_get_theirs(rule, text, expected):
    outcome = score_one(Structure(), text, rule)
    assert (outcome.value == 1.0) is expected, outcome.why
    assert outcome.fault != "harness"
    assert 0 < len(outcome.why) < 400


def test_every_rule_is_named_in_a_case():
    assert {rule["rule"] for rule, _, _ in OWN_CASES} | {"tags"} == set(RULES)


@pytest.mark.parametrize(
    "columns",
    [{"rule": "regex", "pattern": "(a|aa)+b"}, {"rule": "json_schema", "schema": {"pattern": "^(a|aa)+b$"}}],
)
def test_a_text_on_which_a_pattern_takes_for_ever_is_timed_out_and_the_policys_failure(columns, monkeypatch):
    monkeypatch.setattr("posttrain.scorers.patterns.TIMEOUT_SECONDS", 0.05)
    text = "a" * 80 + "c"
    outcome = score_one(Structure(), text if columns["rule"] == "regex" else json.dumps(text), columns)
    assert (outcome.status, outcome.value, outcome.fault) == ("timed_out", 0.0, "policy")


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"rule": "haiku"},
        {"rule": 3},
        {"rule": "regex"},
        {"rule": "regex", "pattern": "("},
        {"rule": "words_between"},
        {"rule": "words_between", "min": 5, "max": 3},
        {"rule": "words_between", "min": "5"},
        {"rule": "json_object", "types": {"a": "integer"}},
        {"rule": "json_array", "items": "thing"},
        {"rule": "json_schema"},
        {"rule": "json_schema", "schema": {"type": "no such type"}},
        {"rule": "json_schema", "schema": {"$ref": "http://example.com/schema.json"}},
        {"rule": "json_schema", "schema": {"pattern": "("}},
        {"rule": "json_schema", "schema": "{"},
        {"rule": "tags", "tags": ["a", "a"]},
        {"rule": "tags", "tags": ["a b"]},
        {"rule": "markdown"},
        {"rule": "markdown", "min": {"cats": 1}},
        {"rule": "no_comma", "also": "a few words"},
        {"rule": "no_comma", "also": {"rule": "haiku"}},
    ],
)
def test_a_rule_that_cannot_be_read_is_an_error_of_the_data_whatever_the_text(columns):
    with pytest.raises(DataError) as caught:
        score_one(Structure(), "", columns)
    assert caught.value.place == "row-1"


def test_one_rule_for_every_problem_stands_in_the_place_of_its_columns():
    scorer = Structure(rule={"rule": "upper_case"})
    assert score_one(scorer, "YES", {"rule": "lower_case"}).value == 1.0


def test_the_reasoning_is_taken_off_by_the_setting():
    scorer = Structure(rule={"rule": "one_of", "options": ["yes"]}, reasoning=ReasoningBlock("think"))
    assert score_one(scorer, "<think>hm</think>\nyes").value == 1.0
    assert score_one(scorer, "<think>hm\nyes").status == "unparsed"


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop():
    items = [build_item(text[:500], rule) for rule, text, _ in OWN_CASES]
    first, *others = score_everywhere(Structure(), items)
    assert others == [first] * 3


@pytest.mark.parametrize(
    "text",
    [
        " " * 200_000 + "x",
        "<" + " " * 200_000 + "x",
        "<think>" * 50_000,
        "</" * 100_000 + "a",
        "| " * 100_000,
        "---" * 100_000,
        "#" * 300_000 + "a",
        "`a" * 100_000,
        "&#1" * 100_000,
        "\t|" * 100_000,
        "\n \n" * 100_000 + "a",
        "." * 300_000 + "x",
    ],
    ids=lambda text: repr(text[:6]),
)
def test_no_rule_takes_more_than_linear_time_on_a_hostile_text(text):
    """Quadratic patterns would need 10^10 steps here, and the run would never come to its end."""
    rules = {str(rule): rule for rule, _, _ in OWN_CASES if rule["rule"] != "regex"}
    outcomes = [score_one(Structure(), text, rule) for rule in rules.values()]
    assert all(outcome.fault != "harness" for outcome in outcomes)
