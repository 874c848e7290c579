"""What is sent: every setting, or a refusal that names it; messages in the form of OpenAI's interface."""

import json
from dataclasses import fields

import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Problem
from posttrain.core.sampling import SamplingSettings, TokenConstraint
from posttrain.samplers.served_requests import RequestWriter, check_settings, write_messages
from posttrain.samplers.served_settings import ServedSettings

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON_CONSTRAINT = TokenConstraint("json_schema", json.dumps(SCHEMA))
EVERYTHING = {
    "max_new_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "num_samples": 2,
    "stop_ids": (3, 4),
    "stop_strings": ("\n\n",),
    "ignore_eos": True,
    "top_logprobs": 3,
    "constraint": TokenConstraint("regex", "[ab]+"),
}
VLLM_ONLY = {"top_k", "min_p", "repetition_penalty", "stop_ids", "ignore_eos", "constraint"}


def served(**changes):
    return ServedSettings(**{"base_url": "http://127.0.0.1:1/v1", "model": "tiny", **changes})


def write(endpoint, settings, problem=None, seed=17, sample_index=0):
    problem = problem or Problem("p", [{"role": "user", "content": "hi"}])
    writer = RequestWriter(endpoint, settings, lambda problem: "rendered", "identity")
    return writer.write(problem, seed, sample_index)


def body(endpoint, settings, problem=None):
    check_settings(endpoint, settings)
    return json.loads(write(endpoint, settings, problem).content)


def test_every_sampling_setting_is_tried_here():
    assert set(EVERYTHING) == {field.name for field in fields(SamplingSettings)}


def test_a_vllm_server_is_sent_every_setting():
    sent = body(served(kind="vllm"), SamplingSettings(**EVERYTHING))
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [3, 4],
        "stop": ["\n\n"],
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 4,
        "structured_outputs": {"regex": "[ab]+"},
        "guided_regex": "[ab]+",
        "seed": 17,
    }


def test_what_is_off_is_sent_as_off_so_that_no_default_of_the_server_takes_its_place():
    sent = body(served(kind="vllm"), SamplingSettings(max_new_tokens=7, temperature=1.0))
    off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": False}
    assert {name: sent[name] for name in off} == off
    assert "logprobs" not in sent and "structured_outputs" not in sent
    assert body(served(), SamplingSettings(max_new_tokens=7))["top_p"] == 1.0


def test_an_openai_endpoint_is_sent_what_its_interface_defines_and_no_other_field():
    allowed = {name: value for name, value in EVERYTHING.items() if name not in VLLM_ONLY}
    sent = body(served(), SamplingSettings(**allowed, constraint=JSON_CONSTRAINT))
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "completion", "schema": SCHEMA, "strict": True},
    }
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n\n"],
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": response_format,
        "seed": 17,
    }


@pytest.mark.parametrize("name", sorted(VLLM_ONLY))
def test_an_openai_endpoint_refuses_each_setting_of_vllm_by_name(name):
    settings = SamplingSettings(**{"max_new_tokens": 7, "temperature": 1.0, name: EVERYTHING[name]})
    check_settings(served(kind="vllm"), settings)
    with pytest.raises(
        RecipeError, match=rf"(?s)E-RECIPE at {name}: {name} is .*cure: leave {name} out, or set kind: vllm"
    ):
        check_settings(served(), settings)


@pytest.mark.parametrize(
    ("changes", "settings", "place"),
    [
        ({}, {"stop_strings": tuple("abcde")}, "stop_strings"),
        ({}, {"top_logprobs": 21}, "top_logprobs"),
        ({"route": "completions"}, {"top_logprobs": 6}, "top_logprobs"),
        ({"route": "completions"}, {"constraint": JSON_CONSTRAINT}, "constraint"),
        ({"kind": "vllm"}, {"constraint": TokenConstraint("json_schema", "{")}, "constraint"),
        ({"kind": "vllm"}, {"constraint": TokenConstraint("json_schema", "[]")}, "constraint"),
        ({"kind": "vllm"}, {"temperature": 2.5}, "temperature"),
    ],
)
def test_what_no_endpoint_of_the_kind_takes_is_refused(changes, settings, place):
    with pytest.raises(RecipeError) as caught:
        check_settings(served(**changes), SamplingSettings(**{"max_new_tokens": 7, "temperature": 1.0, **settings}))
    assert caught.value.place == place and caught.value.cure


def test_a_grammar_goes_to_both_names_that_vllm_has_had_for_it():
    settings = SamplingSettings(max_new_tokens=7, constraint=TokenConstraint("lark", 'start: "a"'))
    sent = body(served(kind="vllm"), settings)
    assert (sent["structured_outputs"], sent["guided_grammar"]) == ({"grammar": 'start: "a"'}, 'start: "a"')


def test_a_rendered_prompt_is_sent_as_it_is_without_further_special_tokens():
    sent = body(served(kind="vllm", route="completions", logprobs=True), SamplingSettings(max_new_tokens=7))
    assert (sent["prompt"], sent["logprobs"], sent["add_special_tokens"]) == ("rendered", 0, False)
    assert "messages" not in sent
    assert "add_special_tokens" not in body(served(route="completions"), SamplingSettings(max_new_tokens=7))


