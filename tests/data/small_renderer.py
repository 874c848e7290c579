"""A renderer of one token a character, so that tests can count tokens by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.chat.rendering import SampleRequest
from posttrain.core.errors import TemplateError
from posttrain.core.records import RenderedSample, Source
from posttrain.data.tokenized import TokenizedData, TokenizeSettings, load_token_rows
from posttrain.data.tokenizing import DataPlace

ROLE_SOURCES = {"system": Source.SYSTEM, "user": Source.USER, "assistant": Source.ASSISTANT, "tool": Source.TOOL}
BOS, EOS, STOP = 1, 2, 3
REFUSED = "REFUSED BY THE TEMPLATE"


class SmallRenderer:
    """Writes each message as a role token (10 to 13), its characters, and for an answer the stop token."""

    def __init__(self) -> None:
        self.num_rendered = 0

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[list[RenderedSample] | TemplateError]:
        self.num_rendered += len(requests)
        return [self._render(request) for request in requests]

    def _render(self, request: SampleRequest) -> list[RenderedSample] | TemplateError:
        last = max((i for i, m in enumerate(request.messages) if m["role"] == "assistant"), default=-1)
        ids, sources, trainable = [BOS], [Source.TEMPLATE], [False]
        for index, message in enumerate(request.messages):
            content = message["content"] or str(message.get("tool_calls", ""))
            if REFUSED in content:
                return TemplateError("the template refuses this row", cure="drop the row")
            source = ROLE_SOURCES[message["role"]]
            is_answer = message["role"] == "assistant"
            is_trained = is_answer and index >= request.first_trained
            is_trained &= request.train_on == "assistant" or index == last
            written = [ord(character) + 100 for character in content] + [STOP] * is_answer
            ids += [10 + int(source), *written]
            sources += [Source.TEMPLATE] + [source] * len(written)
            trainable += [False] + [is_trained] * len(written)
        return [make_sample(ids, sources, trainable)]

    def render_document(self, text: str) -> RenderedSample:
        self.num_rendered += 1
        if REFUSED in text:
            raise TemplateError("the template refuses this row", cure="drop the row")
        ids = [BOS, *(ord(character) + 100 for character in text), EOS]
        return make_sample(ids, [Source.DOCUMENT] * len(ids), [True] * len(ids))


def make_sample(ids: Sequence[int], sources: Sequence[int], trainable: Sequence[bool]) -> RenderedSample:
    return RenderedSample(np.array(ids, np.int32), np.array(sources, np.uint8), np.array(trainable, np.bool_))


def read_text(ids: Sequence[int]) -> str:
    """Return the characters among a small renderer's tokens."""
    return "".join(chr(int(index) - 100) for index in ids if index >= 100)


def make_settings(**changes: Any) -> TokenizeSettings:
    return TokenizeSettings(**{"renderer_hash": "small", "tokenizer_hash": "characters", **changes})


def tokenize(
    sources: Sequence[Any], root: Path, renderer: SmallRenderer | None = None, **changes: Any
) -> TokenizedData:
    """Tokenize sources below a folder with its `cache` folder; `changes` are settings."""
    return load_token_rows(
        sources, renderer or SmallRenderer(), make_settings(**changes), DataPlace(root, root / "cache")
    )
