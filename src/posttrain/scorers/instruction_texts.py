"""IFEval's constraints on what a text says: keywords, letters, case, language, punctuation, its start and end.

Each builder reads its arguments once and returns a check: None where the text follows, else a sentence part that says
what was found. All checks are linear in the text's length. Published semantics are kept unless a comment says why not
(Zhou et al. 2023, arXiv 2311.07911, and the authors' checkers).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from posttrain.scorers.arguments import Arguments, holds
from posttrain.scorers.counting import find_capital_words, has_words
from posttrain.scorers.language import detect_language

Check = Callable[[str], str | None]


def build_keywords_exist(arguments: Arguments) -> Check:
    """Every keyword occurs, in any case, also inside a longer word (`keywords`)."""
    keywords = arguments.texts("keywords")

    def check(text: str) -> str | None:
        lowered = text.lower()
        missing = [word for word in keywords if word.lower() not in lowered]
        return f"without {', '.join(map(repr, missing))}" if missing else None

    return check


def build_keyword_frequency(arguments: Arguments) -> Check:
    """A keyword occurs `relation` `frequency` times, in any case, also inside longer words (`keyword`)."""
    keyword = arguments.text("keyword").strip().lower()
    frequency, relation = arguments.number("frequency"), arguments.relation("relation")

    def check(text: str) -> str | None:
        count = text.lower().count(keyword)
        return None if holds(count, relation, frequency) else f"{keyword!r} {count} times, not {relation} {frequency}"

    return check


def build_forbidden_words(arguments: Arguments) -> Check:
    """None of the words occurs as a whole word, in any case (`forbidden_words`)."""
    words = arguments.texts("forbidden_words")
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words), re.IGNORECASE)

    def check(text: str) -> str | None:
        found = pattern.search(text)
        return f"{found[0]!r} is forbidden" if found else None

    return check


def build_letter_frequency(arguments: Arguments) -> Check:
    """A letter or sign occurs `let_relation` `let_frequency` times, in either case (`letter`)."""
    letter = arguments.text("letter").strip().lower()
    if len(letter) != 1:
        raise arguments.error(f"'letter' of '{arguments.owner}' is {letter!r}", expected="one character")
    frequency, relation = arguments.number("let_frequency"), arguments.relation("let_relation")

    def check(text: str) -> str | None:
        count = text.lower().count(letter)
        return None if holds(count, relation, frequency) else f"{letter!r} {count} times, not {relation} {frequency}"

    return check


def build_capital_words(arguments: Arguments) -> Check:
    """Words all in capitals occur `capital_relation` `capital_frequency` times; a hyphenated word is one."""
    frequency, relation = arguments.number("capital_frequency"), arguments.relation("capital_relation")

    def check(text: str) -> str | None:
        count = len(find_capital_words(text))
        return None if holds(count, relation, frequency) else f"{count} words in capitals, not {relation} {frequency}"

    return check


def build_english_capitals(arguments: Arguments) -> Check:
    """Every letter is a capital, and the language is English."""
    del arguments

    def check(text: str) -> str | None:
        return _check_language(text, "en") if text.isupper() else "not all in capitals"

    return check


def build_english_lowercase(arguments: Arguments) -> Check:
    """No letter is a capital, and the language is English."""
    del arguments

    def check(text: str) -> str | None:
        return _check_language(text, "en") if text.islower() else "not all in lower case"

    return check


def build_response_language(arguments: Arguments) -> Check:
    """The language is the declared one (`language`, a code such as `de` or `zh-cn`)."""
    language = arguments.text("language").strip().lower()
    return lambda text: _check_language(text, language)


def build_no_comma(arguments: Arguments) -> Check:
    """No comma occurs."""
    del arguments
    return lambda text: "a comma" if "," in text else None


def build_quotation(arguments: Arguments) -> Check:
    """The text begins and ends with a straight double quotation mark."""
    del arguments

    def check(text: str) -> str | None:
        text = text.strip()
        is_quoted = len(text) > 1 and text.startswith('"') and text.endswith('"')
        return None if is_quoted else "not in double quotation marks"

    return check


def build_end_phrase(arguments: Arguments) -> Check:
    """The text ends with a phrase, in any case; quotation marks around the whole text do not count (`end_phrase`)."""
    phrase = arguments.text("end_phrase").strip().lower()

    def check(text: str) -> str | None:
        return None if text.strip().strip('"').lower().endswith(phrase) else f"does not end with {phrase!r}"

    return check


def build_repeat_prompt(arguments: Arguments) -> Check:
    """The text begins with the request, word for word in any case, and an answer follows (`prompt_to_repeat`)."""
    prompt = arguments.text("prompt_to_repeat").strip().lower()

    def check(text: str) -> str | None:
        lowered = text.strip().lower()
        if not lowered.startswith(prompt):
            return "does not begin with the request"
        # The published checker takes the bare echo too; the instruction reads "repeat, then give your answer".
        return None if has_words(lowered[len(prompt) :]) else "repeats the request and answers nothing"

    return check


def _check_language(text: str, language: str) -> str | None:
    # The published checker counts a text without a detectable language as right; here nothing passes by being opaque.
    found = detect_language(text)
    return None if found == language else f"in {found or 'no language that can be told'}, not in {language}"
