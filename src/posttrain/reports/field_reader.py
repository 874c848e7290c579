"""Reads records of run.json key by key, and notes each value that is not what its key should hold.

A value that cannot be used is left out and never replaced by a number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.reports.raw_values import number_of, text_of
from posttrain.reports.visible_text import cut_text

MAX_NOTES = 40
_SHOWN_CHARACTERS = 60


@dataclass(slots=True)
class FieldReader:
    """Reads values; `notes` says where in run.json something else was found, and what.

    Example: `read_number({"low": "x"}, "low", "stage 1 (sft): gate")` is None, and the note is
    `run.json: stage 1 (sft): gate: low is 'x', not a number.`
    """

    notes: list[str] = field(default_factory=list)

    def note(self, place: str, said: str) -> None:
        """Add a note, each once and at most `MAX_NOTES`; an empty place is the record itself."""
        text = ": ".join(part for part in ("run.json", place, said) if part)
        if text not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def read_list(self, values: Mapping[str, Any], key: str, place: str) -> list[Any]:
        """Return a list as it is, and an empty one for everything else."""
        value = values.get(key)
        if isinstance(value, list):
            return value
        self.note(place, f"{self._say(values, key)}, not a list.")
        return []

    def read_records(self, values: Mapping[str, Any], key: str, place: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the records of a list, each with its place."""
        records = []
        for number, value in enumerate(self.read_list(values, key, place), start=1):
            where = f"{place}: {key} {number}" if place else f"{key} {number}"
            if isinstance(value, dict):
                records.append((where, value))
            else:
                self.note(where, f"{describe(value)} where a record is expected; it is left out.")
        return records

    def read_text(self, values: Mapping[str, Any], key: str, place: str, *, is_optional: bool = False) -> str:
        """Return a text, and an empty one for everything else."""
        value = values.get(key)
        if isinstance(value, str):
            return value
        if not (is_optional and value is None):
            self.note(place, f"{self._say(values, key)}, not text.")
        return ""

    def read_word(self, values: Mapping[str, Any], key: str, known: Collection[str], place: str) -> str:
        """Return a text that should be one of `known`; another one is returned too, with a note."""
        word = self.read_text(values, key, place)
        if word and word not in known:
            self.note(place, f"{self._say(values, key)}, none of {', '.join(known)}.")
        return word

    def read_number(
        self, values: Mapping[str, Any], key: str, place: str, *, is_optional: bool = False
    ) -> float | None:
        """Return a finite number, or None; a null is what was not finite, or is not there."""
        number = number_of(values.get(key))
        if number is None and not (values.get(key) is None and (is_optional or key in values)):
            self.note(place, f"{self._say(values, key)}, not a number.")
        return number

    def read_count(self, values: Mapping[str, Any], key: str, place: str, *, is_optional: bool = False) -> int | None:
        """Return a whole number from 0, or None."""
        number = self.read_number(values, key, place, is_optional=is_optional)
        if number is None or (number >= 0 and number == int(number)):
            return None if number is None else int(number)
        self.note(place, f"{self._say(values, key)}, not a count.")
        return None

    def read_flag(self, values: Mapping[str, Any], key: str, place: str) -> bool:
        """Return a boolean; everything else is false, with a note."""
        value = values.get(key)
        if not isinstance(value, bool):
            self.note(place, f"{self._say(values, key)}, neither true nor false.")
        return value is True

    def _say(self, values: Mapping[str, Any], key: str) -> str:
        return f"{key} is {describe(values[key])}" if key in values else f"{key} is missing"


def describe(value: Any) -> str:
    """Return a value of unknown origin in a few words: `nothing`, `a list of 3`, `'promte'`, `7`."""
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'record'} of {len(value)}"
    text, num_left_out = cut_text(f"'{value}'" if isinstance(value, str) else text_of(value), _SHOWN_CHARACTERS)
    return f"{text}…" if num_left_out else text
