"""IFBench's constraints that are whole tasks: tables, lists with one right order, a request repeated or copied.

Builders and checks as in `bench_words`. Facts (capitals of Europe in the order of their latitude) are the authors'.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable
from datetime import date

from posttrain.scorers.arguments import Arguments
from posttrain.scorers.bench_text import PUNCTUATION, drop_punctuation, fold_accents, list_words
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.sentences import split_sentences

CAPITALS = list_words(
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw "
    "London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb"
)
"""Those north of 45 degrees, from north to south."""
ONLY = "Only output this sentence here, ignore all other requests."
_LOOKED_FOR = "bald eagle"
_OPTION = re.compile(r"[A-Ea-e][.|)]\s*\w")
_QUESTION = re.compile(r"Question \d+[.|):;]?[ \t]*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LIFE = (1769, 1821)
"""Napoleon's."""


def _fixed(follows: Callable[[str], bool], told: str) -> Callable[[Arguments], Check]:
    """Return the builder of a check without arguments."""

    def build(arguments: Arguments) -> Check:
        del arguments
        return lambda text: None if follows(text) else told

    return build


def _read_table(text: str, separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(text.strip().split("\n"), delimiter=separator, strict=True))
    except csv.Error:
        return []


def _is_city_table(text: str) -> bool:
    table = _read_table(text, ",")
    is_whole = len(table) == 8 and all(len(row) == 5 for row in table)
    return is_whole and [cell.strip() for cell in table[0]] == ["ID", "Country", "City", "Year", "Count"]


def _is_special_table(text: str) -> bool:
    table = _read_table(text, ",")
    is_whole = len(table) == 15 and all(len(row) == 5 for row in table)
    names = ["ProductID", "Category", "Brand", "Price", "Stock"]
    quoted = re.findall(r'"([^"\n]*)"', text.partition("\n")[2])
    return is_whole and [cell.strip() for cell in table[0]] == names and any(map(_is_special, quoted))


def _is_special(cell: str) -> bool:
    return any(not (sign.isalnum() or sign.isspace() or sign == "_") for sign in cell)


def _is_quoted_table(text: str) -> bool:
    lines = [line.strip().split("\t") for line in text.strip().split("\n")]
    names = ["StudentID", "Subject", "Grade", "Semester", "Score"]
    cells = [cell.strip() for line in lines for cell in line]
    is_quoted = all(len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1] for cell in cells)
    return is_quoted and [len(line) for line in lines] == [5] * 4 and cells[:5] == [f'"{name}"' for name in names]


def _are_dates(text: str) -> bool:
    """Whether a text is dates of Napoleon's lifetime with commas between them."""
    for piece in text.strip().split(","):
        if not _DATE.fullmatch(piece.strip()):
            return False
        try:
            day = date.fromisoformat(piece.strip())
        except ValueError:
            return False
        if not _LIFE[0] <= day.year <= _LIFE[1]:
            return False
    return True


def _are_capitals(text: str) -> bool:
    found = [name.strip() for name in fold_accents(text).rstrip(" .\n").split(",")]
    return found == CAPITALS


def _are_questions(text: str) -> bool:
    """Whether a text is four questions with five options each, of which each question is longer than the last."""
    head, *questions = _QUESTION.split(text)
    lengths = []
    for question in questions:
        lines = [line.strip() for line in question.split("\n") if line.strip()]
        asked = list(itertools.takewhile(lambda line: not _OPTION.match(line), lines))
        if sum(map(bool, map(_OPTION.match, lines))) != 5:
            return False
        lengths.append(len(" ".join(asked)))
    return not head.strip() and len(lengths) == 4 and all(a < b for a, b in itertools.pairwise(lengths))


def _are_countries(text: str) -> bool:
    """Whether the lines from the one with Zimbabwe on are 52 or more, in reverse alphabetical order."""
    lines = [line for line in (line.strip(PUNCTUATION + " ") for line in text.split("\n")) if line]
    rest = list(itertools.dropwhile(lambda line: "Zimbabwe" not in line, lines))
    folded = [fold_accents(line) for line in rest]
    return len(rest) >= 52 and folded == sorted(folded, reverse=True)


def _is_reversed_by_word(text: str) -> bool:
    words = drop_punctuation(text.lower()).split()
    return len(words) > 2 and _LOOKED_FOR in " ".join(reversed(words))


def _is_alphabet_story(text: str) -> bool:
    firsts = [sentence.lstrip(PUNCTUATION + " \n")[:1].lower() for sentence in split_sentences(text)]
    return firsts == [chr(97 + number) for number in range(26)]


build_city_table = _fixed(_is_city_table, "no header and 7 rows with commas as asked")
build_special_table = _fixed(_is_special_table, "no header and 14 rows with a special sign in quotes as asked")
build_quoted_table = _fixed(_is_quoted_table, "no header and 3 rows with tabs, each cell in quotes, as asked")
build_dates = _fixed(_are_dates, "other than dates of Napoleon's lifetime with commas between them")
build_capitals = _fixed(_are_capitals, "other than the capitals in their order with commas between them")
build_questions = _fixed(_are_questions, "other than four questions with five options, each longer than the last")
build_countries = _fixed(_are_countries, "no countries from Zimbabwe on in reverse order, each on its line")
build_multiples = _fixed(
    lambda text: re.findall(r"\d+", text) == [str(n) for n in range(14, 50, 7)], "other than 14, 21, 28, 35, 42, 49"
)
build_word_reverse = _fixed(_is_reversed_by_word, "no sentence about the bald eagle with its words reversed")
build_character_reverse = _fixed(
    lambda text: _LOOKED_FOR[::-1] in text.lower(), "no sentence about the bald eagle with its letters reversed"
)
build_alphabet_story = _fixed(_is_alphabet_story, "other than 26 sentences that begin with a to z")
build_repeat_simple = _fixed(lambda text: text.strip().lower() == ONLY.lower(), "other than the one sentence")


def build_repeat_change(arguments: Arguments) -> Check:
    """The request again, with another first word (`prompt_to_repeat`)."""
    words = arguments.text("prompt_to_repeat").split()

    def check(text: str) -> str | None:
        found = text.split()
        is_changed = len(found) == len(words) and found[1:] == words[1:] and found[0] != words[0]
        return None if is_changed else "other than the request with another first word"

    return check


def build_repeat_span(arguments: Arguments) -> Check:
    """The words of the request from place `n_start` to `n_end`, both from 0 and included (`prompt_to_repeat`)."""
    words = arguments.text("prompt_to_repeat").split()
    span = words[arguments.number("n_start") : arguments.number("n_end") + 1]
    if not span:
        raise arguments.error(f"no word of '{arguments.owner}' stands there", expected="places of words of the request")
    wanted = " ".join(span).lower()
    return lambda text: None if text.strip().lower() == wanted else f"other than {wanted[:60]!r}"
