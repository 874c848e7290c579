"""What a curation is asked for: sources, settings, what gives values; and what of it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.core.output_paths import check_outputs
from posttrain.data.curation_settings import CurationSettings, ValueBand
from posttrain.data.sources import DataSource
from posttrain.pipeline.contamination import RowsChoice
from posttrain.pipeline.scorer_settings import FunctionSettings, list_parts
from posttrain.pipeline.yaml_reader import read_file, read_yaml
from posttrain.scorers.language import list_languages

SCORER_PLACE = "--scorer"


@dataclass(frozen=True, slots=True)
class CurationRequest:
    """What to curate: made by the command line, read by `curate`.

    `against` names evaluation items; `model` weighs answers by perplexity, `scorer` judges them, one of them at most;
    `model` also counts tokens where a bound of length is in tokens. `config` is the file that settings came from.
    """

    sources: RowsChoice
    settings: CurationSettings
    against: RowsChoice | None = None
    model: str | None = None
    scorer: str | None = None
    config: Path | None = None


def read_settings(path: Path | None, changes: Mapping[str, Any]) -> CurationSettings:
    """Return the settings of a YAML file with some of them changed; of a mapping (`band`) only the keys that are named.

    Raises:
        RecipeError: The file or a change is none of `CurationSettings`.
    """
    values: Any = {}
    if path is not None:
        values, _ = read_yaml(read_file(path), str(path))
        values = {} if values is None else values
    place = str(path) if path is not None else "data curate"
    if not isinstance(values, dict):
        raise RecipeError(f"found a {type(values).__name__}", expected="a mapping of settings", place=place)
    merged = {**values, **changes}
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(name), dict):
            merged[name] = {**values[name], **change}
    settings: CurationSettings = parse_config(CurationSettings, merged, place=place)
    unknown = [name for name in settings.languages if name not in list_languages()]
    if unknown:
        known = ", ".join(list_languages())
        raise RecipeError(f"no language is called '{unknown[0]}'", expected=f"codes of {known}", place="languages")
    return settings


def check_request(request: CurationRequest, outputs: Mapping[str, Path | None]) -> None:
    """Refuse what would replace an input, and what would be asked for in vain.

    Args:
        request: What to curate.
        outputs: Where is written, by the option that says so.

    Raises:
        RecipeError: An output is an input or another output; two things give the values, or none where a band of them
            is asked for; tokens are to be counted without a model; items are named and not looked for.
    """
    check_outputs(outputs, _list_inputs(request))
    settings = request.settings
    if request.model is not None and request.scorer is not None:
        raise RecipeError("both a model and a scorer", expected="one of them gives the values", place="--scorer")
    if request.model is None and any(bounds.unit == "tokens" for bounds in settings.lengths):
        cure = "name a model with --model, or bound words"
        raise RecipeError("lengths in tokens and no model", expected="a tokenizer", cure=cure, place="lengths")
    if request.model is None and request.scorer is None and settings.band != ValueBand():
        raise RecipeError(
            "a band of values, and nothing that gives them",
            expected="a model or a scorer with --low, --high or 'band'",
            cure="name one with --model or --scorer, or leave the band out",
            place="band",
        )
    if request.against is not None and settings.contamination is None:
        raise RecipeError(
            "evaluation items are named and 'contamination' is null: none would be looked for",
            expected="both or neither",
            cure="leave 'contamination' out of --config, or --against",
            place="--against",
        )


def list_sources(request: CurationRequest) -> list[DataSource]:
    """Return the sources of rows, in their order."""
    choice = request.sources
    return [
        parse_config(
            DataSource, {"source": reference, "split": choice.split, "columns": choice.columns}, place="data curate"
        )
        for reference in choice.references
    ]


def read_scorer_text(text: str) -> str | dict[str, Any]:
    """Return a scorer as a recipe writes it from what a command line holds: a name, a reference, or a YAML mapping.

    Raises:
        RecipeError: It begins as a mapping and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    value, _ = read_yaml(text, SCORER_PLACE)
    if not isinstance(value, dict):
        raise RecipeError(f"found {text[:100]!r}", expected="a mapping: {type: math}", place=SCORER_PLACE)
    return value


def _list_inputs(request: CurationRequest) -> list[Path]:
    names = [*request.sources.references, *(request.against.references if request.against is not None else ())]
    names += [request.model] if request.model is not None else []
    if request.scorer is not None:
        for part in list_parts(read_scorer_text(request.scorer), place=SCORER_PLACE):
            base = getattr(part, "knowledge_base", None)
            names += [base] if base is not None else []
            names += [part.reference.partition(":")[0]] if isinstance(part, FunctionSettings) else []
    return [Path(name) for name in names if "\0" not in name] + ([request.config] if request.config else [])
