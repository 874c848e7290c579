"""Units, currency and percent at the ends of an answer: taken off by name, and never dropped unseen.

A unit is declared by the problem's column, or by the gold answer that carries it. Then an answer may carry the same
unit or none. Without one an answer may carry a unit of the table below, which says nothing that could be checked.
Nothing is converted: `500 cm` is not `5 m`.
"""

from __future__ import annotations

import re

_TABLE = """
m meter meters metre metres | cm centimeter centimeters centimetre centimetres | mm millimeter millimeters | km
kilometer kilometers kilometre kilometres | in inch inches | ft foot feet | yd yard yards | mi mile miles | g gram
grams | kg kilogram kilograms kgs | mg milligram milligrams | lb lbs pound pounds | oz ounce ounces | ton tons | l
liter liters litre litres | ml milliliter milliliters | gallon gallons gal | quart quarts | pint pints | cup cups |
s sec secs second seconds | min mins minute minutes | h hr hrs hour hours | day days | week weeks | month months |
year years yr yrs | $ dollar dollars usd bucks | cent cents ¢ | € euro euros eur | £ gbp | ¥ yen | degree degrees
deg ° | °c celsius | °f fahrenheit | radian radians rad | % percent percents pct percentage | unit units | mph | kph
kmh | hz | n newton newtons | j joule joules | w watt watts | v volt volts
"""
_NAMES = {alias: group.split()[0] for group in _TABLE.split("|") for alias in group.split()}
PERCENT = "%"
_WORD = r"[a-zA-Z°%€£¥¢]+"
_POWER = r"(?: ?\^ ?\{?([23])\}?)?"
_QUOTED = re.compile(r'^(?P<number>.*?) ?"(?P<words>[^"]+)"' + _POWER + r" ?\.?$")
_BARE = re.compile(rf"^(?P<number>.*[\d)}}\]]|.*\\pi)(?P<space> ?)(?P<words>(?:(?:square|sq\.?|cubic) )?{_WORD}"
                   rf"(?: ?(?:/|per) ?{_WORD})?)" + _POWER + r" ?\.?$")  # fmt: skip
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}


def name_unit(words: str, power: str = "", *, also: str = "") -> str | None:
    """Return the canonical name of a unit (`cm^2` for `square centimeters`), or None where it is not known.

    Args:
        words: The unit as written.
        power: 2 or 3 if an exponent follows.
        also: A unit's own words that count as known too: the problem's.
    """
    words = " ".join(words.strip(" .").split())
    squared = re.fullmatch(r"(.*?) ?\^ ?\{?([23])\}?", words)
    if squared and not power:
        words, power = squared[1], squared[2]
    top, slash, bottom = re.sub(r" ?(?:/|\bper\b) ?", "/", words).partition("/")
    names = [_name_simple(part.strip()) for part in ((top, bottom) if slash else (top,))]
    if None not in names:
        return "/".join(str(name) for name in names) + (f"^{power}" if power else "")
    return _fold(words) + power if also and _fold(words) == _fold(also.strip(" .")) else None


def _name_simple(words: str) -> str | None:
    head, _, tail = words.partition(" ")
    if head.lower() in _POWERS and tail:
        inner = _NAMES.get(tail.lower())
        return None if inner is None else f"{inner}^{_POWERS[head.lower()]}"
    return _NAMES.get(words.lower())


def _fold(words: str) -> str:
    words = words.casefold()
    return words[:-1] if len(words) > 3 and words.endswith("s") else words


def split_unit(text: str, *, also: str = "", takes_any: bool = False) -> tuple[str, str]:
    """Return an answer without its unit, and the unit's canonical name, empty where it has none.

    Args:
        text: A plainly written answer.
        also: The declared unit, known even if the table does not hold it.
        takes_any: Whether quoted words that are no known unit are one all the same: for a gold answer.
    """
    text = text.strip()
    money = re.match(r"^([+-]?) ?([$€£¥]) ?(?=[\d.\\])", text)
    if money:
        return split_tail(money[1] + text[money.end() :], also)[0], _NAMES[money[2]]
    number, unit = split_tail(text, also, takes_any=takes_any)
    return number, unit


def split_tail(text: str, also: str = "", *, takes_any: bool = False) -> tuple[str, str]:
    """Return an answer without the unit at its end, and the unit's name; see `split_unit`."""
    for sign in ("%", "°"):
        if text.endswith(sign):
            return text[:-1].strip(), sign if sign == "%" else _NAMES[sign]
    quoted = _QUOTED.match(text)
    if quoted and quoted["number"].strip():
        name = name_unit(quoted["words"], quoted[3] or "", also=also)
        if name is None and takes_any:
            name = _fold(quoted["words"].strip(" .")) + (quoted[3] or "")
        if name is not None:
            return quoted["number"].strip(), name
    bare = _BARE.match(text)
    if bare:
        words = bare["words"]
        name = name_unit(words, bare[4] or "", also=also)
        is_variable = not bare["space"] and len(words) == 1 and words.isalpha()
        if name is not None and not (is_variable and not also):
            return bare["number"].strip(), name
    return text, ""
