"""Units of measurement that values in text may carry, each with its factor to the base unit of its dimension.

Factors are exact (NIST SP 811, appendix B). Symbols are case-sensitive where case tells units apart (`Mb` and `MB`,
`mW` and `MW`); names are not. A unit that is not here makes a value text, never a number with the unit dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {word: number for number, word in enumerate(_SMALL)}
NUMBER_WORDS |= {word: 10 * number for number, word in enumerate(_TENS, 2)}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: an amount `a` of it is `(a + offset) * factor` of the dimension's base unit."""

    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


_PREFIXES = {
    "n": ("nano", "1e-9"), "µ": ("micro", "1e-6"), "u": ("micro", "1e-6"), "m": ("milli", "1e-3"),
    "c": ("centi", "1e-2"), "d": ("deci", "1e-1"), "": ("", "1"), "h": ("hecto", "1e2"), "k": ("kilo", "1e3"),
    "M": ("mega", "1e6"), "G": ("giga", "1e9"), "T": ("tera", "1e12"),
}  # fmt: skip
_PREFIXED = {
    "m": ("length", ("metre", "meter"), "1"), "g": ("mass", ("gram", "gramme"), "1e-3"),
    "s": ("time", ("second",), "1"), "W": ("power", ("watt",), "1"), "J": ("energy", ("joule",), "1"),
    "Hz": ("frequency", ("hertz",), "1"), "Pa": ("pressure", ("pascal",), "1"), "V": ("voltage", ("volt",), "1"),
    "A": ("current", ("ampere", "amp"), "1"), "L": ("volume", ("litre", "liter"), "1e-3"),
    "eV": ("energy", ("electronvolt",), "1.602176634e-19"), "B": ("data", ("byte",), "8"),
    "bit": ("data", ("bit",), "1"), "N": ("force", ("newton",), "1"),
}  # fmt: skip
_NAMED = {
    "length": {
        "inch": "0.0254", "inches": "0.0254", "in": "0.0254", "foot": "0.3048", "feet": "0.3048", "ft": "0.3048",
        "yard": "0.9144", "yd": "0.9144", "mile": "1609.344", "mi": "1609.344", "nautical mile": "1852",
        "light year": "9460730472580800", "light-year": "9460730472580800", "au": "149597870700",
        "astronomical unit": "149597870700",
    },
    "mass": {
        "tonne": "1000", "t": "1000", "metric ton": "1000", "pound": "0.45359237", "lb": "0.45359237",
        "lbs": "0.45359237", "ounce": "0.028349523125", "oz": "0.028349523125", "stone": "6.35029318",
    },
    "time": {
        "sec": "1", "minute": "60", "min": "60", "hour": "3600", "hr": "3600", "h": "3600", "day": "86400",
        "week": "604800",
    },
    "calendar time": {"month": "1", "year": "12", "yr": "12", "decade": "120", "century": "1200", "centuries": "1200"},
    "area": {
        "hectare": "10000", "ha": "10000", "acre": "4046.8564224", "square foot": "0.09290304",
        "square feet": "0.09290304", "sq ft": "0.09290304", "square mile": "2589988.110336",
        "sq mi": "2589988.110336", "square inch": "0.00064516",
    },
    "volume": {"gallon": "0.003785411784", "pint": "0.000473176473", "cubic foot": "0.028316846592",
               "cubic feet": "0.028316846592"},
    "speed": {
        "m/s": "1", "km/s": "1000", "metres per second": "1", "meters per second": "1", "knot": "1852/3600",
        "km/h": "1000/3600", "kph": "1000/3600", "kilometres per hour": "1000/3600",
        "kilometers per hour": "1000/3600", "mph": "1609.344/3600", "miles per hour": "1609.344/3600",
    },
    "energy": {"kwh": "3600000", "calorie": "4.184", "kilocalorie": "4184", "kcal": "4184"},
    "percent": {"%": "1", "percent": "1", "per cent": "1", "‰": "0.1"},
    "angle": {"°": "1", "degree": "1"},
    "$": {"dollar": "1", "usd": "1"}, "€": {"euro": "1", "eur": "1"}, "£": {"gbp": "1", "pound sterling": "1",
          "pounds sterling": "1"}, "¥": {"yen": "1", "jpy": "1"},
}  # fmt: skip
_TEMPERATURES = {
    ("K", "kelvin", "kelvins"): Unit("temperature", Fraction(1)),
    ("°C", "celsius", "degrees celsius", "degree celsius", "°c"): Unit("temperature", Fraction(1), Fraction("273.15")),
    ("°F", "fahrenheit", "degrees fahrenheit", "degree fahrenheit", "°f"): Unit(
        "temperature", Fraction(5, 9), Fraction("459.67")
    ),
}


def _read_factor(text: str) -> Fraction:
    top, _, bottom = text.partition("/")
    return Fraction(top) / Fraction(bottom or "1")


def _build_tables() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Return units by symbol (case kept) and by name (case folded, plurals included)."""
    symbols: dict[str, Unit] = {}
    names: dict[str, Unit] = {}
    for symbol, (dimension, full_names, base) in _PREFIXED.items():
        for prefix, (prefix_name, scale) in _PREFIXES.items():
            unit = Unit(dimension, Fraction(base) * Fraction(scale))
            symbols[prefix + symbol] = unit
            for name in full_names:
                names[prefix_name + name] = names[prefix_name + name + "s"] = unit
            if dimension == "length":
                for power, word, short, what in (("2", "square", "sq", "area"), ("3", "cubic", "cu", "volume")):
                    powered = Unit(what, unit.factor ** int(power))
                    symbols[f"{prefix}m^{power}"] = symbols[f"{prefix}m{power}"] = powered
                    symbols[f"{short} {prefix}m"] = powered
                    for name in full_names:
                        names[f"{word} {prefix_name}{name}"] = names[f"{word} {prefix_name}{name}s"] = powered
    for dimension, units in _NAMED.items():
        for name, factor in units.items():
            names[name] = Unit(dimension, _read_factor(factor))
            names.setdefault(name + "s", names[name])
    for spellings, unit in _TEMPERATURES.items():
        symbols |= dict.fromkeys(spellings, unit)
        names |= dict.fromkeys((spelling for spelling in spellings if len(spelling) > 1), unit)
    return symbols, names


_SYMBOLS, _NAMES = _build_tables()
_SYMBOLS |= {"l": _SYMBOLS["L"], "ml": _SYMBOLS["mL"], "cl": _SYMBOLS["cL"], "kWh": _NAMES["kwh"]}


def find_unit(text: str) -> Unit | None:
    """Return the unit that a text names, or None where it names none, or none that is known."""
    spelling = " ".join(text.split()).rstrip(".")
    return _SYMBOLS.get(spelling) or _NAMES.get(spelling.casefold())
