"""Turns that call tools: the form of calls is the template's, and a template that rewrites what was said is refused."""

from __future__ import annotations

import pytest

from posttrain.chat.tool_turns import find_call_syntax, read_turn
from posttrain.core.errors import TemplateError
from tests.chat.formats import FORMS, Form, build_renderer, build_tokenizer, name_of

CALL = '<tool_call>{"name": "%s", "arguments": {}}</tool_call>'
TAKEN = {"llama3_form": "json", "qwen3_form": "hermes", "plain": "hermes"}


def make_renderer(form: Form, kind: str = "bytes"):
    return build_renderer(build_tokenizer(kind, FORMS.index(form)), form.template, form.arguments)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_template_is_taken_where_it_goes_on_from_what_was_drawn(form: Form) -> None:
    renderer = make_renderer(form)
    if name_of(form) in TAKEN:
        assert find_call_syntax(renderer) == TAKEN[form.name]
        return
    with pytest.raises(TemplateError) as caught:
        find_call_syntax(renderer)
    assert "chat template" in str(caught.value)


def test_a_template_that_takes_thoughts_out_of_earlier_turns_is_refused_with_the_cure() -> None:
    plain = next(form for form in FORMS if form.name == "plain")
    strips = plain.template.replace('message.content or ""', '(message.content or "").split("</think>")[-1]')
    assert strips != plain.template
    renderer = build_renderer(build_tokenizer("bytes", FORMS.index(plain)), strips, {})
    with pytest.raises(TemplateError, match="rewrites what the assistant wrote") as caught:
        find_call_syntax(renderer)
    assert "training variant" in caught.value.cure


@pytest.mark.parametrize("kind", ["bytes", "nfc", "swallowing", "legacy", "metaspace"])
@pytest.mark.parametrize("form", [form for form in FORMS if name_of(form) in TAKEN], ids=name_of)
def test_an_observation_goes_on_as_the_whole_conversation_does(form: Form, kind: str) -> None:
    """Prompt, a call's turn and the observation are the ids of the conversation that is rendered as a whole."""
    renderer = make_renderer(form, kind)
    question = [{"role": "user", "content": "weather?"}]
    function = {"name": "probe", "arguments": {}}
    turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    reply = {"role": "tool", "name": "probe", "content": "rain, 12 and 30"}
    [seen] = renderer.render_observations([(question, None, [reply])])
    [whole] = renderer.render_prompts([([*question, turn, reply], None)])
    assert whole.tolist()[-len(seen) :] == seen.tolist()
    assert whole[-len(seen) - 1] in renderer.format.stop_ids


@pytest.mark.parametrize(
    ("text", "syntax", "names"),
    [
        (CALL % "f", "hermes", ["f"]),
        (f"ok {CALL % 'f'}\n{CALL % 'g'}", "hermes", ["f", "g"]),
        ('{"name": "f", "parameters": {"a": 1}}', "json", ["f"]),
        ('[{"name": "f", "arguments": {}}]', "json", ["f"]),
        ("Answer: 42", "hermes", None),
        ("Answer: 42", "json", None),
        ('{"town": "Bern"}', "json", None),
        ('{"name": "f", "arguments": {}}', "hermes", None),
        ('{"name": "f"}', "json", []),
        ("</tool_call>", "hermes", []),
    ],
)  # fmt: skip
def test_what_a_turn_calls_is_read_in_its_form(text: str, syntax: str, names: list[str] | None) -> None:
    found = read_turn(text, syntax)
    assert (None if found is None else [call.name for call in found.calls]) == names
    if found is not None:
        assert (found.fault is None) == bool(names)
