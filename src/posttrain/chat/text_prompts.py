"""Prompts of plain text: no template, for bases and for prompts that are written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.chat.conversations import Tools
from posttrain.chat.encoding import check_encodable
from posttrain.chat.rendering import ChatFormat, Renderer
from posttrain.chat.templates import PLAIN_TEMPLATE, TemplateProgram, build_template_renderer
from posttrain.core.errors import TemplateError
from posttrain.core.protocols import TextTokenizer
from posttrain.core.records import Message


class TextRenderer(Renderer):
    """Renders a prompt of one user message as its text, as it stands, behind the beginning-of-sequence token.

    Unlike in a conversation, the text of a control token is that token: whoever writes a prompt out by hand
    may write a template's tokens.

    Args:
        tokenizer: Text to ids, and back.
        special_tokens: Special tokens by the names that templates use.
        stop_ids: Ids that end a completion.

    Raises:
        TemplateError: There is no stop token.
    """

    def __init__(self, tokenizer: TextTokenizer, special_tokens: dict[str, str], stop_ids: Sequence[int]) -> None:
        template_renderer = build_template_renderer(TemplateProgram(PLAIN_TEMPLATE, special_tokens))
        super().__init__(tokenizer, ChatFormat("", special_tokens, tuple(stop_ids)), template_renderer)

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
        check_encodable(text)
        ids, _ = self.tokenizer.encode_with_offsets(text)
        is_own_bos = self._bos_id is not None and self._bos_id != self._eos_id
        if is_own_bos and ids[:1] != [self._bos_id]:
            ids = [self._bos_id, *ids]  # type: ignore[list-item]  # checked above
        return np.asarray(ids, dtype=np.int32)
