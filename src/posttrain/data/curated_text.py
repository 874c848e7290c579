"""What filters of a curation read of a row: what is asked, what is answered, and pieces of both."""

from __future__ import annotations

from dataclasses import dataclass, field

import regex

from posttrain.core.records import Example, Message

_WORD = regex.compile(r"[\p{L}\p{M}\p{Nd}]+")


@dataclass(frozen=True, slots=True)
class CuratedText:
    """The texts of one row.

    Made by `read_curated_text`, read by filters. The prompt is everything before the last answer, the answer the
    assistant's last message (of a preference the chosen one, of a document all of it); `answers` are all messages of
    the assistant. A row of a prompt alone has no answer, and is not judged by one (`has_answer`).

    Example: `{"prompt": "2 + 2?", "completion": "4"}` has the prompt `2 + 2?` and the answer `4`.
    """

    row_id: str
    prompt: str
    answer: str
    answers: tuple[str, ...] = ()
    has_answer: bool = True
    rejected: str | None = None
    example: Example | None = field(default=None, compare=False)

    @property
    def joined(self) -> str:
        """Prompt and answer, one below the other."""
        return f"{self.prompt}\n{self.answer}"


def read_curated_text(example: Example) -> CuratedText:
    """Return what filters read of a row."""
    if example.kind == "text":
        return CuratedText(example.row_id, "", example.text, (example.text,), example=example)
    messages = [*example.messages, *example.chosen]
    last = next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "assistant"), None)
    has_answer = example.kind != "prompt" and last is not None
    answers = tuple(_read(message) for message in messages if message["role"] == "assistant")
    before = messages if last is None else messages[:last]
    prompt = "\n".join(_read(message) for message in before)
    answer = _read(messages[last]) if has_answer and last is not None else ""
    rejected = "\n".join(map(_read, example.rejected)) if example.kind == "preference" else None
    return CuratedText(example.row_id, prompt, answer, answers, has_answer, rejected, example)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    words: list[str] = _WORD.findall(text.casefold())
    return words


def _read(message: Message) -> str:
    parts = [message.get("content"), *(str(call["function"]) for call in message.get("tool_calls") or ())]
    return "\n".join(part for part in parts if isinstance(part, str) and part)
