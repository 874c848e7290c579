"""What is known: the values of entities' attributes, found under any of their names in constant time.

Names of entities, attributes and values are compared as `typed_values.normalise_answer` says. Whatever would make an
answer depend on the order of rows is refused with its rows: a name that stands for two things, aliases in a
circle, two values where one is admitted, a fact or alias given twice. `knowledge_rows` says what the files look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from posttrain.core.errors import DataError
from posttrain.scorers.knowledge_aliases import collect_aliases
from posttrain.scorers.knowledge_rows import (
    DECLARED_COLUMNS,
    FACT_COLUMNS,
    Row,
    Tables,
    read_names,
    read_rows,
    read_tables,
    read_text,
)
from posttrain.scorers.typed_values import (
    Date,
    Value,
    is_near,
    make_plain,
    normalise_answer,
    read_date,
    read_quantity,
    read_value,
)
from posttrain.scorers.units import find_unit

ValueType = Literal["any", "text", "number", "date"]
Verdict = Literal["supported", "contradicted", "unknown"]
_TOLERANCE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_YES_AND_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is declared of an attribute; see `knowledge_rows` for the columns that declare it.

    `absolute` (in base units of `unit`) and `relative` are how far a number may lie from the known one.
    """

    name: str
    type: ValueType = "any"
    unit: str = ""
    absolute: Fraction = Fraction(0)
    relative: Fraction = Fraction(0)
    is_multiple: bool = False
    is_complete: bool = False
    patterns: tuple[str, ...] = ()

    def read(self, text: str) -> Value | None:
        """Return a value of this attribute's type, or None where the text is none."""
        if self.type == "text":
            return Value(normalise_answer(text))
        if self.type == "any":
            return read_value(text, self.unit)
        if self.type == "number":
            quantity = read_quantity(text, self.unit)
            return None if quantity is None else Value(normalise_answer(text), quantity)
        date = read_date(text)
        return None if date is None else Value(normalise_answer(text), None, date)


@dataclass(slots=True)
class Known:
    """The values of one attribute of one entity, and the keys by which they are found."""

    values: list[Value] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    keys: set[object] = field(default_factory=set)
    place: str = ""


@dataclass(slots=True)
class KnowledgeBase:
    """Facts by entity and attribute. Made by `load_knowledge_base` or `build_knowledge_base`, read by scorers.

    Keys are normalised names; `aliases` maps every other name of its kind to one. `value_texts` are all values there
    are.
    """

    facts: dict[tuple[str, str], Known] = field(default_factory=dict)
    entities: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    value_texts: set[str] = field(default_factory=set)
    aliases: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"entity": {}, "attribute": {}, "value": {}},
    )

    def find_entity(self, text: str) -> str | None:
        """Return the key of the entity that a text names in whole, or None."""
        key = normalise_answer(text)
        key = self.aliases["entity"].get(key, key)
        return key if key in self.entities else None

    def find_attribute(self, text: str) -> str | None:
        """Return the key of the attribute that a text names in whole, or None."""
        key = normalise_answer(text)
        key = self.aliases["attribute"].get(key, key)
        return key if key in self.attributes else None

    def read(self, attribute: str, text: str) -> Value | None:
        """Return a value of an attribute (by key), other names of values and entities resolved."""
        value = self.attributes[attribute].read(text)
        if value is not None and (value.quantity is not None or value.date is not None):
            return value
        written = normalise_answer(text)
        name = self.aliases["value"].get(written, written)
        name = self.aliases["entity"].get(name, name)
        return value if name == written else self.attributes[attribute].read(name)

    def find_values(self, entity: str, attribute: str) -> list[str]:
        """Return the known values of an entity's attribute (by keys), as they are written."""
        known = self.facts.get((entity, attribute))
        return [] if known is None else list(known.texts)

    def judge(self, entity: str, attribute: str, text: str) -> tuple[Verdict, str]:
        """Return whether a text is a value of an entity's attribute (by keys), and why.

        Another value than the known one is contradicted where the attribute admits one, or where the listed ones are
        declared complete; else unknown. A date that says less than the known one, without conflict, is supported;
        one that says more is unknown.
        """
        known, declared = self.facts.get((entity, attribute)), self.attributes[attribute]
        if known is None:
            return "unknown", f"nothing is known of its {declared.name}"
        value = self.read(attribute, text)
        if value is None:
            return "unknown", f"{text!r} is no {declared.type}"
        if not known.keys.isdisjoint(value.keys()) or self._is_near(value, known, declared):
            return "supported", f"{declared.name} is {text}"
        shown = ", ".join(known.texts[:3])
        dates = [_compare_dates(value.date, other.date) for other in known.values if value.date and other.date]
        if "supported" in dates:
            return "supported", f"{declared.name} is {shown}"
        if "unknown" in dates:
            return "unknown", f"{text} says more than {shown}"
        if declared.is_multiple and not declared.is_complete:
            return "unknown", f"{text} is not among the known values of {declared.name}, which may not be all"
        return "contradicted", f"{declared.name} is {shown}, not {text}"

    def _is_near(self, value: Value, known: Known, declared: Attribute) -> bool:
        if not declared.absolute and not declared.relative:
            return False
        return any(
            is_near(value.quantity, other.quantity, absolute=declared.absolute, relative=declared.relative)
            for other in known.values
        )


