"""How each task was measured: settings of drawing, chat template, rows; so that no number stands without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.reports.field_reader import FieldReader, describe
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of

_KEYS = ("task_hash", "template", "settings")


@dataclass(frozen=True, slots=True)
class Measuring:
    """One way in which a task was measured, and after which stages; hashes are empty where none is recorded.

    Example: task `facts`, stages `base, sft`, settings `greedy · max new tokens 128`.
    """

    task: str
    stages: str
    settings: str
    template: str
    task_hash: str


def list_measuring(run: Mapping[str, Any], reader: FieldReader) -> list[Measuring]:
    """Return the ways in which the tasks of run.json were measured; a task measured in two ways has two rows."""
    stages: dict[tuple[str, str, str, str], list[str]] = {}
    for number, metric in enumerate(map(mapping_of, list_of(run.get("metrics"))), start=1):
        if all(metric.get(key) is None for key in _KEYS):
            continue
        place = f"metrics {number}"
        settings = metric.get("settings")
        if settings is not None and not isinstance(settings, dict):
            reader.note(place, f"settings is {describe(settings)}, not settings by name.")
        key = (
            text_of(metric.get("task")),
            describe_settings(mapping_of(settings)),
            reader.read_text(metric, "template", place, is_optional=True),
            reader.read_text(metric, "task_hash", place, is_optional=True),
        )
        stages.setdefault(key, []).append(text_of(metric.get("stage")))
    return [
        Measuring(task, ", ".join(dict.fromkeys(names)), settings, template, task_hash)
        for (task, settings, template, task_hash), names in stages.items()
    ]


def _name_value(value: Any) -> str:
    """Return a setting as text; of a scorer with settings its type, and the names of its components."""
    if not isinstance(value, dict) or "type" not in value:
        return text_of(value)
    names = [text_of(mapping_of(one).get("name")) for one in list_of(value.get("components"))]
    return text_of(value["type"]) + (f" of {', '.join(names)}" if names else "")


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return settings in a line: `generation · greedy · max new tokens 128`; what is None is off and is not named."""
    parts = []
    for name, value in settings.items():
        number = number_of(value)
        if name == "temperature" and number == 0:
            parts.append("greedy")
        elif name == "type":
            parts.append(text_of(value))
        elif value is not None:
            parts.append(f"{name.replace('_', ' ')} {_name_value(value) if number is None else f'{number:g}'}")
    return " · ".join(parts)
