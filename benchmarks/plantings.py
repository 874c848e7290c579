"""Ways to plant an evaluation question in a training row, from word for word to reworded; each is seeded."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Plant = Callable[[str, np.random.Generator], str]

SYNONYMS = {
    "buy": "purchase", "buys": "purchases", "bought": "purchased", "big": "large", "large": "big", "small": "little",
    "begin": "start", "start": "begin", "starts": "begins", "every": "each", "each": "every", "makes": "earns",
    "gives": "hands", "gave": "handed", "gets": "receives", "got": "received", "needs": "requires", "need": "require",
    "wants": "wishes", "house": "home", "money": "cash", "kids": "children", "children": "kids", "friends": "pals",
    "total": "overall", "also": "too", "then": "afterwards", "after": "following", "because": "since", "if": "when",
    "following": "next", "which": "what", "best": "finest", "likely": "probable", "many": "numerous", "man": "guy",
    "woman": "lady", "car": "automobile", "job": "task", "number": "count", "finds": "discovers", "shows": "displays",
    "people": "persons", "day": "date", "week": "seven-day span", "return": "give back", "given": "provided",
    "list": "sequence", "function": "routine", "check": "test", "happens": "occurs", "true": "correct",
    "often": "frequently",
    "about": "around", "only": "just", "must": "has to", "sold": "vended", "sells": "vends", "took": "grabbed",
}  # fmt: skip
NAMES = ("Ada", "Boris", "Chen", "Dalia", "Emeka", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena")
INSERTED = ("really", "indeed", "actually", "in fact", "of course", "you see", "as it happens", "simply")
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NOT_NAMES = frozenset(
    [
        *("The", "A", "An", "If", "How", "What", "When", "Which", "Who", "Why", "Where", "In", "On", "At", "Of", "For"),
        *("And", "But", "He", "She", "It", "They", "His", "Her", "There", "This", "That", "These", "Each", "Every"),
        *("After", "Before", "Then", "To", "Is", "Are", "Was", "Were", "Did", "Do", "Does", "I", "You", "We", "Given"),
    ]
)


def plant_verbatim(text: str, generator: np.random.Generator) -> str:
    """The question as it is."""
    return text


def plant_upper_case(text: str, generator: np.random.Generator) -> str:
    """In capitals."""
    return text.upper()


def plant_title_case(text: str, generator: np.random.Generator) -> str:
    """Every word with a capital."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def plant_spacing(text: str, generator: np.random.Generator) -> str:
    """With other punctuation, emphasis and line breaks."""
    return "**" + text.replace(". ", " --\n").replace(", ", " ,\t") + "**"


def plant_digit_words(text: str, generator: np.random.Generator) -> str:
    """Figures up to 99 as words."""
    return re.sub(r"(?<![\w.,$])\d{1,2}(?![\w.,%]*\w)", lambda match: _spell(int(match[0])), text)


def plant_grouped_digits(text: str, generator: np.random.Generator) -> str:
    """Thousands apart, or together where they were apart."""
    joined = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return joined if joined != text else re.sub(r"(?<![\d.])\d{4,}(?![\d.])", lambda match: f"{int(match[0]):,}", text)


def plant_other_digits(text: str, generator: np.random.Generator) -> str:
    """Full-width or Arabic-Indic digits."""
    first = 0xFF10 if generator.integers(2) else 0x0660
    return re.sub(r"\d", lambda match: chr(first + int(match[0])), text)


def plant_synonyms(text: str, generator: np.random.Generator) -> str:
    """Words of a table replaced by others."""
    return re.sub(r"[A-Za-z]+", lambda match: SYNONYMS.get(match[0], match[0]), text)


def plant_inserted_words(text: str, generator: np.random.Generator) -> str:
    """A word put in after every eighth word or so."""
    words = []
    for word in text.split(" "):
        words.append(word)
        if generator.random() < 1 / 8:
            words.append(str(generator.choice(INSERTED)))
    return " ".join(words)


def plant_names(text: str, generator: np.random.Generator) -> str:
    """Names of people and places changed, each always to the same other."""
    names = list(generator.permutation(NAMES))
    given: dict[str, str] = {}

    def change(match: re.Match[str]) -> str:
        if match[0] in _NOT_NAMES or not names:
            return match[0]
        if match[0] not in given:
            given[match[0]] = str(names.pop())
        return given[match[0]]

    return re.sub(r"(?<![.!?] )(?<!^)\b[A-Z][a-z]+\b", change, text)


def plant_clause_order(text: str, generator: np.random.Generator) -> str:
    """Sentences in another order; of a single one its halves around a comma."""
    parts = re.split(r"(?<=[.!?])\s+", text.strip())
    if len(parts) > 1:
        return " ".join(parts[1:] + parts[:1])
    head, comma, tail = text.partition(", ")
    return f"{tail.rstrip('?.')}, {head[:1].lower()}{head[1:]}" if comma else text


def plant_reworded(text: str, generator: np.random.Generator) -> str:
    """Synonyms, inserted words and changed names at once."""
    return plant_inserted_words(plant_synonyms(plant_names(text, generator), generator), generator)


PLANTINGS: dict[str, Plant] = {
    "verbatim": plant_verbatim,
    "upper case": plant_upper_case,
    "title case": plant_title_case,
    "spacing": plant_spacing,
    "digit words": plant_digit_words,
    "grouped digits": plant_grouped_digits,
    "other digits": plant_other_digits,
    "synonyms": plant_synonyms,
    "inserted words": plant_inserted_words,
    "changed names": plant_names,
    "clause order": plant_clause_order,
    "reworded": plant_reworded,
}


def _spell(number: int) -> str:
    if number < len(_SMALL):
        return _SMALL[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[unit]}" if unit else "")
