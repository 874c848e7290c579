"""Filters that judge a row by itself: each has a reason that the ledger counts under, and says what it found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from posttrain.data.curated_text import CuratedText, split_words
from posttrain.data.curation_settings import CurationSettings, LengthBounds
from posttrain.data.format_rules import FORMAT_RULES
from posttrain.safety.refusals import judge_refusal

RowFilter = tuple[str, Callable[[CuratedText], str]]
"""A reason, and what returns what of a row it strikes; nothing where it strikes none."""

REPEATED_RUN = 4
MIN_REPEATED_WORDS = 24
"""Answers of fewer words are too short to call repetitive."""

MIN_LANGUAGE_WORDS = 8
SURE_LANGUAGE = 0.9
"""A language is held against a text of so many words, told with so much probability; else the text is undecided."""

_CODE_MARKS = frozenset("{}()[];=<>_\\|")
_CODE_SHARE = 0.03
"""A text with a larger share of these marks is code, whose language cannot be told; the prompt's is then."""

_MACHINE = r"(?:language[ ]model|model|assistant|chat[ ]?bot|bot|program|system)"
_ASSISTANT_TALK = re.compile(
    rf"""
    \b(?: (?:as|i'm|i[ ]am) [ ] an [ ] (?:ai|artificial[ ]intelligence) (?:[ ] (?:large[ ])? {_MACHINE})?
       | as [ ] a [ ] (?:large[ ])? language [ ] model )
    (?= \s* (?: $ | [^\w\s-]
             | (?:i|i'm|it|we|my|and|so|who|that|which|with|without|trained|created|developed|designed|made|by)\b ) )
    """,
    re.VERBOSE,
)
"""An answer that calls itself a machine: no noun follows, as in `As an AI researcher would tell you`."""

_OPENING = 60
_IDIOM = re.compile(r"\bhelp but\b|\bhelp (?:\w+ing)\b", re.IGNORECASE)
"""`I couldn't help but smile` declines nothing."""


def build_row_filters(
    settings: CurationSettings,
    *,
    measure_repetition: Callable[[Sequence[str], int], float],
    detect_languages: Callable[[str], dict[str, float]],
    count_tokens: Callable[[str], int] | None = None,
) -> list[RowFilter]:
    """Return the filters that settings ask for, in the order in which they are applied.

    Args:
        settings: Which filters, with their bounds.
        measure_repetition: The share of runs of n units that repeat others.
        detect_languages: Probable languages of a text with their probabilities.
        count_tokens: The tokens of a text; None where no tokenizer is at hand.
    """
    filters: list[RowFilter] = [(rule, FORMAT_RULES[rule]) for rule in settings.formats]
    counts: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(text.split())}
    if count_tokens is not None:
        counts["tokens"] = count_tokens
    filters += [_bound_length(bounds, counts[bounds.unit]) for bounds in settings.lengths]
    if settings.languages:
        filters.append(("language", _build_language_filter(settings.languages, detect_languages)))
    if settings.refusals:
        filters.append(("refusal", find_refusal))
    if settings.max_repetition is not None:
        most = settings.max_repetition

        def find_repetition(text: CuratedText) -> str:
            words = split_words(text.answer)
            share = measure_repetition(words, REPEATED_RUN) if len(words) >= MIN_REPEATED_WORDS else 0.0
            return f"{share:.0%} of its runs of {REPEATED_RUN} words repeat others" if share > most else ""

        filters.append(("repetition", find_repetition))
    return filters


def find_refusal(text: CuratedText) -> str:
    """Return why an answer refuses, or speaks of itself as a machine in its opening."""
    opening = " ".join(text.answer[: 2 * _OPENING].casefold().replace("\u2019", "'").split())
    talk = _ASSISTANT_TALK.search(opening)
    if talk is not None and talk.start() < _OPENING:
        return f"'{talk[0]}'"
    if not text.answer.strip():
        return ""
    verdict = judge_refusal(_IDIOM.sub(" ", text.answer))
    return f"full refusal ({', '.join(verdict.signs[:2])})" if verdict.label == "full_refusal" else ""


def _bound_length(bounds: LengthBounds, count: Callable[[str], int]) -> RowFilter:
    def find_length(text: CuratedText) -> str:
        if bounds.of == "answer" and not text.has_answer:
            return ""
        number = count(text.prompt if bounds.of == "prompt" else text.answer)
        is_short = bounds.at_least is not None and number < bounds.at_least
        is_long = bounds.at_most is not None and number > bounds.at_most
        return f"{number:,} {bounds.unit}" if is_short or is_long else ""

    return f"{bounds.of} length", find_length


def _is_code(text: str) -> bool:
    return sum(character in _CODE_MARKS for character in text) > _CODE_SHARE * len(text)


def _build_language_filter(
    languages: Sequence[str], detect_languages: Callable[[str], dict[str, float]]
) -> Callable[[CuratedText], str]:
    def find_language(text: CuratedText) -> str:
        read = text.answer if len(text.answer.split()) >= MIN_LANGUAGE_WORDS else text.joined
        if _is_code(read):
            read = text.prompt
        if _is_code(read) or len(read.split()) < MIN_LANGUAGE_WORDS:
            return ""
        found = detect_languages(read)
        if not found or any(language in found for language in languages):
            return ""
        language, probability = next(iter(found.items()))
        return f"{language} ({probability:.2f})" if probability >= SURE_LANGUAGE else ""

    return find_language
