"""Prompts of plain text are what transformers' own tokenizer makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.chat.text_prompts import TextRenderer
from posttrain.core.errors import TemplateError
from posttrain.models.loading import load_tokenizer
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from tests.models.tiny_models import make_tokenizer


def build_renderer(tokenizer: Any) -> TextRenderer:
    text_tokenizer = HuggingFaceTextTokenizer(tokenizer)
    return TextRenderer(text_tokenizer, dict(text_tokenizer.template_tokens), (1,))


def ask(text: Any, role: str = "user") -> list[tuple[list[dict[str, Any]], None]]:
    return [([{"role": role, "content": text}], None)]


def test_the_beginning_of_sequence_is_written_once_and_control_tokens_are_read() -> None:
    tokenizer = make_tokenizer()
    renderer = build_renderer(tokenizer)
    plain = tokenizer("Hi", add_special_tokens=False).input_ids
    [ids] = renderer.render_prompts(ask("Hi"))
    assert ids.tolist() == [tokenizer.bos_token_id, *plain]
    [written] = renderer.render_prompts(ask("<s>Hi"))
    assert written.tolist() == ids.tolist()
    [turn] = renderer.render_prompts(ask("Hi<|turn|>"))
    assert turn.tolist() == [*ids.tolist(), tokenizer.convert_tokens_to_ids("<|turn|>")]


def test_a_conversation_is_no_plain_text() -> None:
    renderer = build_renderer(make_tokenizer())
    for prompts in (ask("Hi", "system"), ask(None), [(ask("a")[0][0] * 2, None)]):
        with pytest.raises(TemplateError, match="plain text"):
            renderer.render_prompts(prompts)
    with pytest.raises(TemplateError, match="surrogate"):
        renderer.render_prompts(ask("\ud800"))


@pytest.mark.real_data
def test_the_ids_are_those_of_a_real_tokenizer_that_writes_its_own_beginning(real_data: Path) -> None:
    tokenizer = load_tokenizer(real_data / "tiny-llama-stories260k" / "hf")
    for text in ("Once upon a time", "é 東", " a\n", ""):
        [ids] = build_renderer(tokenizer).render_prompts(ask(text))
        assert ids.tolist() == tokenizer(text).input_ids
