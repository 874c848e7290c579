"""Prompts of plain text: no template, for bases and for prompts that are written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.chat.conversations import Tools
from posttrain.chat.encoding import check_encodable
from posttrain.chat.rendering import ChatFormat, Renderer
from posttrain.chat.templates import PLAIN_TEMPLATE, TemplateProgram, build_template_renderer
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.protocols import TextTokenizer
from posttrain.core.records import Message


def join_reply(prompt: str, reply: str) -> str:
    """Return a prompt with the reply after it, a space between them where neither has white space there."""
    is_apart = not prompt or prompt[-1].isspace() or reply[:1].isspace()
    return prompt + ("" if is_apart else " ") + reply


def join_turns(messages: Sequence[Message], *, place: str = "") -> str:
    """Return a conversation as plain text: what the assistant says follows what was asked, all else is a new block.

    Blocks have a blank line between them. Nothing is added to the texts and nothing taken away.

    Args:
        messages: The conversation.
        place: Its name, for the message.

    Raises:
        DataError: A message is more than a text.

    Example: user `2+2=`, assistant `4`, user `3+3=` is `2+2= 4`, a blank line, `3+3=`.
    """
    text = ""
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) or message.get("tool_calls"):
            raise DataError(
                f"a message of the {message.get('role')} that is no text",
                expected="messages of text alone, where the form is text",
                cure="use form: chat for rows with tools or parts",
                place=place,
            )
        if message["role"] == "assistant":
            text = join_reply(text, content)
        else:
            text += ("\n\n" if text else "") + content
    return text


class TextRenderer(Renderer):
    """Renders a prompt of one user message as its text, as it stands, behind the beginning-of-sequence token.

    Unlike in a conversation, the text of a control token is that token: whoever writes a prompt out by hand
    may write a template's tokens. Rows of a file may not: `specials_as_text`.

    Args:
        tokenizer: Text to ids, and back.
        special_tokens: Special tokens by the names that templates use.
        stop_ids: Ids that end a completion.
        specials_as_text: Whether the text of a control token stays text.

    Raises:
        TemplateError: There is no stop token.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        special_tokens: dict[str, str],
        stop_ids: Sequence[int],
        *,
        specials_as_text: bool = False,
    ) -> None:
        template_renderer = build_template_renderer(TemplateProgram(PLAIN_TEMPLATE, special_tokens))
        super().__init__(tokenizer, ChatFormat("", special_tokens, tuple(stop_ids)), template_renderer)
        self._specials_as_text = specials_as_text

    def render_prompts(self, prompts: Sequence[tuple[Sequence[Message], Tools]]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each prompt's text.

        Raises:
            TemplateError: A prompt is more than one text of a user; the error's place is its index.
        """
        return [self._render_text(index, messages) for index, (messages, _) in enumerate(prompts)]

    def _render_text(self, index: int, messages: Sequence[Message]) -> npt.NDArray[np.int32]:
        roles = [message["role"] for message in messages]
        text = messages[0]["content"] if roles == ["user"] else None
        if not isinstance(text, str):
            raise TemplateError(
                f"a prompt of {len(messages)} messages ({', '.join(roles)}) where plain text is asked for",
                expected="a prompt that is one text",
                cure="leave out --raw, so that messages go through the chat template",
                place=f"prompt {index}",
            )
        return np.asarray(self.encode(text), dtype=np.int32)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text behind the beginning-of-sequence token, where the tokenizer has one of its own.

        Raises:
            TemplateError: The text has no UTF-8 form.
        """
        check_encodable(text)
        ids, _ = self.tokenizer.encode_with_offsets(text, specials_as_text=self._specials_as_text)
        if self._bos_id is not None and self._bos_id != self._eos_id and ids[:1] != [self._bos_id]:
            ids = [self._bos_id, *ids]
        return ids
