"""Whether a passage says what a sentence says, decided by rules that never guess.

A sentence is its terms in order: numbers and dates by value, names, and the stems of its content words. A passage
supports it where one sentence of the passage holds all of them in that order with at most `MOST_SKIPPED` of its own
between, and no qualifier (a negation, a reserve, a bound) that the claim lacks. It does not support it where a number,
date, name or qualifier of the claim stands nowhere in the passage. The rest (paraphrase, changed order, what takes two
sentences to say) is undecided: words alone do not tell `Germany beat France` from `France beat Germany`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.scorers.claim_sentences import split_sentences
from posttrain.scorers.typed_values import Date, Quantity, make_plain, read_date, read_quantity

Support = Literal["supported", "unsupported", "undecided"]
MOST_SKIPPED = 1
MOST_PASSAGE_CHARACTERS = 200_000
_TOKEN = re.compile(
    r"\d{4}-\d\d?-\d\d?|[$€£]?(?:(?<!\w)[+-])?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?(?:[%°‰]|st\b|nd\b|rd\b|th\b)?[A-Za-z]*"
    r"|\w+(?:'\w+)?"
)
_ISO_DATE = re.compile(r"\d{4}-\d\d?-\d\d?")


def _list_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOPWORDS = _list_words(
    "a an the is are was were be been being has have had having do does did of in on at to for from by with as and or "
    "that which who whom whose this these those it its he she his her they their them we our you your i there here "
    "also then than so such into onto upon about"
)
_QUALIFIERS = _list_words(
    "not no never none nor neither cannot without may might could would should can will probably possibly perhaps "
    "maybe likely unlikely reportedly allegedly supposedly formerly previously once almost nearly over under more less "
    "fewer most least few some only unless if except hardly barely rarely seldom false untrue denied denies deny "
    "disputed claimed claims alleged believed thought said"
)
_MONTHS = "january february march april may june july august september october november december"
_MONTH_WORDS = frozenset([*_MONTHS.split(), *(month[:3] for month in _MONTHS.split())])


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a sentence: its key, and whether it is a name, a number, a date or a qualifier (`is_firm`)."""

    key: object
    is_firm: bool
    is_qualifier: bool = False
    written: str = ""


def read_terms(sentence: str) -> list[Term]:
    """Return the terms of a sentence in order."""
    words = [found[0] for found in _TOKEN.finditer(make_plain(sentence).replace("\u2019", "'"))]
    terms: list[Term] = []
    index = 0
    while index < len(words):
        span = _read_number_or_date(words, index)
        if span is not None:
            terms.append(Term(span[0], is_firm=True, written=" ".join(words[index : index + span[1]])))
            index += span[1]
            continue
        word, lower = words[index], words[index].casefold().removesuffix("'s")
        if lower in _QUALIFIERS or lower.endswith("n't"):
            terms.append(Term("not" if lower.endswith("n't") else lower, is_firm=True, is_qualifier=True, written=word))
        elif lower not in _STOPWORDS:
            follows = index + 1 < len(words) and words[index + 1][:1].isupper()
            terms.append(Term(_stem(lower), is_firm=word[:1].isupper() and (index > 0 or follows), written=word))
        index += 1
    return terms


def _read_number_or_date(words: Sequence[str], index: int) -> tuple[object, int] | None:
    """Return the longest number with its unit, or date, that begins at a word, and how many words it takes."""
    first = words[index]
    if first.casefold() in _MONTH_WORDS or first[:1].isdigit():
        for length in (3, 2, 1):
            part = words[index : index + length]
            if len(part) == length and (length == 1) == bool(_ISO_DATE.fullmatch(first)):
                date = read_date(" ".join(part))
                if date is not None and (date.month is not None):
                    return date, length
    if not any(letter.isdigit() for letter in first):
        return None
    for length in (4, 3, 2, 1):
        part = words[index : index + length]
        if len(part) == length and (quantity := read_quantity(" ".join(part))) is not None:
            return quantity, length
    return None


def _stem(word: str) -> str:
    """Return a word without its common endings; what is told apart by them alone is taken for one."""
    for ending, rest in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + rest
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


class Passage:
    """A source's text, read once: the terms of each of its sentences. Made by `CitationScorer` for each problem."""

    def __init__(self, text: str) -> None:
        lines = text[:MOST_PASSAGE_CHARACTERS].splitlines()
        self.sentences = [read_terms(sentence) for line in lines for sentence in split_sentences(line)]
        self.keys = {term.key for terms in self.sentences for term in terms}
        self.dates = [key for key in self.keys if isinstance(key, Date)]

    def judge(self, claim: Sequence[Term]) -> tuple[Support, str]:
        """Return whether the passage supports a claim's terms, and why."""
        for term in claim:
            if term.is_firm and not self._holds(term):
                return "unsupported", f"{term.written!r} is not in the source"
        if len(claim) < 2:
            return "undecided", "too few words to judge"
        for sentence in self.sentences:
            if _fits(claim, sentence):
                return "supported", "one sentence of the source says it"
        return "undecided", "no one sentence of the source says it in these words and this order"

    def _holds(self, term: Term) -> bool:
        return term.key in self.keys or any(_is_same(term.key, date) for date in self.dates)


def _is_same(claimed: object, found: object) -> bool:
    """Return whether a source's term says a claim's; a date may say more than is claimed."""
    if claimed == found:
        return True
    if not isinstance(found, Date):
        return False
    if isinstance(claimed, Quantity):
        return not claimed.unit and claimed.amount == found.year
    if not isinstance(claimed, Date):
        return False
    parts = ((claimed.year, found.year), (claimed.month, found.month), (claimed.day, found.day))
    return all(a is None or a == b for a, b in parts)


def _fits(claim: Sequence[Term], sentence: Sequence[Term]) -> bool:
    """Return whether a sentence holds a claim's terms in order, with few between and no further qualifier."""
    claimed = {term.key for term in claim}
    if any(term.is_qualifier and term.key not in claimed for term in sentence):
        return False
    for start, term in enumerate(sentence):
        if not _is_same(claim[0].key, term.key):
            continue
        matched, position = 1, start + 1
        while matched < len(claim) and position < len(sentence) and position - start - matched <= MOST_SKIPPED:
            matched += _is_same(claim[matched].key, sentence[position].key)
            position += 1
        if matched == len(claim) and position - start - matched <= MOST_SKIPPED:
            return True
    return False
