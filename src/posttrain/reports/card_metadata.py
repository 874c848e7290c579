"""The front matter of a model card: what the Hub reads, results in its schema (`model-index`) among it.

Source of the schema: Hugging Face Hub documentation, "Model Cards", and huggingface_hub's `ModelCardData`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.reports.matrix import MatrixRow
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.visible_text import cut_text, show_hidden

MAX_CHARACTERS = 200
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILE_ENDING = re.compile(r"\.(jsonl?|ndjson|txt|parquet|arrow|gz|xz)$")


def build_metadata(
    name: str, resolved: Mapping[str, Any], rows: Sequence[MatrixRow], entries: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Return the front matter's values; what is not known is left out.

    Args:
        name: Of the model.
        resolved: The recipe as understood.
        rows: The metrics.
        entries: Each metric's entry in run.json for the policy that the card speaks of, None where it has none.
    """
    stages = [mapping_of(stage) for stage in list_of(resolved.get("stages"))]
    source = find_base(resolved)
    sources = list_sources(resolved)
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if _HUB_NAME.fullmatch(source) and not _FILE_ENDING.search(source):
        metadata["base_model"] = source
    if source.startswith("lab:") and all(one.startswith("lab:") for one in sources):
        metadata["language"] = ["en"]
    metadata["tags"] = list(dict.fromkeys(["posttrain", *(_plain(text_of(stage.get("type"))) for stage in stages)]))
    named = [hub for one in sources if (hub := _find_hub_name(one))]
    if named:
        metadata["datasets"] = list(dict.fromkeys(named))
    tasks = {text_of(task.get("name")): task for task in map(mapping_of, list_of(resolved.get("evaluate")))}
    results = _list_results(rows, entries, tasks)
    if results:
        metadata["model-index"] = [{"name": _plain(name), "results": results}]
    return metadata


def write_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """Return the lines of the front matter; every text is a JSON string, which YAML reads as that text alone."""
    return ["---", *_write_lines(metadata, ""), "---", ""]


def find_base(resolved: Mapping[str, Any]) -> str:
    """Return the name of the model that a recipe starts from, empty where none is recorded."""
    model = resolved.get("model")
    return text_of(model.get("source")) if isinstance(model, dict) else text_of(model)


def list_sources(resolved: Mapping[str, Any]) -> list[str]:
    """Return the names of the data that stages are trained on, each once."""
    stages = [mapping_of(stage) for stage in list_of(resolved.get("stages"))]
    data = [mapping_of(one) for stage in stages for one in list_of(stage.get("data"))]
    return list(dict.fromkeys(text_of(one.get("source")) for one in data if one.get("source")))


def _find_hub_name(source: str) -> str:
    """Return the Hub's name of a data set, empty for a file, a folder below another, or generated rows."""
    prefix, _, rest = source.partition(":")
    name = rest.partition(":")[0] if prefix == "hub" else source
    return name if _HUB_NAME.fullmatch(name) and not _FILE_ENDING.search(name) else ""


def _list_results(
    rows: Sequence[MatrixRow], entries: Sequence[Mapping[str, Any] | None], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row, entry in zip(rows, entries, strict=True):
        value = number_of(entry.get("value")) if entry else None
        if entry is None or value is None:
            continue
        known = {key: number_of(entry.get(key)) for key in ("low", "high", "n", "clusters")}
        metric = {"type": _plain(row.name), "value": value, "name": _plain(row.name)}
        counts = ("n", "clusters")
        arguments = {key: int(part) if key in counts else part for key, part in known.items() if part is not None}
        by_task.setdefault(row.task, []).append(metric | ({"args": arguments} if arguments else {}))
    results = []
    for task, metrics in by_task.items():
        data = mapping_of(tasks.get(task, {}).get("data"))
        source = _plain(text_of(data.get("source"))) or _plain(task)
        dataset = {"type": _find_hub_name(source) or source, "name": _plain(task)}
        if data.get("split"):
            dataset["split"] = _plain(text_of(data.get("split")))
        results.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics})
    return results


def _plain(text: str) -> str:
    """Return a text without hidden characters and line breaks, at most `MAX_CHARACTERS` long."""
    return cut_text(" ".join(show_hidden(text).split()), MAX_CHARACTERS)[0] or "unnamed"


def _write_lines(value: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, part in value.items():
        if isinstance(part, Mapping):
            lines += [f"{indent}{key}:", *_write_lines(part, indent + "  ")]
        elif isinstance(part, list):
            lines.append(f"{indent}{key}:")
            for one in part:
                if isinstance(one, Mapping):
                    first, *rest = _write_lines(one, indent + "  ")
                    lines += [f"{indent}- {first.lstrip()}", *rest]
                else:
                    lines.append(f"{indent}- {json.dumps(one)}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(part)}")
    return lines
