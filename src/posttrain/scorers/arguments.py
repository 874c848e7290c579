"""Reading a constraint's arguments from a problem's columns: each with its type, or an error that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from posttrain.core.errors import DataError

Relation = Literal["at least", "less than", "at most", "exactly", "more than"]
Kind = Literal["text", "number", "list", "mapping", "flag"]


class Arguments:
    """The named arguments of one constraint; a null counts as absent.

    Made by a scorer from a problem's columns, read by the constraint's builder. Example:
    `Arguments({"num_words": 300, "relation": "at least"}, owner="length_constraints:number_words", place="row-7")`.

    Args:
        values: Names and values as they stand in the data.
        owner: The constraint's id, for errors.
        place: The problem's id, for errors.
    """

    def __init__(self, values: Mapping[str, Any], *, owner: str, place: str) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self.owner = owner
        self.place = place

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> list[str]:
        """Return the names that have a value."""
        return list(self._values)

    def raw(self, name: str, expected: str) -> Any:
        """Return a value as it stands.

        Raises:
            DataError: It is absent.
        """
        if name not in self._values:
            raise self.error(f"'{self.owner}' has no '{name}'", expected=expected)
        return self._values[name]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text that is not blank.

        Raises:
            DataError: It is absent and has no default, or is no such text.
        """
        if default is not None and name not in self._values:
            return default
        value = self.raw(name, "a text")
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected="a text that is not blank")
        return value

    def number(self, name: str, default: int | None = None, *, smallest: int = 0) -> int:
        """Return a whole number from `smallest` up; 3.0 is one (tables store integers with gaps as floats).

        Raises:
            DataError: It is absent and has no default, or is no such number.
        """
        if default is not None and name not in self._values:
            return default
        value = self.raw(name, "a whole number")
        is_whole = not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
        if not is_whole or value < smallest:
            raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected=f"a whole number from {smallest} up")
        return int(value)

    def texts(self, name: str, default: list[str] | None = None) -> list[str]:
        """Return a list of at least one text.

        Raises:
            DataError: It is absent and has no default, or is no such list.
        """
        if default is not None and name not in self._values:
            return default
        value = self.raw(name, "a list of texts")
        if not isinstance(value, list | tuple) or not value or not all(isinstance(x, str) and x for x in value):
            raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected="a list of at least one text")
        return list(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a yes or no.

        Raises:
            DataError: It is neither true nor false.
        """
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected="true or false")
        return value

    def mapping(self, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return names with values; nulls inside it stay.

        Raises:
            DataError: It is absent and has no default, or is no mapping.
        """
        if default is not None and name not in self._values:
            return default
        value = self.raw(name, "a mapping")
        if not isinstance(value, Mapping):
            raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected="a mapping of names to values")
        return dict(value)

    def relation(self, name: str) -> Relation:
        """Return how a count is compared with its target.

        Raises:
            DataError: It is absent or no relation that is known.
        """
        value = self.raw(name, "a relation")
        for relation in get_args(Relation):
            if value == relation:
                return relation
        raise self.error(f"'{name}' of '{self.owner}' is {value!r}", expected=f"one of {', '.join(get_args(Relation))}")

    def error(self, found: str, *, expected: str = "") -> DataError:
        """Return the error of these arguments, to be raised by who reads them."""
        return DataError(found, expected=expected, cure="correct the row, or leave it out", place=self.place)


def holds(count: int, relation: Relation, target: int) -> bool:
    """Return whether a count stands in a relation to its target."""
    if relation == "at least":
        return count >= target
    if relation == "less than":
        return count < target
    if relation == "at most":
        return count <= target
    if relation == "more than":
        return count > target
    return count == target