def _compare_dates(found: Date, known: Date) -> Verdict:
    parts = [(found.year, known.year), (found.month, known.month), (found.day, known.day)]
    if any(a != b for a, b in parts if a is not None and b is not None):
        return "contradicted"
    return "unknown" if any(b is None and a is not None for a, b in parts) else "supported"


def load_knowledge_base(path: str | Path) -> KnowledgeBase:
    """Return the knowledge base of a JSON, JSON lines, CSV or SQLite file.

    Raises:
        DataError: The file cannot be read, or its facts cannot be used; with file, row and cure.
    """
    return _build(read_tables(Path(path)), str(path))


def build_knowledge_base(
    facts: Iterable[Mapping[str, Any]],
    *,
    attributes: Iterable[Mapping[str, Any]] = (),
    aliases: Iterable[Mapping[str, Any]] = (),
    place: str = "facts",
) -> KnowledgeBase:
    """Return the knowledge base of rows in memory, with the columns of `knowledge_rows`.

    Raises:
        DataError: A row lacks a column, or the facts cannot be used.
    """
    given = {"facts": facts, "attributes": attributes, "aliases": aliases}
    return _build(Tables(**{name: read_rows(rows, name, f"{place}:{name}") for name, rows in given.items()}), place)


def _build(tables: Tables, place: str) -> KnowledgeBase:
    if not tables.facts:
        raise DataError("the knowledge base has no facts", cure="give it at least one", place=place)
    base = KnowledgeBase()
    _declare_attributes(base, [*tables.attributes, *tables.facts])
    spellings: set[str] = set()
    for row in tables.facts:
        _name_entity(base, spellings, row)
    base.aliases = collect_aliases(tables, {"entity": base.entities, "attribute": base.attributes, "value": {}})
    places: dict[tuple[str, str, Value], str] = {}
    for row in tables.facts:
        _add_fact(base, places, row)
    return base


def _declare_attributes(base: KnowledgeBase, rows: list[Row]) -> None:
    """Gather each attribute's declarations over all rows, and build it once."""
    gathered: dict[str, tuple[str, dict[str, tuple[Any, str]]]] = {}
    for row in rows:
        name = read_text(row, "attribute")
        key = normalise_answer(name)
        first_name, declared = gathered.setdefault(key, (name, {}))
        if first_name != name and " ".join(first_name.split()) != " ".join(name.split()):
            _refuse_spellings("attributes", first_name, name, row.place)
        for column in DECLARED_COLUMNS:
            if (cell := row.cells.get(column)) is None:
                continue
            earlier = declared.setdefault(column, (cell, row.place))
            if earlier[0] != cell:
                raise DataError(
                    f"'{column}' of '{name}' is {cell!r}, and {earlier[0]!r} at {earlier[1]}",
                    cure="declare it once, or alike",
                    place=row.place,
                )
    for key, (name, declared) in gathered.items():
        base.attributes[key] = _read_attribute(name, declared)


