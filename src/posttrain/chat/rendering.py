"""Messages to token ids, each with its source and whether it is trained on: the only place that does it.

For an assistant's turn i, `prompt_i` is the template's rendering of all messages before it with the
generation prompt, `full_i` the rendering up to and with it. What `full_i` adds to `prompt_i`, up to and
with the first stop token, is what the assistant has to write: that, and nothing else, is trained on.

* Where every `full_i` is how the last one begins, a conversation is one sample. Where the template
  rewrites history (past thinking stripped, say), every turn is a sample of its own: ids of `full_i`, of
  which only the last turn is trained on. So it is too where a tokenizer would encode a later prompt
  differently from how it was trained on.
* The ids before a trained turn are the ids of its prompt encoded alone, which is what a sampler is given;
  the trained ids decode to exactly the turn's text and its stop token.
* The text is `tokenizer.apply_chat_template`'s, byte for byte, and the ids are too, with two exceptions:
  control-token text inside messages stays text (see `control_text.py`; this is what transformers does
  under `sanitize_control_tokens`, up to where it cuts), and an answer whose ids would not decode to it is
  encoded as the continuation of its prompt.
* No token is added that the template does not write, so there is at most one BOS.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from posttrain.chat.conversations import (
    Conversation,
    Draft,
    Tools,
    no_stop,
    plan_conversation,
    plan_observation,
    plan_prompt,
    render_conversations,
)
from posttrain.chat.encoding import EncodedText, ExactEncoder, check_encodable
from posttrain.chat.sources import locate_contents
from posttrain.chat.stops import find_stop_ids, probe_template
from posttrain.chat.templates import DEFAULT_DATE, TemplateProgram, prepare_messages
from posttrain.core.errors import TemplateError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import TemplateRenderer, TextTokenizer
from posttrain.core.records import Message, RenderedSample, Source

TrainOn = Literal["assistant", "last_assistant", "all"]
_SOURCES = {
    "system": Source.SYSTEM,
    "developer": Source.SYSTEM,
    "user": Source.USER,
    "assistant": Source.ASSISTANT,
    "tool": Source.TOOL,
}


@dataclass(frozen=True)
class ChatFormat:
    """Everything that decides how messages become text and where a turn ends.

    Made by `build_chat_format`, kept in a policy's manifest, read by whoever renders.

    Args:
        template: The Jinja source.
        special_tokens: Special tokens by the names that templates use (`bos_token`, `eos_token`).
        stop_ids: Ids that end an assistant's turn; sampling stops at any of them.
        date: What the template takes for today, `YYYY-MM-DD`.
        template_arguments: Further names that the template reads (`enable_thinking`).
    """

    template: str
    special_tokens: dict[str, str]
    stop_ids: tuple[int, ...]
    date: str = DEFAULT_DATE
    template_arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def program(self) -> TemplateProgram:
        """What a template renderer needs."""
        return TemplateProgram(self.template, {**self.special_tokens, **self.template_arguments}, self.date)

    @property
    def hash(self) -> str:
        """The hash of all fields."""
        return hash_json(
            {
                "template": self.template,
                "special_tokens": self.special_tokens,
                "stop_ids": list(self.stop_ids),
                "date": self.date,
                "template_arguments": self.template_arguments,
            }
        )


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A conversation to become training samples.

    Args:
        messages: The conversation; contents are strings, None, or lists of text parts.
        tools: JSON schemas of the tools that the conversation may use.
        first_trained: Index of the first message whose turn may be trained on.
        train_on: `assistant`: every assistant turn from there on; `last_assistant`: the last of them;
            `all`: every token of the whole text.
    """

    messages: Sequence[Message]
    tools: Tools = None
    first_trained: int = 0
    train_on: TrainOn = "assistant"


