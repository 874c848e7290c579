"""Which renderings a conversation needs, and which texts with which turns they make."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.chat.control_text import ControlText, Range
from posttrain.chat.encoding import EncodedText, Span, check_encodable
from posttrain.chat.templates import prepare_messages
from posttrain.core.errors import TemplateError
from posttrain.core.protocols import TemplateRenderer
from posttrain.core.records import Message

Tools = list[dict[str, Any]] | None
CALL_ID = "000000000"
"""Names a call where a template asks for a name; some take nine letters and digits and nothing else."""
CALLING: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": CALL_ID, "type": "function", "function": {"name": "probe", "arguments": {}}}],
}
"""A turn that calls a tool."""


@dataclass(slots=True)
class Rendering:
    """One rendered text, and the [start, end) characters where a message wrote control text into it."""

    text: str
    ranges: tuple[Range, ...] = ()


@dataclass(slots=True)
class Draft:
    """A text to become one sample; `spans` is None where every token of it is trained on."""

    rendering: Rendering
    messages: Sequence[Message]
    spans: list[Span] | None
    encoded: EncodedText | None = None


@dataclass(slots=True)
class Conversation:
    """A conversation on its way to samples.

    Args:
        messages: Prepared messages.
        tools: JSON schemas of the tools.
        turns: Indices of the assistant messages to be trained on; None for the whole text.
        needed: The renderings that it takes, by (number of messages, with generation prompt).
        renderings: What the template made, by the same.
        error: Why there will be no sample.
    """

    messages: list[Message]
    tools: Tools
    turns: list[int] | None
    needed: list[tuple[int, bool]] = field(default_factory=list)
    renderings: dict[tuple[int, bool], Rendering] = field(default_factory=dict)
    error: TemplateError | None = None

    def build_drafts(self, control: ControlText, stop_texts: Collection[str]) -> list[Draft]:
        """Return one draft for the conversation, or one for each turn where the template rewrites history.

        Raises:
            TemplateError: A turn has no beginning or no end that can be trained on.
        """
        last = self.renderings[self.needed[-1]]
        check_encodable(last.text)
        if self.turns is None:
            return [Draft(last, self.messages, None)]
        spans = [self._find_span(turn, control, stop_texts) for turn in self.turns]
        fulls = [self.renderings[turn + 1, False].text for turn in self.turns]
        if all(last.text.startswith(full[: span.stop_end]) for full, span in zip(fulls, spans, strict=True)):
            return [Draft(last, self.messages[: self.turns[-1] + 1], spans)]
        return self._draft_turns(spans)

    def split(self, draft: Draft) -> list[Draft]:
        """Return one draft for each turn of a draft that holds them all."""
        return self._draft_turns(draft.spans or [])

    def _draft_turns(self, spans: Sequence[Span]) -> list[Draft]:
        return [
            Draft(self.renderings[turn + 1, False], self.messages[: turn + 1], [span])
            for turn, span in zip(self.turns or [], spans, strict=True)
        ]

    def _find_span(self, turn: int, control: ControlText, stop_texts: Collection[str]) -> Span:
        """Return the characters that the assistant has to write in a turn."""
        full = self.renderings[turn + 1, False]
        start, stop = self._find_stop(turn, full, control, stop_texts)
        rest = full.text[stop.end() :]
        if control.pattern.sub("", rest).strip():
            raise TemplateError(
                f"the template writes {_show(rest)} after the stop token of message {turn}",
                expected="nothing but white space and control tokens after the stop token",
                cure="correct the stop tokens, or name another template with chat.template",
            )
        return Span(start, stop.start(), stop.end())

    def find_observation(self, control: ControlText, stop_texts: Collection[str]) -> tuple[Rendering, int]:
        """Return the whole rendering of a planned observation, and the character at which the observation begins.

        Raises:
            TemplateError: The conversation cannot be rendered so that it goes on where the turn ended.
        """
        if self.error is not None:
            raise self.error
        turn, whole = self.needed[0][0], self.renderings[self.needed[1]]
        _, stop = self._find_stop(turn, whole, control, stop_texts)
        return whole, stop.end()

    def _find_stop(
        self, turn: int, full: Rendering, control: ControlText, stop_texts: Collection[str]
    ) -> tuple[int, re.Match[str]]:
        """Return where a turn begins in a rendering that holds it, and the stop token that ends it."""
        prompt = self.renderings[turn, True].text
        if not full.text.startswith(prompt):
            raise _no_prefix(turn, prompt, full.text)
        for match in control.find(full.text, len(prompt), full.ranges):
            if match.group() in stop_texts:
                return len(prompt), match
        raise no_stop(f"the template puts no stop token after the assistant's turn (message {turn})")


def plan_conversation(messages: Sequence[Message], tools: Tools, first_trained: int, train_on: str) -> Conversation:
    """Return a conversation that knows its turns and the renderings it needs, or the error that it has none."""
    try:
        prepared = prepare_messages(messages)
    except TemplateError as error:
        return Conversation([], tools, None, error=error)
    if train_on == "all" and prepared:
        return Conversation(prepared, tools, None, needed=[(len(prepared), False)])
    turns = [i for i, message in enumerate(prepared) if i >= first_trained and message.get("role") == "assistant"]
    if train_on == "last_assistant":
        turns = turns[-1:]
    if not turns:
        no_turn = TemplateError(
            f"no assistant message to train on among {len(prepared)} message(s), counted from {first_trained}",
            expected="at least one message with the role 'assistant'",
            cure="drop the row, or train on all of its text with train_on: all",
        )
        return Conversation(prepared, tools, turns, error=no_turn)
    needed = [key for turn in turns for key in ((turn, True), (turn + 1, False))]
    return Conversation(prepared, tools, turns, needed=needed)


def plan_prompt(messages: Sequence[Message], tools: Tools) -> Conversation:
    """Return a conversation that is to be answered."""
    try:
        prepared = prepare_messages(messages)
    except TemplateError as error:
        return Conversation([], tools, None, error=error)
    return Conversation(prepared, tools, None, needed=[(len(prepared), True)])


def plan_observation(messages: Sequence[Message], tools: Tools, replies: Sequence[Message]) -> Conversation:
    """Return a conversation that goes on after the tools' replies to a call."""
    try:
        before = prepare_messages(messages)
        prepared = prepare_messages([*messages, CALLING, *({"tool_call_id": CALL_ID, **reply} for reply in replies)])
    except TemplateError as error:
        return Conversation([], tools, None, error=error)
    return Conversation(prepared, tools, None, needed=[(len(before), True), (len(prepared), True)])


