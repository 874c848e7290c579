"""A strict reader of YAML 1.2: plain data in, plain data and its line numbers out.

What it reads is the part of YAML that has one meaning: mappings with text keys, sequences, and the
scalars of the core schema (`1e-5` is a number, `yes` and `2024-07-26` are texts). What it refuses:
duplicate keys, anchors, aliases and merge keys (a page of them can stand for gigabytes), tags (they
name code), directives, several documents, numbers that are not finite, more than 256 kB, and more than
32 levels. The values are built from parser events, so that no constructor of any library runs.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import RecipeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_INTEGER = 2**63

KeyPath = tuple[str | int, ...]
"""Where a value stands: `("stages", 0, "learning_rate")`."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Positions:
    """The place of every value of one recipe, by key path.

    Made by `read_yaml`, changed by overrides, read by whoever refuses a value. Example: for the text
    `a:\\n  b: 1` in demo.yaml, `describe(("a", "b"))` is `demo.yaml:2:3 (a.b)`, the place of the key.
    """

    name: str
    places: Mapping[KeyPath, str]

    def describe(self, path: KeyPath) -> str:
        """Return the place of a key path; a missing key is placed at the nearest mapping that exists."""
        known = self.nearest(path)
        keys = ".".join(str(part) for part in path)
        place = self.places.get(known, self.name)
        return f"{place} ({keys})" if keys and not place.startswith("--") else place

    def nearest(self, path: KeyPath) -> KeyPath:
        """Return the longest beginning of a key path that exists in the recipe."""
        while path and path not in self.places:
            path = path[:-1]
        return path


def read_file(path: Path) -> str:
    """Return the text of a recipe file.

    Raises:
        RecipeError: Missing, not a regular file, too large, binary, or not UTF-8.
    """
    place = str(path)
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
        if not is_regular:
            raise RecipeError(
                "this is a folder" if path.is_dir() else "this is not a regular file",
                expected="a recipe in YAML",
                cure="name the .yaml file itself",
                place=place,
            )
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"this file cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a recipe in YAML",
            cure=_suggest_file(path),
            place=place,
        ) from None
    if len(content) > MAX_BYTES:
        raise _too_large(place)
    return _decode(content, place)


def _too_large(place: str) -> RecipeError:
    return RecipeError(
        f"more than {MAX_BYTES // 1024} kB",
        expected="a recipe; data goes into files of its own",
        cure="name the data file with `source:`",
        place=place,
    )


def _suggest_file(path: Path) -> str:
    try:
        siblings = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return "check the path"
    return f"recipes in that folder: {', '.join(siblings[:10])}" if siblings else "check the path"


def _decode(content: bytes, place: str) -> str:
    if b"\x00" in content:
        raise RecipeError("this is a binary file", expected="a recipe in YAML, UTF-8 text", place=place)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8",
            expected="UTF-8 text",
            cure="save the file as UTF-8",
            place=f"{place}:{line}",
        ) from None


