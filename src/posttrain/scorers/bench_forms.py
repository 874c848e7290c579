"""IFBench's constraints on form: lists, indentation, quotes, brackets, italics, a template, case, white space.

Builders and checks as in `bench_words`.
"""

from __future__ import annotations

import itertools
import re

from posttrain.scorers.arguments import Arguments
from posttrain.scorers.bench_text import EMOJI, PUNCTUATION, drop_punctuation, split_tokens
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.sentences import split_sentences

MIN_BRACKETS, MIN_QUOTES = 5, 3
_TEMPLATE = ("My Answer:", "My Conclusion:", "Future Outlook:")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_THESIS = re.compile(r"<(i|em)>([^<]*)</\1>", re.IGNORECASE)
_LETTERED = re.compile(r"\W*[aA]\W*[bB]\W*[cC]\W*")
_EMOJI_AFTER_END = re.compile(rf"(?<![.!?\u2026])([.!?\u2026]++)\s*+({EMOJI.pattern}(?:\s*+{EMOJI.pattern})*+)")


def build_emoji(arguments: Arguments) -> Check:
    """Every sentence ends with an emoji, before its full stop or after it."""
    del arguments

    def check(text: str) -> str | None:
        moved = _EMOJI_AFTER_END.sub(r" \2\1 ", text)
        for sentence in split_sentences(moved):
            bare = drop_punctuation(sentence).strip()
            last = next(reversed(list(EMOJI.finditer(bare))), None)
            if last is None or last.end() != len(bare):
                return f"a sentence that ends in {bare[-20:]!r}"
        return None

    return check


def build_line_indent(arguments: Arguments) -> Check:
    """Each line that is not blank is indented by more spaces than the one before it, and there are two."""
    del arguments

    def check(text: str) -> str | None:
        depths = [len(line) - len(line.lstrip(" ")) for line in text.split("\n") if line.strip()]
        rises = len(depths) > 1 and all(a < b for a, b in itertools.pairwise(depths))
        return None if rises else f"spaces before the lines: {depths[:9]}"

    return check


def build_list(arguments: Arguments) -> Check:
    """The mark that stands for bullet points occurs at least twice (`sep`)."""
    mark = arguments.text("sep")
    return lambda text: None if text.count(mark) >= 2 else f"{mark!r} {text.count(mark)} times, not twice"


def build_newline(arguments: Arguments) -> Check:
    """Each word stands on a line of its own, punctuation not counted."""
    del arguments

    def check(text: str) -> str | None:
        bare = drop_punctuation(text)
        other = next((line for line in bare.split("\n") if len(line.split()) > 1), None)
        return None if other is None else f"several words on the line {other[:40]!r}"

    return check


def build_sentences_and_bullets(arguments: Arguments) -> Check:
    """At least two sentences that end in a full stop, then at least two lines that begin with `*`, and no more."""
    del arguments

    def check(text: str) -> str | None:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        first = next((number for number, line in enumerate(lines) if line.startswith("*")), len(lines))
        statements = [one for line in lines[:first] for one in split_sentences(line) if one.endswith(".")]
        if len(statements) < 2 or len(lines) - first < 2:
            return f"{len(statements)} sentences with a full stop, then {len(lines) - first} bullet points"
        return None if all(line.startswith("*") for line in lines[first:]) else "text after the bullet points"

    return check


def build_no_whitespace(arguments: Arguments) -> Check:
    """No white space at all."""
    del arguments
    return lambda text: "white space" if any(map(str.isspace, text)) else None


def build_options(arguments: Arguments) -> Check:
    """The whole text is one of the options, those of letters as they are written (`options`)."""
    given = arguments.text("options")
    separator = "/" if "/" in given else r"\bor\b" if re.search(r"\bor\b", given) else ","
    options = [option.strip() for option in re.split(separator, given)]
    is_strict = _LETTERED.match(given) is not None

    def fold(text: str) -> str:
        return text.strip() if is_strict else text.strip(PUNCTUATION + " \n").lower()

    return lambda text: None if fold(text) in map(fold, options) else f"none of {', '.join(options)}"


def build_template(arguments: Arguments) -> Check:
    """The three labels of the template, in its order."""
    del arguments

    def check(text: str) -> str | None:
        places = [text.find(label) for label in _TEMPLATE]
        return None if places[0] >= 0 and places == sorted(places) else "without the labels of the template in order"

    return check


def build_parentheses(arguments: Arguments) -> Check:
    """Round, square and curly brackets nest five deep where the innermost is closed, without a false one between."""
    del arguments

    def check(text: str) -> str | None:
        opened: list[str] = []
        deepest = 0
        for sign in text:
            if sign in "([{":
                opened.append(sign)
                deepest = max(deepest, len(opened))
            elif sign in _PAIRS:
                if not opened or opened.pop() != _PAIRS[sign]:
                    opened, deepest = [], 0
                elif deepest >= MIN_BRACKETS:
                    return None
        return f"brackets that nest {deepest} deep, not {MIN_BRACKETS} and closed"

    return check


def build_quotes(arguments: Arguments) -> Check:
    """Straight quotes nest three deep and close, double and single in turn; an apostrophe counts as a quote."""
    del arguments

    def check(text: str) -> str | None:
        opened: list[str] = []
        deepest = 0
        for sign in text:
            if opened and sign == opened[-1]:
                opened.pop()
                if deepest - len(opened) >= MIN_QUOTES:
                    return None
            elif sign in "\"'":
                opened.append(sign)
                deepest = max(deepest, len(opened))
        return f"quotes that nest {deepest} deep, not {MIN_QUOTES} and closed"

    return check


def build_quote_unquote(arguments: Arguments) -> Check:
    """Something is quoted, no two quotes touch, and the text does not end in one; curly quotes count as straight."""
    del arguments

    def check(text: str) -> str | None:
        bare = "".join(re.sub("[“”]", '"', text).replace("'\"'", "").split())
        if bare.count('"') < 2:
            return "nothing quoted"
        is_last = bare.rstrip("0123456789" + PUNCTUATION.replace('"', "")).endswith('"')
        return "a quotation without an explanation after it" if '""' in bare or is_last else None

    return check


def build_sub_bullets(arguments: Arguments) -> Check:
    """A line begins with `*`, and after each such line, before the next, one with `-`."""
    del arguments

    def check(text: str) -> str | None:
        marks = [line.strip()[0] for line in text.split("\n") if re.match(r"\s*(\*(?!\*)|-)", line)]
        count = marks.count("*")
        starts = "".join(marks).split("*")[1:]
        return None if count and all(starts) else f"{count} bullet points, {sum(map(bool, starts))} with sub-points"

    return check


def build_thesis(arguments: Arguments) -> Check:
    """A statement in italics as HTML has them (`<i>` or `<em>`), not blank, with text after it."""
    del arguments

    def check(text: str) -> str | None:
        found = next((one for one in _THESIS.finditer(text) if one[2].strip()), None)
        return None if found and text[found.end() :].strip() else "no text in italics with other text after it"

    return check


def build_title_case(arguments: Arguments) -> Check:
    """Every word begins with a capital; one with capitals further on, such as `iPhone`, may begin otherwise."""
    del arguments

    def check(text: str) -> str | None:
        words = [token for token in split_tokens(text) if token[0].isalpha()]
        other = next((word for word in words if word[0].islower() and (word.islower() or word[1:].isupper())), None)
        return None if other is None else f"{other[:40]!r} is not in title case"

    return check