def render_conversations(
    conversations: Iterable[Conversation], renderer: TemplateRenderer, control: ControlText
) -> None:
    """Fill in the renderings that conversations need, or the error of the first that failed.

    A conversation that holds the text of control tokens is rendered a second time without it, to learn
    which of them the template wrote.
    """
    requests: list[dict[str, Any]] = []
    owners: list[tuple[Conversation, tuple[int, bool], str]] = []
    for conversation in conversations:
        if conversation.error is not None:
            continue
        words = [conversation.messages, conversation.tools]
        try:
            filler = control.choose_filler(words) if control.occurs_in(words) else ""
        except TemplateError as error:
            conversation.error = error
            continue
        for key in conversation.needed:
            request = {
                "messages": conversation.messages[: key[0]],
                "tools": conversation.tools,
                "add_generation_prompt": key[1],
            }
            requests.append(request)
            owners.append((conversation, key, ""))
            if filler:
                requests.append(control.mask(request, filler))
                owners.append((conversation, key, filler))
    for (conversation, key, filler), text in zip(owners, renderer.render(requests), strict=True):
        if conversation.error is None:
            conversation.error = _take(conversation.renderings, key, text, filler, control)


def _take(
    renderings: dict[tuple[int, bool], Rendering],
    key: tuple[int, bool],
    text: str | Exception,
    filler: str,
    control: ControlText,
) -> TemplateError | None:
    """Keep a text, or add its ranges to the one that is kept already."""
    if isinstance(text, TemplateError):
        return text
    if isinstance(text, Exception):
        return TemplateError(f"the chat template failed: {text}", cure="drop or correct the row")
    if not filler:
        renderings[key] = Rendering(text)
        return None
    try:
        renderings[key].ranges = control.find_ranges(renderings[key].text, text, filler)
    except TemplateError as error:
        return error
    return None


def no_stop(found: str) -> TemplateError:
    """Return the error for a turn that nothing ends."""
    return TemplateError(
        found,
        expected="an end-of-turn token after every assistant turn: without one the model never learns to stop",
        cure="use chat.template: plain, or a template that writes the tokenizer's eos token after each answer",
        place="chat template",
    )


def _no_prefix(turn: int, prompt: str, full: str) -> TemplateError:
    length = next((i for i, pair in enumerate(zip(prompt, full, strict=False)) if pair[0] != pair[1]), len(full))
    return TemplateError(
        f"the generation prompt goes on with {_show(prompt[length:])} where the assistant's turn (message {turn}) "
        f"is rendered as {_show(full[length:])}",
        expected="a rendered turn that begins with the generation prompt, as a sampler's completion does",
        cure="use a training variant of the template, set its arguments (chat.arguments), give the turn the "
        "reasoning_content that the template asks for, or use chat.template: plain",
        place="chat template",
    )


def _show(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
