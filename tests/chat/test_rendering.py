"""What is rendered is the template's, byte for byte; what is trained on is the assistant's, token for token."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.chat.templates import DEFAULT_DATE
from posttrain.core.records import RenderedSample, Source
from tests.chat.conversations import build_conversation
from tests.chat.formats import FORMS, Form, build_renderer, build_tokenizer, name_of

NUM_QUICK, NUM_ALL = 12, 200
KINDS = ["bytes", "nfc", "swallowing", "legacy", "metaspace"]


@pytest.fixture(autouse=True)
def pinned_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers' own templates take the pinned date for today."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(DEFAULT_DATE)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


class Reference:
    """transformers' own rendering of one form."""

    def __init__(self, kind: str, form: Form) -> None:
        self.form = form
        self.tokenizer = build_tokenizer(kind, FORMS.index(form))

    def text(self, messages: list[dict[str, Any]], tools: Any, *, prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **self.form.arguments
        )

    def ids(self, messages: list[dict[str, Any]], tools: Any, *, prompt: bool = False) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages,
            tools=tools,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=prompt,
            **self.form.arguments,
        )["input_ids"]


def trained_runs(sample: RenderedSample) -> list[tuple[int, int]]:
    """Return the [first, last) tokens of each run of trained tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.is_trainable_T.astype(int), [0]])))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def same_text(decoded: str, text: str, kind: str) -> bool:
    return decoded == (unicodedata.normalize("NFC", text) if kind == "nfc" else text)


def check_conversation(kind: str, form: Form, renderer: Renderer, reference: Reference, index: int) -> int:
    """Check one conversation against transformers; return how many turns were trained on."""
    messages, tools = build_conversation(index, form.shows)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    (samples,) = renderer.render_samples([SampleRequest(messages, tools)])
    assert isinstance(samples, list), samples
    runs = [(sample, run) for sample in samples for run in trained_runs(sample)]
    assert len(runs) == len(turns)
    assert len(samples) in (1, len(turns))
    for turn, (sample, (first, last)) in zip(turns, runs, strict=True):
        prompt = reference.text(messages[:turn], tools, prompt=True)
        full = reference.text(messages[: turn + 1], tools)
        words = full[len(prompt) : full.index(form.turn_end, len(prompt))]
        assert same_text(renderer.tokenizer.decode(sample.ids_T[first : last - 1].tolist()), words, kind)
        assert reference.tokenizer.convert_ids_to_tokens(int(sample.ids_T[last - 1])) == form.turn_end
        if kind not in ("legacy", "metaspace"):  # whose decoders write the blank of a token's own name as a blank
            decoded = renderer.tokenizer.decode(sample.ids_T[first:last].tolist())
            assert same_text(decoded, words + form.turn_end, kind)
        prompt_ids = reference.ids(messages[:turn], tools, prompt=True)
        assert sample.ids_T[:first].tolist() == prompt_ids
        assert renderer.render_prompts([(messages[:turn], tools)])[0].tolist() == prompt_ids
        assert (sample.sources_T[first:last] == Source.ASSISTANT).all()
        whole = reference.ids(messages[: (turn if len(samples) > 1 else turns[-1]) + 1], tools)
        if kind == "bytes":
            shown = reference.text(messages[: (turn if len(samples) > 1 else turns[-1]) + 1], tools)
            assert renderer.tokenizer.decode(sample.ids_T.tolist()) == shown
        if sample.ids_T.tolist() != whole:  # only where the ids of the whole would not do
            theirs = whole[first : last - 1]
            assert (
                whole[:first] != prompt_ids
                or not same_text(renderer.tokenizer.decode(theirs), words, kind)
                or whole[last - 1] not in renderer.format.stop_ids
            )
    (everything,) = renderer.render_samples([SampleRequest(messages, tools, train_on="all")])
    assert isinstance(everything, list)
    assert everything[0].ids_T.tolist() == reference.ids(messages, tools)
    assert everything[0].is_trainable_T.all()
    for sample in (*samples, *everything):
        assert sample.ids_T[1:2].tolist() != [reference.tokenizer.bos_token_id] or form.bos is None
    return len(runs)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("kind", KINDS)
def test_trained_ids_decode_to_the_assistants_text_and_its_stop_token(kind: str, form: Form) -> None:
    check_form(kind, form, range(NUM_QUICK))


@pytest.mark.invariants
@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_conversations_are_rendered_as_their_template_says(kind: str, form: Form) -> None:
    check_form(kind, form, range(NUM_QUICK, NUM_ALL))


def check_form(kind: str, form: Form, indices: range) -> None:
    reference = Reference(kind, form)
    renderer = build_renderer(reference.tokenizer, form.template, form.arguments)
    assert sum(check_conversation(kind, form, renderer, reference, index) for index in indices) >= len(indices)
