"""Values as they stand in text, compared as text, as numbers with units, or as dates.

Text is compared after a stated normalisation (`normalise_answer`), numbers and dates by value: `1,000` is `1000` and
`0.33 km` is `330 m`; `May 5, 2017` is `2017-05-05`. What cannot be read in one way only (`05/06/2017`, `007`, an
unknown unit) is neither a number nor a date and is compared as text. Nothing is evaluated: the cost is linear in
the text, and what is longer than `MAX_VALUE_CHARACTERS` is text alone.
"""

from __future__ import annotations

import calendar
import re
import sys
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from posttrain.scorers.units import NUMBER_WORDS, SCALES, find_unit

MAX_VALUE_CHARACTERS = 120
_SUPERSCRIPTS = re.compile(r"[\u00b2\u00b3\u00b9\u2070-\u207e]+")
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_FORMAT_CHARACTERS = re.compile(
    "[" + "".join(re.escape(chr(i)) for i in range(128, 0x10000) if unicodedata.category(chr(i)) == "Cf") + "]"
)
_FOREIGN_PUNCTUATION = re.compile(
    "["
    + "".join(
        re.escape(chr(i)) for i in range(128, 0x10000) if unicodedata.category(chr(i)) in ("Po", "Ps", "Pe", "Pi", "Pf")
    ).replace("\u2030", "")  # per mille is part of a number, as per cent is
    + "]"
)
_DASHES = re.compile(r"[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_QUOTES = re.compile("['\"`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u00ab\u00bb\u00b4\u2032\u2033]")
_EMPHASIS = re.compile(r"\s*(\*\*|__|\*|_|`)(?=\S)(.+?)(?<=\S)\1\s*", re.DOTALL)
_SEPARATORS = re.compile(r"\.(?!\d)|(?<!\d)[,:]|[,:](?!\d)|[;!?()\[\]{}]|(?<=[^\W_])-|-(?!\.?\d)")
_ARTICLES = ("the", "a", "an")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in the base unit of its dimension; `unit` is the dimension, empty for a bare number.

    Example: `0.33 km` is `Quantity(Fraction(330), "length")`.
    """

    amount: Fraction
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Date:
    """A date as far as it is given; years before our era are negative (44 BC is -44)."""

    year: int | None
    month: int | None = None
    day: int | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """All readings of one value: its normalised text, and the number and the date that it is, if any."""

    text: str
    quantity: Quantity | None = None
    date: Date | None = None

    def keys(self) -> frozenset[object]:
        """Return what another value must share one of to be the same.

        A number is never compared as text too: case tells `5 Mb` from `5 MB`, and a sign stands apart in `- 5`.
        """
        name = self.text if self.quantity is None else self.quantity
        return frozenset((name,) if self.date is None else (name, self.date))


def read_value(text: str, unit: str = "") -> Value:
    """Return the readings of a value; a bare number is one of `unit` where that is given."""
    return Value(normalise_answer(text), read_quantity(text, unit), read_date(text))


def is_same_value(left: Value, right: Value, relative_tolerance: Fraction = Fraction(0)) -> bool:
    """Return whether two values agree in any reading; numbers within a share of `right`."""
    if not left.keys().isdisjoint(right.keys()):
        return True
    return is_near(left.quantity, right.quantity, relative=relative_tolerance)


def is_near(
    found: Quantity | None, expected: Quantity | None, *, absolute: Fraction = Fraction(0), relative: Fraction
) -> bool:
    """Return whether two numbers of one dimension differ by at most a bound, or a share of the expected one."""
    if found is None or expected is None or found.unit != expected.unit:
        return False
    return abs(found.amount - expected.amount) <= max(absolute, relative * abs(expected.amount))


def normalise_answer(text: str, *, ignore_accents: bool = False) -> str:
    """Return text as short answers are compared.

    Unicode NFKC without invisible format characters, upper case folded, white space single, quotes dropped,
    punctuation and hyphens as white space, `&` as `and`, Markdown emphasis around the whole dropped, and one leading
    article dropped where something follows. Kept, since they tell answers apart: signs, marks between
    digits (`3.5`, `12:30`), `+ # % $ / * = < > ^ @ _`. A superscript is `^` (`10²` is not `102`). Inner articles
    stay (`Vitamin A`). A text of punctuation alone is itself.
    """
    plain = make_plain(text)
    for _ in range(2):  # `**_name_**`; a bound, since a run of a hundred thousand marks is no emphasis
        emphasised = _EMPHASIS.fullmatch(plain)
        plain = plain if emphasised is None else emphasised[2]
    folded = plain.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded)
        if ignore_accents:
            parts = unicodedata.normalize("NFD", folded)
            folded = "".join(part for part in parts if not unicodedata.combining(part))
    words = _split_words(folded)
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return sys.intern(" ".join(words)) if words else "".join(folded.split())


def _split_words(folded: str) -> list[str]:
    text = _QUOTES.sub("", folded)
    if not text.isascii():
        text = _FOREIGN_PUNCTUATION.sub(" ", text)
    # A dot inside a word is dropped (`U.S.A.` is `usa`), every other separator ends a word.
    text = _SEPARATORS.sub(lambda found: "" if found[0] == "." else " ", text)
    return text.replace("&", " and ").split()


def make_plain(text: str) -> str:
    """Return text in NFKC with plain dashes, fractions written out, `^` for superscripts, and nothing invisible."""
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda found: "^" + found[0], text)
    text = _VULGAR_FRACTION.sub(" ", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    return _DASHES.sub("-", _FORMAT_CHARACTERS.sub("", text))


_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+(?!\d)|0|[1-9]\d{0,59})(?![\d,])"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<currency>US\$|[$€£¥])?\s?"
    rf"(?:(?P<whole>{_DIGITS})(?:\.(?P<decimals>\d{{1,60}}))?|\.(?P<bare>\d{{1,60}}))"
    r"(?:[eE](?P<exponent>[+-]?\d{1,3}))?(?P<fraction>\s?/\s?[1-9]\d{0,9}|\s[1-9]\d{0,9}/[1-9]\d{0,9})?(?P<rest>.*)"
)
_CURRENCIES = {"US$": "$", "$": "$", "€": "€", "£": "£", "¥": "¥"}
_EDGES = " \t\r\n.,;:!?\"'()[]*_`"


def read_quantity(text: str, unit: str = "") -> Quantity | None:
    """Return the number that the whole of a text is, in base units, or None.

    Digits with or without groups (`1,000`, `1 000`), decimals, exponents (to 999), fractions (`1/2`, `1 1/2`), English
    number words, scale words (`1.2 million`), currency signs, and the units of `scorers.units`. A number with leading
    zeros is a name, not a number.
    """
    if len(text) > MAX_VALUE_CHARACTERS:
        return None
    plain = make_plain(text).replace("\u00a0", " ").strip(_EDGES.replace(".", ""))
    plain = plain.rstrip(_EDGES)
    found = _NUMBER.fullmatch(plain)
    if found is None:
        return _read_number_words(plain, unit)
    if (found["exponent"] and abs(int(found["exponent"])) > 300) or (found["fraction"] and found["decimals"]):
        return None
    whole = (found["whole"] or "0").replace(",", "").replace(" ", "")
    amount = Fraction(f"{whole}.{found['decimals'] or found['bare'] or '0'}e{found['exponent'] or 0}")
    if fraction := found["fraction"]:
        top, _, bottom = fraction.strip().partition("/")
        amount = amount / int(bottom) if not top.strip() else amount + Fraction(int(top), int(bottom))
    return _attach_unit(-amount if found["sign"] == "-" else amount, found["rest"], found["currency"], unit)


def _read_number_words(plain: str, unit: str) -> Quantity | None:
    """Read `twenty-one`, `one hundred and five`, `two million km`."""
    words = plain.replace("-", " ").split()
    total = current = count = 0
    previous = 0
    for word in words:
        lower = word.casefold()
        if lower in NUMBER_WORDS:
            number = NUMBER_WORDS[lower]
            if count and not (previous == 100 or previous == 1000 or (previous in range(20, 100, 10) and number < 10)):
                return None  # `one two` names no number
            current, previous = current + number, number
        elif lower == "hundred" and count and 0 < current < 10:
            current, previous = current * 100, 100
        elif lower in ("thousand", "million", "billion", "trillion") and count and current:
            total, current, previous = total + current * SCALES[lower], 0, 1000
        elif not (lower == "and" and count and previous in (100, 1000)):
            break
        count += 1
    if not count or words[count - 1].casefold() == "and":
        return None
    return _attach_unit(Fraction(total + current), " ".join(words[count:]), None, unit)


def _attach_unit(amount: Fraction, rest: str, currency: str | None, default: str) -> Quantity | None:
    words = rest.strip().lstrip("-").strip()
    first, _, others = words.partition(" ")
    if first.casefold() in SCALES:
        amount, words = amount * SCALES[first.casefold()], others.strip()
    if currency is not None:
        return None if words and words.casefold() not in ("dollars", "usd") else Quantity(amount, _CURRENCIES[currency])
    if not words and not default:
        return Quantity(amount)
    unit = find_unit(words or default)
    return None if unit is None else Quantity((amount + unit.offset) * unit.factor, unit.dimension)


_MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<y>[1-9]\d{0,3})(?: (?P<era>bce?|ad|ce))?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day )?"
_DATE_FORMS = tuple(
    re.compile(form)
    for form in (
        r"(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})",
        rf"{_WEEKDAY}(?:the )?{_DAY}(?: of)? (?P<month>{_MONTH})(?: (?:of )?{_YEAR})?",
        rf"{_WEEKDAY}(?P<month>{_MONTH})(?: the)? {_DAY}(?: {_YEAR})?",
        rf"(?P<month>{_MONTH}) (?:of )?(?P<y>\d{{4}})",
        r"(?P<y>[1-9]\d{0,3}) (?P<era>bce?|ad|ce)",
        r"(?P<era>ad|ce) (?P<y>[1-9]\d{0,3})",
        r"(?P<y>[1-9]\d{3})",
    )
)
_NUMERIC_DATE = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})")


def read_date(text: str) -> Date | None:
    """Return the date that the whole of a text is, or None; a day and month in figures only where one order fits."""
    if len(text) > MAX_VALUE_CHARACTERS:
        return None
    plain = " ".join(make_plain(text).casefold().replace(",", " ").split()).strip(_EDGES)
    if not any(letter.isdigit() for letter in plain):
        return None
    numeric = _NUMERIC_DATE.fullmatch(plain)
    if numeric is not None:
        first, second, year = map(int, numeric.groups())
        readings = {(first, second), (second, first)}
        dates = [date for month, day in readings if (date := _check_date(Date(year, month, day))) is not None]
        return dates[0] if len(dates) == 1 else None
    plain = re.sub(r"(?<=[a-z])\.", "", plain)
    for form in _DATE_FORMS:
        if (found := form.fullmatch(plain)) is not None:
            return _build_date(found.groupdict())
    return None


def _build_date(parts: dict[str, str | None]) -> Date | None:
    year, day, month, name = (parts.get(part) for part in ("y", "d", "m", "month"))
    if year is not None and (parts.get("era") or "").startswith("bc"):
        year = f"-{year}"
    number = _MONTHS[name] if name else int(month) if month else None
    return _check_date(Date(int(year) if year else None, number, int(day) if day else None))


def _check_date(date: Date) -> Date | None:
    """Return a date that the calendar has, or None."""
    if date.year == 0 or (date.month is not None and not 1 <= date.month <= 12):
        return None
    if date.day is None:
        return date
    leap = date.year is None or calendar.isleap(date.year if date.year > 0 else -date.year - 1)
    days = [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    return date if 1 <= date.day <= days[(date.month or 1) - 1] else None
