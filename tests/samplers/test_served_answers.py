"""What is read: texts, log-probs and calls in both formats, and every wrong shape refused."""

import json

import numpy as np
import pytest

from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served_answers import FINISH_REASONS, TokenCounts, UnusableAnswerError, read_answer, read_json
from posttrain.samplers.served_settings import ServedSettings
from tests.samplers.endpoint import chat_answer

SETTINGS = SamplingSettings(max_new_tokens=8)
TOP_TWO = SamplingSettings(max_new_tokens=8, top_logprobs=2)


def read(value, settings=SETTINGS, **changes):
    return read_answer(value, ServedSettings(base_url="http://127.0.0.1:1/v1", model="tiny", **changes), settings)


def with_message(**message):
    answer = chat_answer("")
    answer["choices"][0]["message"] = message
    return answer


def with_logprobs(logprobs, text="ab"):
    answer = chat_answer(text)
    answer["choices"][0]["logprobs"] = logprobs
    return answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("function_call", "stop"),
        ("content_filter", "filtered"),
    ],
)
def test_how_an_answer_ended_is_one_of_the_houses_reasons(name, expected):
    assert read(chat_answer("x", name)).finish_reason == expected
    assert name in FINISH_REASONS


def test_text_counts_and_fingerprint_are_read():
    answer = read(chat_answer("hello"))
    assert (answer.text, answer.counts, answer.fingerprint) == ("hello", TokenCounts(10, 5), "fp_1")
    assert read(chat_answer("hello", usage=None, system_fingerprint=None)).counts is None


def test_chat_log_probs_are_one_a_token_with_the_most_probable_by_text():
    entries = [
        {
            "token": "a",
            "logprob": -0.5,
            "top_logprobs": [
                {"token": "b", "logprob": -2.0, "bytes": [98]},
                {"token": "a", "logprob": -0.5},
                {"token": "c", "logprob": -3.0},
            ],
        },
        {"token": "b", "logprob": -9999.0, "top_logprobs": [{"token": "z", "logprob": -0.1}]},
    ]
    answer = read(with_logprobs({"content": entries}), TOP_TWO)
    np.testing.assert_allclose(answer.logprobs, [-0.5, -9999.0])
    assert answer.top_logprobs.texts_TK == (("a", "b"), ("z", ""))
    np.testing.assert_allclose(answer.top_logprobs.logprobs_TK, [[-0.5, -2.0], [-0.1, -np.inf]])
    assert answer.top_logprobs.ids_TK.shape == (2, 0)
    assert read(with_logprobs({"content": entries})).logprobs is None  # not asked for
    assert read(with_logprobs({"content": entries}), logprobs=True).top_logprobs is None


def test_a_list_that_the_drawn_token_leads_gives_the_most_probable_ones():
    """As vLLM lists them: the drawn token, then the most probable ones, one more in all than asked for."""

    def top(*pairs):
        items = [{"token": token, "logprob": logprob} for token, logprob in pairs]
        return {"token": items[0]["token"], "logprob": items[0]["logprob"], "top_logprobs": items}

    entries = [top(("d", -9.0), ("a", -1.0), ("b", -2.0)), top(("b", -2.0), ("a", -1.0), ("c", -3.0))]
    answer = read(with_logprobs({"content": entries}), TOP_TWO)
    assert answer.top_logprobs.texts_TK == (("a", "b"), ("a", "b"))
    np.testing.assert_allclose(answer.logprobs, [-9.0, -2.0])


def test_log_probs_of_the_completions_format_are_read_alike():
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -1],
        "top_logprobs": [{"x": -4.0, "a": -0.5, "y": -5.0}, None],
    }
    value = {"choices": [{"text": "ab", "finish_reason": "stop", "logprobs": logprobs}]}
    answer = read(value, TOP_TWO, route="completions")
    np.testing.assert_allclose(answer.logprobs, [-0.5, -1.0])
    assert answer.top_logprobs.texts_TK == (("a", "x"), ("", ""))
    assert answer.text == "ab"


def test_log_probs_that_were_asked_for_and_are_missing_are_an_error_where_there_is_text():
    with pytest.raises(UnusableAnswerError, match="no log-probs, which were asked for"):
        read(with_logprobs(None), TOP_TWO)
    assert read(with_logprobs(None, text=""), TOP_TWO).logprobs is None
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    assert read(with_message(content=None, tool_calls=calls), TOP_TWO).logprobs is None