def read_yaml(text: str, name: str) -> tuple[Any, Positions]:
    """Return the one value that a YAML text holds, with the place of every key.

    Args:
        text: At most 256 kB.
        name: What the text is called in messages: a file name, or `--set seed`.

    Returns:
        The value (dict, list, str, int, float, bool, None) and its positions. An empty text is None.

    Raises:
        RecipeError: Not YAML, or YAML of a kind that is refused; the place has line and column.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _too_large(name)
    builder = _Builder(name)
    try:
        return builder.build(iter(YAML(typ="safe", pure=True).parse(text)))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise _syntax_error(str(error.problem or error.context), place) from None
    except YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        reason = str(getattr(error, "reason", "")) or "this is not YAML"
        raise RecipeError(
            f"{reason} (character {position})", expected="YAML 1.2 text", place=f"{name}:{line}"
        ) from None


def _syntax_error(problem: str, place: str) -> RecipeError:
    cure = "check the indentation, the quotes and the brackets before this place"
    if "'\\t'" in problem:
        problem, cure = "a tab where only spaces may stand", "indent with spaces"
    elif "mapping values are not allowed" in problem:
        cure = "put quotes around a text that holds ': ', or check the indentation"
    return RecipeError(problem, expected="YAML 1.2", cure=cure, place=place)


class _Builder:
    """Builds a value from parser events, keeping track of where it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}

    def build(self, events: Iterator[Any]) -> tuple[Any, Positions]:
        """Return the document's value and positions."""
        next(events)  # the start of the stream
        event = next(events)
        positions = Positions(self.name, self.places)
        if type(event).__name__ == "StreamEndEvent":
            return None, positions
        if getattr(event, "version", None) or getattr(event, "tags", None):
            raise self._refuse(event, (), "a directive (a line that begins with %)", "remove the line")
        value = self._value(next(events), events, ())
        next(events)  # the end of the document
        event = next(events)
        if type(event).__name__ != "StreamEndEvent":
            raise self._refuse(event, (), "a second document after '---'", "keep one recipe in a file")
        return value, positions

    def _value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        kind = type(event).__name__
        self.places.setdefault(path, self._place(event))
        if kind == "AliasEvent":
            raise self._refuse(event, path, f"the alias '*{event.anchor}'", "write the value out")
        if event.anchor is not None:
            raise self._refuse(event, path, f"the anchor '&{event.anchor}'", "remove it and write the value out")
        if event.tag is not None:
            raise self._refuse(event, path, f"the tag '{event.tag}'", "remove it: values are plain data")
        if kind == "ScalarEvent":
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise self._refuse(event, path[:3], f"more than {MAX_DEPTH} levels", "no key of a recipe lies so deep")
        if kind == "SequenceStartEvent":
            return self._sequence(events, path)
        return self._mapping(events, path)

    def _sequence(self, events: Iterator[Any], path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while type(event := next(events)).__name__ != "SequenceEndEvent":
            items.append(self._value(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while type(event := next(events)).__name__ != "MappingEndEvent":
            key = self._key(event, path)
            inner = (*path, key)
            if key in items:
                found = f"the key '{key}' twice (first at {self.places[inner]})"
                raise self._refuse(event, inner, found, "remove one of them")
            self.places[inner] = self._place(event)
            items[key] = self._value(next(events), events, inner)
        return items

    def _key(self, event: Any, path: KeyPath) -> str:
        if type(event).__name__ == "AliasEvent":
            raise self._refuse(event, path, f"the alias '*{event.anchor}'", "write the key out")
        if event.anchor is not None or event.tag is not None:
            raise self._refuse(event, path, "an anchor or a tag on a key", "remove it")
        if type(event).__name__ != "ScalarEvent":
            raise self._refuse(event, path, "a key that is a list or a mapping", "keys are texts")
        key = self._scalar(event, path)
        if not isinstance(key, str):
            raise self._refuse(event, path, f"the key {event.value!r}, which is not a text", "put quotes around it")
        if key == "<<" and event.implicit[0]:
            raise self._refuse(event, path, "the merge key '<<'", "write the keys out")
        return key

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text = str(event.value)
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
            raise self._refuse(event, path, "half of a surrogate pair", "write the character itself")
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        try:
            return resolve_scalar(text)
        except ValueError as error:
            raise self._refuse(event, path, str(error), "write null for 'none', or a number in range") from None

    def _place(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"

    def _refuse(self, event: Any, path: KeyPath, found: str, cure: str) -> RecipeError:
        keys = ".".join(str(part) for part in path)
        place = f"{self._place(event)}{f' ({keys})' if keys else ''}"
        return RecipeError(f"found {found}", expected="plain YAML 1.2 data", cure=cure, place=place)


def resolve_scalar(text: str) -> Any:
    """Return what an unquoted scalar means in YAML 1.2's core schema.

    Raises:
        ValueError: A number that is not finite, or an integer beyond 64 bits.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            number = int(text if base == 10 else text[2:], base) if len(text) <= 30 else MAX_INTEGER
            if not -MAX_INTEGER <= number < MAX_INTEGER:
                raise ValueError(f"an integer beyond 64 bits ({text[:30]}...)")
            return number
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"a number too large for a float ({text[:30]})")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"the number {text}, which is not finite")
    return text
