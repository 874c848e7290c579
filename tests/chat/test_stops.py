"""Turn ends and headers are learned from the template."""

from __future__ import annotations

import pytest

from posttrain.chat.sources import locate_contents
from posttrain.chat.stops import find_stop_ids, find_turn_end, probe_template
from posttrain.chat.templates import InProcessRenderer, TemplateProgram
from tests.chat.formats import FORMS, Form, build_renderer, build_tokenizer, name_of


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_every_form_shows_the_token_that_ends_its_turns(form: Form) -> None:
    tokenizer = build_tokenizer("bytes", FORMS.index(form))
    renderer = build_renderer(tokenizer, form.template, form.arguments)
    turn_end, eos = tokenizer.convert_tokens_to_ids([form.turn_end, form.eos])
    assert renderer.format.stop_ids == tuple(dict.fromkeys([turn_end, eos]))


def test_headers_are_what_stands_right_before_a_content() -> None:
    (form,) = [form for form in FORMS if form.name == "chatml"]
    tokenizer = build_tokenizer("bytes", FORMS.index(form))
    special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    shape = probe_template(InProcessRenderer(TemplateProgram(form.template, {"eos_token": form.eos})), special)
    assert shape.turn_end == "<|im_end|>"
    assert shape.headers["user"] == "<|im_start|>user\n"
    assert shape.headers["assistant"] == "<|im_end|>\n<|im_start|>assistant\n"
    assert shape.headers["tool"].endswith("<|im_start|>tool\n")


def test_a_template_without_a_turn_end_has_none() -> None:
    shape = probe_template(InProcessRenderer(TemplateProgram("{{ messages[-1].content }}")), {"</s>": 2})
    assert shape.turn_end is None
    assert find_turn_end("no answer here", "answer!", {"</s>": 2}) is None
    assert find_turn_end("answer </s>", "answer", {}) is None
    assert find_turn_end("answer\n</s></s>x>", "answer", {"</s>": 2, "</s></s>x>": 3}) == "</s></s>x>"


def test_stop_ids_hold_turn_ends_first_and_each_once() -> None:
    assert find_stop_ids([2], [2, 7, 9], [9]) == (9, 2, 7)


def test_contents_are_found_after_their_headers_and_a_rewritten_one_is_left_out() -> None:
    headers = {"user": "U:", "assistant": "A:"}
    messages = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": " trimmed "},
        {"role": "user", "content": "gone from history"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "A:"},
    ]
    text = "U:A|A:trimmed|U:...|U:A:|A:"
    assert locate_contents(text, messages, headers) == [(2, 3, "user"), (6, 13, "assistant"), (22, 24, "user")]
