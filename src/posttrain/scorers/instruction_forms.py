"""IFEval's constraints on how a text is built: lengths, paragraphs, sections, lists, highlights, two responses.

Builders and checks as in `instruction_texts`; where a published pattern takes quadratic time on a hostile text, the
same is found line by line.
"""

from __future__ import annotations

import re

from posttrain.chat.strict_json import JsonRefusedError, parse_json
from posttrain.scorers.arguments import Arguments, holds
from posttrain.scorers.counting import count_words
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.sentences import split_sentences

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_FENCES = ("```json", "```Json", "```JSON", "```")


def build_number_words(arguments: Arguments) -> Check:
    r"""The text has `relation` `num_words` words (runs of `\w`)."""
    target, relation = arguments.number("num_words"), arguments.relation("relation")

    def check(text: str) -> str | None:
        count = count_words(text)
        return None if holds(count, relation, target) else f"{count} words, not {relation} {target}"

    return check


def build_number_sentences(arguments: Arguments) -> Check:
    """The text has `relation` `num_sentences` sentences (`sentences.split_sentences`, not NLTK's punkt)."""
    target, relation = arguments.number("num_sentences"), arguments.relation("relation")

    def check(text: str) -> str | None:
        count = len(split_sentences(text))
        return None if holds(count, relation, target) else f"{count} sentences, not {relation} {target}"

    return check


def build_number_paragraphs(arguments: Arguments) -> Check:
    """The text has exactly `num_paragraphs` paragraphs with `***` between them; an empty one between two fails."""
    target = arguments.number("num_paragraphs", smallest=1)

    def check(text: str) -> str | None:
        pieces = text.split("***")
        if any(not piece.strip() for piece in pieces[1:-1]):
            return "an empty paragraph"
        count = sum(1 for piece in pieces if piece.strip())
        return None if count == target else f"{count} paragraphs, not {target}"

    return check


def build_paragraph_first_word(arguments: Arguments) -> Check:
    """The text has `num_paragraphs` paragraphs, a blank line apart; the `nth_paragraph` begins with `first_word`."""
    target = arguments.number("num_paragraphs", smallest=1)
    nth = arguments.number("nth_paragraph", smallest=1)
    first_word = arguments.text("first_word").strip().lower()
    if nth > target:
        raise arguments.error(f"'nth_paragraph' is {nth} of {target}", expected="one of the paragraphs")

    def check(text: str) -> str | None:
        pieces = text.split("\n\n")
        count = sum(1 for piece in pieces if piece.strip())
        if count != target:
            return f"{count} paragraphs, not {target}"
        words = pieces[nth - 1].split()  # as published: blank pieces shift the numbering, and fail
        if not words:
            return f"paragraph {nth} is empty"
        word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0].lower()
        return None if word == first_word else f"paragraph {nth} begins with {word!r}, not {first_word!r}"

    return check


def build_placeholders(arguments: Arguments) -> Check:
    """At least `num_placeholders` pairs of square brackets, each within a line."""
    target = arguments.number("num_placeholders")

    def check(text: str) -> str | None:
        count = sum(map(_count_brackets, text.split("\n")))
        return None if count >= target else f"{count} placeholders, not at least {target}"

    return check


def build_postscript(arguments: Arguments) -> Check:
    """A postscript begins with the marker, in either case, with or without a space in it (`postscript_marker`)."""
    marker = arguments.text("postscript_marker").strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    compiled = re.compile(pattern)
    return lambda text: None if compiled.search(text.lower()) else f"no postscript {marker!r}"


def build_bullets(arguments: Arguments) -> Check:
    """Exactly `num_bullets` lines begin with `-`, or with one `*` and something after it."""
    target = arguments.number("num_bullets")

    def check(text: str) -> str | None:
        lines = [line.lstrip() for line in text.split("\n")]
        count = sum(1 for line in lines if line.startswith("-") or (line[:1] == "*" and line[1:2] not in ("", "*")))
        return None if count == target else f"{count} bullet points, not {target}"

    return check


def build_constrained_response(arguments: Arguments) -> Check:
    """The text holds exactly one of the three answers of the paper."""
    del arguments

    def check(text: str) -> str | None:
        # The published checker takes any number of them, so that all three in a row would always be right.
        count = sum(answer in text for answer in ANSWERS)
        return None if count == 1 else f"{count} of the answers allowed, not one"

    return check


def build_highlights(arguments: Arguments) -> Check:
    """At least `num_highlights` spans in `*single*` or `**double**` asterisks, each within a line, none blank."""
    target = arguments.number("num_highlights")

    def check(text: str) -> str | None:
        spans = [*_HIGHLIGHT.findall(text), *_DOUBLE_HIGHLIGHT.findall(text)]
        count = sum(1 for span in spans if span.strip("*").strip())
        return None if count >= target else f"{count} highlights, not at least {target}"

    return check


def build_sections(arguments: Arguments) -> Check:
    """At least `num_sections` headings of the form `<section_spliter> <number>` (the data spells it so)."""
    target = arguments.number("num_sections")
    heading = re.compile(re.escape(arguments.text("section_spliter").strip()) + r"\s?\d+")

    def check(text: str) -> str | None:
        count = sum(1 for _ in heading.finditer(text))
        return None if count >= target else f"{count} sections, not at least {target}"

    return check


def build_json_format(arguments: Arguments) -> Check:
    """The whole text is JSON, with or without a code fence around it; duplicate keys and NaN are none."""
    del arguments

    def check(text: str) -> str | None:
        text = text.strip()
        for fence in _FENCES:
            text = text.removeprefix(fence)
        try:
            parse_json(text.removesuffix("```").strip())
        except JsonRefusedError as error:
            return str(error)
        return None

    return check


def build_title(arguments: Arguments) -> Check:
    """A line holds `<<a title>>` that is not blank."""
    del arguments

    def check(text: str) -> str | None:
        for line in text.split("\n"):
            start, end = line.find("<<"), line.rfind(">>")
            if start >= 0 and end > start + 2 and line[start:end].lstrip("<").rstrip(">").strip():
                return None
        return "no title in <<double angular brackets>>"

    return check


def build_two_responses(arguments: Arguments) -> Check:
    """Two different responses with `******` between them, and nothing else."""
    del arguments

    def check(text: str) -> str | None:
        pieces = [piece.strip() for piece in text.split("******")]
        if any(not piece for piece in pieces[1:-1]):
            return "an empty response between separators"
        responses = [piece for piece in pieces if piece]
        if len(responses) != 2:
            return f"{len(responses)} responses, not 2"
        return "the same response twice" if responses[0] == responses[1] else None

    return check


def _count_brackets(line: str) -> int:
    """Count `[...]` in a line, each from the first open bracket to the next closing one."""
    count = position = 0
    while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
        count, position = count + 1, end + 1
    return count