def read_back(text):
    """The calls that stand in a text, read as a template's own are."""
    parts = text.split("<tool_call>\n")[1:]
    return [json.loads(part.split("\n</tool_call>")[0]) for part in parts]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"b":1,  "a": "\\u00fc"}', {"b": 1, "a": "ü"}),
        ("{broken", "{broken"),
        ('"text"', '"text"'),
        ("[1]", "[1]"),
        ('{"x": NaN}', '{"x": NaN}'),
        ("", ""),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_calls_stand_in_the_text_with_their_arguments_unchanged(arguments, expected):
    call = {"id": "call_1", "type": "function", "function": {"name": 'say "hi"', "arguments": arguments}}
    answer = read(with_message(content="Let me see.", tool_calls=[call, call]))
    assert answer.text.startswith("Let me see.\n<tool_call>\n")
    assert read_back(answer.text) == [{"name": 'say "hi"', "arguments": expected}] * 2
    if isinstance(arguments, str) and isinstance(expected, dict):
        assert arguments in answer.text  # to the last blank


def test_an_older_function_call_is_a_call_too():
    answer = read(with_message(content=None, function_call={"name": "f", "arguments": '{"a": 1}'}))
    assert answer.text == '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_a_refusal_in_place_of_content_is_the_text():
    assert read(with_message(content=None, refusal="I will not.")).text == "I will not."


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_left_out_or_put_before_the_text(field):
    value = with_message(content="4", **{field: "2 + 2"})
    assert read(value).text == "4"
    assert read(value, keep_reasoning=True).text == "<think>\n2 + 2\n</think>\n\n4"


def test_halves_of_surrogate_pairs_become_the_replacement_character():
    value = read_json(b'{"choices":[{"message":{"content":"a\\ud83d b\\ud83d\\ude00"},"finish_reason":"stop"}]}')
    assert read(value).text == "a\ufffd b\U0001f600"


WRONG_SHAPES = [
    None,
    [],
    "text",
    7,
    {},
    {"choices": None},
    {"choices": []},
    {"choices": {}},
    {"choices": [None]},
    {"choices": [{}]},
    {"choices": [{"finish_reason": "stop"}]},
    {"choices": [{"finish_reason": "stop", "message": "x"}]},
    {"choices": [{"finish_reason": None, "message": {"content": "x"}}]},
    {"error": {"message": "no"}},
    chat_answer("x", "abort"),
    chat_answer("x", ""),
    chat_answer("x", usage=7),
    chat_answer("x", usage={"prompt_tokens": 1}),
    chat_answer("x", usage={"prompt_tokens": -1, "completion_tokens": 1}),
    chat_answer("x", usage={"prompt_tokens": True, "completion_tokens": 1}),
    chat_answer("x", usage={"prompt_tokens": 10**400, "completion_tokens": 1}),
    chat_answer("x", usage={"prompt_tokens": 1, "completion_tokens": 9}),
    with_message(content=["part"]),
    with_message(content=7),
    with_message(content="x", tool_calls={"a": 1}),
    with_message(content="x", tool_calls=[7]),
    with_message(content="x", tool_calls=[{"function": {"arguments": "{}"}}]),
    with_message(content="x", tool_calls=[{"function": {"name": "f", "arguments": 7}}]),
    with_logprobs({"content": [7]}),
    with_logprobs({"content": [{"token": "a"}]}),
    with_logprobs({"content": [{"token": "a", "logprob": None}]}),
    with_logprobs({"content": [{"token": "a", "logprob": True}]}),
    with_logprobs({"content": [{"token": "a", "logprob": -(10**400)}]}),
    with_logprobs({"content": [{"token": "a", "logprob": -1, "top_logprobs": {"a": 1}}]}),
    with_logprobs({"content": [{"token": "a", "logprob": -1, "top_logprobs": ["a"]}]}),
    with_logprobs({"content": [{"token": "a", "logprob": -1, "top_logprobs": [{"token": 1, "logprob": -1}]}]}),
    with_logprobs({"content": {}}),
    with_logprobs(7),
]


@pytest.mark.parametrize("value", WRONG_SHAPES, ids=lambda value: json.dumps(value)[:60])
def test_every_wrong_shape_is_refused(value):
    with pytest.raises(UnusableAnswerError):
        read(value, TOP_TWO)


@pytest.mark.parametrize(
    "logprobs",
    [
        {"token_logprobs": [None]},
        {"token_logprobs": [-1], "top_logprobs": [{}, {}]},
        {"token_logprobs": [-1], "top_logprobs": 7},
        {"token_logprobs": [-1], "top_logprobs": [7]},
        {"token_logprobs": [-1], "top_logprobs": [{"a": "x"}]},
        {},
    ],
)
def test_every_wrong_shape_of_the_completions_format_is_refused(logprobs):
    value = {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": logprobs}]}
    with pytest.raises(UnusableAnswerError):
        read(value, TOP_TWO, route="completions")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a": ' + b"1" * 10_000 + b"}",
        b"<html><body>Sign in</body></html>",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_is_refused(body):
    with pytest.raises(UnusableAnswerError, match="which is no JSON"):
        read_json(body)


def test_a_page_is_called_one():
    with pytest.raises(UnusableAnswerError, match="an HTML page"):
        read_json(b"\n <!doctype html><title>Sign in</title>")