def test_log_probs_are_asked_for_by_either_setting():
    settings = SamplingSettings(max_new_tokens=7)
    assert body(served(logprobs=True), settings)["top_logprobs"] == 0
    assert body(served(logprobs=True, kind="vllm"), settings)["top_logprobs"] == 0
    sent = body(served(route="completions"), SamplingSettings(max_new_tokens=7, top_logprobs=2))
    assert sent["logprobs"] == 2


def test_the_cap_on_tokens_has_the_name_that_the_endpoint_knows():
    sent = body(served(length_field="max_completion_tokens"), SamplingSettings(max_new_tokens=7))
    assert sent["max_completion_tokens"] == 7 and "max_tokens" not in sent


def test_further_fields_are_sent_and_may_not_stand_in_for_a_setting():
    settings = SamplingSettings(max_new_tokens=7)
    assert body(served(extra_body={"reasoning_effort": "low"}), settings)["reasoning_effort"] == "low"
    for name in ("seed", "n", "stream", "messages", "temperature", "max_tokens"):
        with pytest.raises(RecipeError, match=f"extra_body holds '{name}'"):
            write(served(extra_body={name: 1}), settings)


def test_seeds_are_sent_as_31_bits_which_every_server_takes():
    request = write(served(), SamplingSettings(max_new_tokens=7), seed=2**62 + 5)
    assert json.loads(request.content)["seed"] == 5


def test_the_key_follows_everything_that_decides_the_answer_and_nothing_else():
    base = SamplingSettings(max_new_tokens=7, temperature=1.0, num_samples=2)
    problem = Problem("p", [{"role": "user", "content": "hi"}])
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    keys = {
        "base": write(served(), base).key,
        "message": write(served(), base, Problem("p", [{"role": "user", "content": "ho"}])).key,
        "tools": write(served(), base, Problem("p", problem.messages, tools=[tool])).key,
        "seed": write(served(), base, seed=18).key,
        "seed with the same last bits": write(served(), base, seed=17 + 2**31).key,
        "sample": write(served(), base, sample_index=1).key,
        "setting": write(served(), SamplingSettings(max_new_tokens=8, temperature=1.0)).key,
        "model": write(served(model="other"), base).key,
        "extra": write(served(extra_body={"a": 1}), base).key,
        "kind": write(served(kind="vllm"), base).key,
        "route": write(served(route="completions"), base).key,
        "identity": RequestWriter(served(), base, None, "other").write(problem, 17, 0).key,
    }
    assert len(set(keys.values())) == len(keys)
    same = Problem("another name", problem.messages, columns={"answer": 1}, cluster_id="c")
    again = served(limits={"max_in_flight": 1}, cache="x", api_key_env="SOME_KEY", keep_reasoning=True)
    assert write(again, base, same).key == keys["base"]


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_calls_get_ids_and_arguments_as_text_and_replies_name_their_call():
    messages = [
        {"role": "user", "content": "add and sub", "extra": "left out"},
        {"role": "assistant", "content": None, "tool_calls": [call("add", {"a": "ü"}), call("sub", "broken {")]},
        {"role": "tool", "name": "sub", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "again", "tool_calls": [call("add", {})]},
        {"role": "tool", "name": "add", "content": "3"},
    ]
    assert write_messages(messages, "p", takes_reasoning=False) == [
        {"role": "user", "content": "add and sub"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("add", '{"a": "ü"}', id="call00000"), call("sub", "broken {", id="call00001")],
        },
        {"role": "tool", "content": "1", "name": "sub", "tool_call_id": "call00001"},
        {"role": "tool", "content": "2", "tool_call_id": "call00000"},
        {"role": "assistant", "content": "again", "tool_calls": [call("add", "{}", id="call00002")]},
        {"role": "tool", "content": "3", "name": "add", "tool_call_id": "call00002"},
    ]


def test_ids_that_a_row_gives_are_kept():
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call("f", {}, id="x"), call("f", {}, id="y")]},
        {"role": "tool", "content": "1", "tool_call_id": "y"},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]
    written = write_messages(messages, "p", takes_reasoning=False)
    assert [written[1]["tool_call_id"], written[2]["tool_call_id"]] == ["y", "x"]
    assert [one["id"] for one in written[0]["tool_calls"]] == ["x", "y"]


def test_a_reply_to_no_call_is_refused():
    with pytest.raises(DataError, match=r"E-DATA at p: a tool's reply follows no open call"):
        write_messages([{"role": "tool", "content": "1"}], "p", takes_reasoning=False)


def test_thinking_is_sent_where_there_is_a_field_for_it_and_refused_elsewhere():
    messages = [{"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}]
    assert write_messages(messages, "p", takes_reasoning=True) == messages
    with pytest.raises(DataError, match="reasoning_content, for which OpenAI's interface has no field"):
        write_messages(messages, "p", takes_reasoning=False)


def test_text_that_utf_8_cannot_hold_is_sent_escaped():
    problem = Problem("p", [{"role": "user", "content": "half \ud800 and whole \U0001f600"}])
    content = write(served(), SamplingSettings(max_new_tokens=7), problem).content
    assert content.isascii() and json.loads(content)["messages"][0]["content"] == "half \ud800 and whole \U0001f600"
