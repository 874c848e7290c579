"""Faults of form that make a row a bad demonstration: each rule names what it found, or nothing.

| rule | found where |
| --- | --- |
| `empty` | prompt or answer has no letter and no digit |
| `truncated` | an answer of 40 words and more ends within a sentence: with a comma, a joining word, an open bracket |
| `code fence` | the answer opens a code block with three backquotes and never closes it |
| `placeholder` | a template's hole was never filled: `{{name}}`, `[INSERT NAME]`, `<your text here>` |
| `role leak` | the answer goes on as another speaker: a line `User:`, `### Instruction`, `<|im_start|>` |
| `html debris` | tags and entities of a page: `&nbsp;`, `<br />`; code, and rows about pages, are not looked at |

What they can NOT tell: whether the answer is right. Code outside of a code block is read as prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from posttrain.data.curated_text import CuratedText, split_words

MIN_TRUNCATED_WORDS = 40
"""Shorter answers may be phrases, which end in any word."""

_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_OPEN_END = re.compile(
    r"(?:[,(\[]|\b(?:and|or|the|a|an|of|to|with|for|in|by|that|which|because|but|is|are|was|were|as|from))\Z", re.I
)
_PLACEHOLDER = re.compile(
    r"\{\{\s*\w[\w .]{0,40}\}\}|\[(?:INSERT|YOUR|ADD|ENTER|PLACEHOLDER)\b[^\]\n]{0,60}\]|"
    r"<(?:insert|your|enter|add) [^>\n]{1,60}>",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"^[ \t]*(?:#{1,4} ?(?:Instruction|Input|Response|Human|Assistant|User)\b:?[ \t]*$|"
    r"(?:Human|User|Assistant|### ?Human|### ?Assistant)[ \t]*:)|"
    r"<\|(?:im_start|im_end|user|assistant|system|endoftext|end|eot_id|start_header_id)\|>|\[/?INST\]|<</?SYS>>",
    re.MULTILINE,
)
_ABOUT_PAGES = re.compile(r"\b(?:html|css|javascript|php|react|web ?(?:site|page|app))\b|<!doctype", re.IGNORECASE)
_HTML = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|#\d{2,5});|<br ?/?>|</?(?:div|span|p|font|td|tr|li|ul)(?: [^<>]*)?>",
    re.IGNORECASE,
)


def find_empty(text: CuratedText) -> str:
    """Return what of a row says nothing."""
    if text.example is not None and text.example.kind != "text" and not split_words(text.prompt):
        return "the prompt has no word" if text.prompt.strip() else "the prompt is empty"
    called = text.example is not None and any(message.get("tool_calls") for message in text.example.messages)
    if text.has_answer and not called and not any(c.isalnum() for c in text.answer):
        return "the answer has no word" if text.answer.strip() else "the answer is empty"
    return ""


def find_truncated(text: CuratedText) -> str:
    """Return the end of an answer that looks cut."""
    end = text.answer.rstrip()
    if not text.has_answer or end.endswith("```") or len(split_words(_CODE.sub(" ", end))) < MIN_TRUNCATED_WORDS:
        return ""
    return f"it ends in '... {end[-30:]}'" if _OPEN_END.search(end[-40:]) else ""


def find_open_fence(text: CuratedText) -> str:
    """Return how many fences a text has, if one is not closed."""
    for answer in text.answers:
        count = len(_FENCE.findall(answer))
        if count % 2:
            return f"{count} fences"
    return ""


def find_placeholder(text: CuratedText) -> str:
    """Return the first hole of a template in prompt or answer, code blocks aside."""
    return _show(_PLACEHOLDER.search(_CODE.sub(" ", text.joined)))


def find_role_leak(text: CuratedText) -> str:
    """Return where an answer goes on as another speaker."""
    return next((found for answer in text.answers if (found := _show(_ROLE.search(_CODE.sub(" ", answer))))), "")


def find_html(text: CuratedText) -> str:
    """Return the first tag or entity of a page in an answer, code blocks and rows about pages aside."""
    if _ABOUT_PAGES.search(text.joined):
        return ""
    return next((found for answer in text.answers if (found := _show(_HTML.search(_CODE.sub(" ", answer))))), "")


FORMAT_RULES: dict[str, Callable[[CuratedText], str]] = {
    "empty": find_empty,
    "truncated": find_truncated,
    "code fence": find_open_fence,
    "placeholder": find_placeholder,
    "role leak": find_role_leak,
    "html debris": find_html,
}


def _show(match: re.Match[str] | None) -> str:
    return "" if match is None else f"'{match[0].strip()[:60]}'"