def _read_attribute(name: str, declared: Mapping[str, tuple[Any, str]]) -> Attribute:
    def refuse(column: str, expected: str) -> DataError:
        cell, place = declared[column]
        return DataError(
            f"'{column}' of '{name}' is {cell!r}", expected=expected, cure="correct or remove it", place=place
        )

    def read_flag(column: str) -> bool:
        cell = declared.get(column, (False, ""))[0]
        flag = cell if isinstance(cell, bool) else _YES_AND_NO.get(str(cell).strip().casefold())
        if flag is None:
            raise refuse(column, "true or false")
        return flag

    type_name, unit = str(declared.get("type", ("any", ""))[0]), str(declared.get("unit", ("", ""))[0]).strip()
    if type_name not in get_args(ValueType):
        raise refuse("type", ", ".join(get_args(ValueType)))
    known_unit = find_unit(unit) if unit else None
    if unit and (known_unit is None or type_name in ("text", "date")):
        raise refuse("unit", "a unit that is known (m, kg, km/h, %), of a number")
    absolute = relative = Fraction(0)
    if "tolerance" in declared:
        found = _TOLERANCE.fullmatch(str(declared["tolerance"][0]))
        if found is None or type_name in ("text", "date"):
            raise refuse("tolerance", "a number in the attribute's unit, or a share such as 1%, of a number")
        amount = Fraction(found[1])
        factor = known_unit.factor if known_unit else Fraction(1)
        absolute, relative = (Fraction(0), amount / 100) if found[2] else (amount * factor, Fraction(0))
    is_multiple, is_complete = read_flag("multiple"), read_flag("complete")
    patterns = tuple(read_names(declared["patterns"][0])) if "patterns" in declared else ()
    for pattern in patterns:
        if pattern.count("{entity}") != 1 or pattern.count("{value}") != 1 or not pattern.startswith("{entity} "):
            raise refuse("patterns", "sentences such as '{entity} lies in {value}'")
    return Attribute(name, type_name, unit, absolute, relative, is_multiple, is_complete, patterns)  # type: ignore[arg-type]  # one of the literals, as checked


def _name_entity(base: KnowledgeBase, spellings: set[str], row: Row) -> None:
    """Note an entity; two spellings that cannot be told apart when they are looked up are refused."""
    name = read_text(row, "entity")
    if name in spellings:
        return
    key = normalise_answer(name)
    if key in base.entities:
        _refuse_spellings("entities", base.entities[key], name, row.place)
    base.entities[key] = name
    spellings.add(name)


def _refuse_spellings(kind: str, first: str, second: str, place: str) -> None:
    raise DataError(
        f"the {kind} '{first}' and '{second}' differ in case, punctuation or articles alone",
        expected="one spelling for one thing, and names that differ for two",
        cure="use one spelling everywhere, or tell them apart: 'Mercury (planet)'",
        place=place,
    )


def _add_fact(base: KnowledgeBase, places: dict[tuple[str, str, Value], str], row: Row) -> None:
    entity, attribute, text = (read_text(row, column) for column in FACT_COLUMNS)
    entity_key, attribute_key = normalise_answer(entity), normalise_answer(attribute)
    declared = base.attributes[attribute_key]
    value = base.read(attribute_key, text)
    if value is None:
        raise DataError(
            f"'{text}' is no {declared.type} as the attribute '{declared.name}' wants it",
            expected="1,250.5 or 3 km for a number; 2001-05-17, 17 May 2001, May 2001 or 2001 for a date",
            cure="correct the value or its unit, or declare another type",
            place=row.place,
        )
    known = base.facts.setdefault((entity_key, attribute_key), Known(place=row.place))
    where = places.get((entity_key, attribute_key, value))
    if where is not None or not known.keys.isdisjoint(value.keys()):
        raise DataError(
            f"the {declared.name} of '{entity}' is '{text}' at {where or known.place} too",
            cure="remove one of the rows",
            place=row.place,
        )
    if known.values and not declared.is_multiple:
        raise DataError(
            f"the {declared.name} of '{entity}' is '{text}', and '{known.texts[0]}' at {known.place}",
            expected="one value, since several are not declared",
            cure=f"remove one of them, declare 'multiple: true' for '{declared.name}', or make one a value alias",
            place=row.place,
        )
    places[entity_key, attribute_key, value] = row.place
    known.values.append(value)
    known.texts.append(make_plain(text))
    known.keys |= value.keys()
    base.value_texts.add(value.text)