class Renderer:
    """Turns conversations into samples and prompts, for training, sampling and evaluation alike.

    Args:
        tokenizer: Text to ids, and back.
        format: The chat format.
        template_renderer: Renders `format.program`, in this process or in a sandbox.

    Raises:
        TemplateError: The format names no stop token.
    """

    def __init__(self, tokenizer: TextTokenizer, format: ChatFormat, template_renderer: TemplateRenderer) -> None:
        if not format.stop_ids:
            raise no_stop("the chat format names no stop token")
        self.format = format
        self.tokenizer = tokenizer
        self._template_renderer = template_renderer
        self._encoder = ExactEncoder(tokenizer, format.stop_ids)
        self._bos_id = tokenizer.special_tokens.get(format.special_tokens.get("bos_token", ""))
        self._eos_id = tokenizer.special_tokens.get(format.special_tokens.get("eos_token", ""))
        self._headers: Mapping[str, str] | None = None

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[list[RenderedSample] | TemplateError]:
        """Return the samples of each conversation, or the error that stands in their place, in order."""
        conversations = [
            plan_conversation(request.messages, request.tools, request.first_trained, request.train_on)
            for request in requests
        ]
        render_conversations(conversations, self._template_renderer, self._encoder.control)
        drafts = [self._build_drafts(conversation) for conversation in conversations]
        simple = [draft for group in drafts for draft in group if not draft.rendering.ranges]
        encodings = self._encoder.encode_batch([draft.rendering.text for draft in simple])
        for draft, encoded in zip(simple, encodings, strict=True):
            draft.encoded = encoded
        return [self._finish(pair[0], pair[1]) for pair in zip(conversations, drafts, strict=True)]

    def render_prompts(self, prompts: Sequence[tuple[Sequence[Message], Tools]]) -> list[npt.NDArray[np.int32]]:
        """Return the ids that a sampler is given for each (messages, tools), with the generation prompt.

        Raises:
            TemplateError: A conversation cannot be rendered; the error's place is its index.
        """
        conversations = [plan_prompt(messages, tools) for messages, tools in prompts]
        render_conversations(conversations, self._template_renderer, self._encoder.control)
        for index, conversation in enumerate(conversations):
            if conversation.error is not None:
                raise _at(conversation.error, f"prompt {index}")
        renderings = [conversation.renderings[conversation.needed[0]] for conversation in conversations]
        simple = [rendering for rendering in renderings if not rendering.ranges]
        encodings = iter(self._encoder.encode_batch([rendering.text for rendering in simple]))
        ids = []
        for index, rendering in enumerate(renderings):
            try:
                if rendering.ranges:
                    encoded = self._encoder.encode(rendering.text, rendering.ranges)
                else:
                    encoded = next(encodings)
                    self._encoder.check_control_tokens(encoded, rendering.text)
                self._check_start(encoded.ids)
            except TemplateError as error:
                raise _at(error, f"prompt {index}") from None
            ids.append(np.asarray(encoded.ids, dtype=np.int32))
        return ids

    def render_observations(
        self, requests: Sequence[tuple[Sequence[Message], Tools, Sequence[Message]]]
    ) -> list[npt.NDArray[np.int32]]:
        """Return the ids between the stop token of an assistant's turn that calls tools and its next turn.

        Args:
            requests: Messages before the turn, tools, and the tools' replies. The turn itself stays out of it: a
                call without arguments stands in its place.

        Raises:
            TemplateError: The template refuses such a conversation, or writes another prompt once it goes on.
        """
        conversations = [plan_observation(*request) for request in requests]
        render_conversations(conversations, self._template_renderer, self._encoder.control)
        ids = []
        for index, conversation in enumerate(conversations):
            try:
                rendering, start = conversation.find_observation(self._encoder.control, self._encoder.stop_texts)
                encoded = self._encoder.encode(rendering.text, rendering.ranges)
            except TemplateError as error:
                raise _at(error, f"reply {index}") from None
            ids.append(np.asarray(encoded.ids[bisect_left(encoded.starts, start) :], dtype=np.int32))
        return ids

    def render_text(self, messages: Sequence[Message]) -> str:
        """Return a conversation as text, with what begins the assistant's next turn: for who has tokens of its own.

        Raises:
            TemplateError: The template refuses it.
        """
        request = {"messages": prepare_messages(messages), "tools": None, "add_generation_prompt": True}
        [found] = self._template_renderer.render([request])
        if isinstance(found, Exception):
            raise found
        return found

    def render_document(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> RenderedSample:
        """Return a raw document as one sample, all of it trained on.

        Control-token text inside the document is ordinary text. A tokenizer whose BOS is its EOS (GPT-2's)
        gets it at the end only.

        Raises:
            TemplateError: The text has no UTF-8 form.
        """
        check_encodable(text)
        ids, _ = self.tokenizer.encode_with_offsets(text, specials_as_text=True)
        if add_bos and self._bos_id is not None and self._bos_id != self._eos_id:
            ids = [self._bos_id, *ids]
        if add_eos and self._eos_id is not None:
            ids = [*ids, self._eos_id]
        return RenderedSample(
            np.asarray(ids, dtype=np.int32),
            np.full(len(ids), Source.DOCUMENT, dtype=np.uint8),
            np.ones(len(ids), dtype=np.bool_),
        )

    def _build_drafts(self, conversation: Conversation) -> list[Draft]:
        """Return a conversation's drafts; none, and the error kept, where it cannot be trained on."""
        if conversation.error is not None:
            return []
        try:
            return conversation.build_drafts(self._encoder.control, self._encoder.stop_texts)
        except TemplateError as error:
            conversation.error = error
            return []

    def _finish(self, conversation: Conversation, drafts: list[Draft]) -> list[RenderedSample] | TemplateError:
        if conversation.error is not None:
            return conversation.error
        try:
            samples = [self._build_sample(draft) for draft in drafts]
            if samples == [None] and len(drafts[0].spans or []) > 1:
                drafts = conversation.split(drafts[0])
                samples = [self._build_sample(draft) for draft in drafts]
            return [
                sample or self._build_sample_in_pieces(draft) for sample, draft in zip(samples, drafts, strict=True)
            ]
        except TemplateError as error:
            return error

    def _build_sample(self, draft: Draft) -> RenderedSample | None:
        """Return the sample of one encoding of the whole text, or None if its turns do not come out exact."""
        text, ranges = draft.rendering.text, draft.rendering.ranges
        encoded = draft.encoded or self._encoder.encode(text, ranges)
        self._encoder.check_control_tokens(encoded, text, ranges)
        if draft.spans is None:
            return self._pack(draft, encoded, [(0, len(encoded.ids))])
        trainable = []
        for span in draft.spans:
            found = self._encoder.find_trainable(encoded, text, span, ranges)
            if found is None:
                return None
            trainable.append(found)
        return self._pack(draft, encoded, trainable)

    def _build_sample_in_pieces(self, draft: Draft) -> RenderedSample:
        """Return the sample of a turn whose prompt and answer are encoded one after the other."""
        assert draft.spans is not None
        (span,) = draft.spans
        encoded, trainable = self._encoder.encode_turn(draft.rendering.text, span, draft.rendering.ranges)
        return self._pack(draft, encoded, [trainable])

    def _pack(self, draft: Draft, encoded: EncodedText, trainable: Sequence[tuple[int, int]]) -> RenderedSample:
        """Return ids, sources and flags as arrays."""
        self._check_start(encoded.ids)
        if self._headers is None:
            self._headers = probe_template(self._template_renderer, self.tokenizer.special_tokens).headers
        num_tokens = len(encoded.ids)
        sources_T = np.full(num_tokens, Source.TEMPLATE, dtype=np.uint8)
        for start, end, role in locate_contents(draft.rendering.text, draft.messages, self._headers):
            first, last = bisect_left(encoded.starts, start), bisect_left(encoded.starts, end)
            sources_T[first:last] = _SOURCES.get(role, Source.TEMPLATE)
        is_trainable_T = np.zeros(num_tokens, dtype=np.bool_)
        for first, last in trainable:
            is_trainable_T[first:last] = True
            if draft.spans is not None:
                sources_T[first:last] = Source.ASSISTANT
        return RenderedSample(np.asarray(encoded.ids, dtype=np.int32), sources_T, is_trainable_T)

    def _check_start(self, ids: Sequence[int]) -> None:
        """Check that a text does not begin with two BOS tokens.

        Raises:
            TemplateError: It does.
        """
        if self._bos_id is not None and self._bos_id != self._eos_id and list(ids[:2]) == [self._bos_id] * 2:
            raise TemplateError(
                "the template writes the beginning-of-sequence token twice",
                expected="at most one at the start",
                cure="take one of them out of the template",
                place="chat template",
            )


def build_chat_format(
    program: TemplateProgram,
    template_renderer: TemplateRenderer,
    tokenizer: TextTokenizer,
    *,
    eos_ids: Sequence[int],
    generation_eos_ids: Sequence[int] = (),
) -> ChatFormat:
    """Return the format of a template, its stop tokens found by rendering a probe.

    Args:
        program: Template, special tokens and arguments (`program.variables`), date.
        template_renderer: Renders that program.
        tokenizer: Knows the control tokens.
        eos_ids: The tokenizer's end of sequence.
        generation_eos_ids: What the model's generation config names.
    """
    turn_end = probe_template(template_renderer, tokenizer.special_tokens).turn_end
    turn_end_ids = [] if turn_end is None else [tokenizer.special_tokens[turn_end]]
    known = set(tokenizer.special_tokens)
    return ChatFormat(
        template=program.template,
        special_tokens={name: text for name, text in program.variables.items() if _is_token(text, known)},
        stop_ids=find_stop_ids(eos_ids, generation_eos_ids, turn_end_ids),
        date=program.date,
        template_arguments={name: text for name, text in program.variables.items() if not _is_token(text, known)},
    )


def _is_token(value: object, known: set[str]) -> bool:
    return isinstance(value, str) and value in known


def _at(error: TemplateError, place: str) -> TemplateError:
    return TemplateError(error.found, expected=error.expected, cure=error.cure, place=place)
