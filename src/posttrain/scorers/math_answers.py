r"""Finding the one answer that a completion declares.

What is read, in the order of the setting, the first kind that is there deciding alone (a box that cannot be read is
not made good by a sentence):

* `boxed`: the last `\boxed{...}` or `\fbox{...}`.
* `hashes`: the last line `#### 42`, GSM8K's form; a Markdown heading (`#### Step 1`) is none.
* `phrase`: the last `The answer is X`, `Answer: X` or `A: X`.
* `last_number`: the last number of the text. A policy that ends in a list of guesses is read too: for few-shot
  evaluation of base models.
* `whole`: all of the text.

Reasoning (`reasoning.ReasoningBlock`) is never read, nor is a fenced block of code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock, strip_reasoning

Extraction = Literal["boxed", "hashes", "phrase", "last_number", "whole"]
EXTRACTIONS: tuple[Extraction, ...] = ("boxed", "hashes", "phrase", "last_number", "whole")
MAX_DIFFERING = 3
"""Boxes (or other declarations) with different content; more is a spray of guesses."""
MAX_TEXT_CHARACTERS = 1_000_000
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_HEADING = re.compile(r"\d+[.):]\s+\S|[*_#]*(?:step|part|case|solution|conclusion|final|answer)\b", re.IGNORECASE)
_PHRASE = re.compile(
    r"\banswer[ \t]*(?:\*\*)?[ \t]*(?:is|:|=)(?:[ \t]*:)?(?:\*\*)?[ \t]*\n?[ \t]*(?=\S)"
    r"|^[ \t]*(?P<short>(?-i:A):)[ \t]*(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?|(?<![\w.])[-−]?\$?\.\d+")
_BETWEEN_HEDGES = re.compile(r"(?:[\s$.,;/*]|\\[()\[\]]|\bor\b|\band\b|\beither\b|\balso\b|\bmaybe\b)*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """A declared answer: its text as written and which way of declaring it was read."""

    text: str
    how: Extraction


@dataclass(frozen=True, slots=True)
class NotFound:
    """No answer that may be read, and why; `is_hedge` where several were declared instead of one."""

    why: str
    is_hedge: bool = False


def find_answer(
    text: str, extraction: tuple[Extraction, ...], *, reasoning: ReasoningBlock | None = ANSWER_ONLY
) -> Found | NotFound:
    """Return the answer that a completion declares, or why there is none.

    Args:
        text: The completion's text.
        extraction: Ways of declaring an answer, the first that is present decides.
        reasoning: The block that is no part of the answer.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        return NotFound(f"{len(text)} characters, more than {MAX_TEXT_CHARACTERS}")
    spoken = strip_reasoning(text, reasoning)
    if spoken is None:
        return NotFound("the reasoning does not end, or not once, so nothing after it is an answer")
    spoken = _drop_code(spoken)
    for how in extraction:
        found = _FINDERS[how](spoken)
        if found is not None:
            return found
    return NotFound(f"no answer declared (looked for: {', '.join(extraction)})")


def _drop_code(text: str) -> str:
    """Remove fenced blocks; one that is not closed goes on to the end."""
    pieces, is_code = [], False
    for piece in _FENCE.split(text):
        if not is_code:
            pieces.append(piece)
        is_code = not is_code
    return "\n".join(pieces)


def _find_boxed(text: str) -> Found | NotFound | None:
    contents: list[str] = []
    spans: list[tuple[int, int]] = []
    position = 0
    while (mark := _BOX.search(text, position)) is not None:
        if mark.end() >= len(text):
            return NotFound("the last box is empty")
        end = _close_brace(text, mark.end()) if text[mark.end()] == "{" else mark.end() + 1
        if end is None:
            return NotFound("the last box is not closed")
        content = text[mark.end() + 1 : end - 1] if text[mark.end()] == "{" else text[mark.end()]
        if _BOX.search(content):
            return NotFound("a box inside a box")
        contents.append(content.strip())
        spans.append((mark.start(), end))
        position = end
    if not contents:
        return None
    if not contents[-1]:
        return NotFound("the last box is empty")
    return _check_spray(contents, "boxed") or _check_neighbours(text, contents, spans) or Found(contents[-1], "boxed")


def _close_brace(text: str, start: int) -> int | None:
    """Return the position after the brace that closes the one at `start`; escaped braces do not count."""
    depth, position = 0, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        depth += (character == "{") - (character == "}")
        position += 1
        if depth == 0:
            return position
    return None


def _check_spray(contents: list[str], how: str) -> NotFound | None:
    count = len({"".join(content.split()) for content in contents if content})
    if count > MAX_DIFFERING:
        return NotFound(f"{count} different answers declared ({how}), more than {MAX_DIFFERING}", is_hedge=True)
    return None


def _check_neighbours(text: str, contents: list[str], spans: list[tuple[int, int]]) -> NotFound | None:
    """Two different boxes with nothing but `or` between them are one answer that hedges."""
    if len(contents) < 2 or "".join(contents[-1].split()) == "".join(contents[-2].split()) or not contents[-2]:
        return None
    between = text[spans[-2][1] : spans[-1][0]]
    if len(between) < 40 and "\n\n" not in between and _BETWEEN_HEDGES.fullmatch(between):
        return NotFound(f"two answers side by side, {contents[-2]!r} and {contents[-1]!r}", is_hedge=True)
    return None


def _find_hashes(text: str) -> Found | NotFound | None:
    contents = [content.strip() for content in _HASHES.findall(text) if not _HEADING.match(content)]
    if not contents:
        return None
    return _check_spray(contents, "hashes") or Found(contents[-1], "hashes")


def _find_phrase(text: str) -> Found | NotFound | None:
    has_options = re.search(r"^[ \t]*B:", text, re.MULTILINE)  # then `A:` is the first of them
    marks = [mark for mark in _PHRASE.finditer(text) if not (mark["short"] and has_options)]
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    said = [text[mark.end() : end].partition("\n")[0] for mark, end in zip(marks, ends, strict=True)]
    contents = [content for content in map(_cut_sentence, said) if content]
    if not contents:
        return None
    between = text[marks[-2].end() : marks[-1].start()] if len(marks) > 1 else ""
    if re.search(r"\bor\b[^.\n]*$", between) and contents[-1] not in contents[:-1]:
        return NotFound(f"two answers side by side, the second {contents[-1]!r}", is_hedge=True)
    return _check_spray(contents, "phrase") or Found(contents[-1], "phrase")


def _cut_sentence(text: str) -> str:
    """Return what stands before the end of the sentence, without Markdown's stars and a closing full stop."""
    text = re.split(r"(?<=[\w)}\]$%°*])[.!](?:\s|$)", text.strip(), maxsplit=1)[0]
    text = text.strip().strip("*`").strip()
    if text.startswith("$") and (end := text.find("$", 1)) > 0 and re.fullmatch(r"[\s.,;]*", text[end + 1 :]):
        text = text[: end + 1]
    return text.rstrip(".,;").strip()


def _find_last_number(text: str) -> Found | None:
    found = _NUMBER.findall(text)
    return Found(found[-1].rstrip(","), "last_number") if found else None


def _find_whole(text: str) -> Found | None:
    return Found(text.strip(), "whole") if text.strip() else None


_FINDERS = {
    "boxed": _find_boxed,
    "hashes": _find_hashes,
    "phrase": _find_phrase,
    "last_number": _find_last_number,
    "whole": _find_whole,
}
