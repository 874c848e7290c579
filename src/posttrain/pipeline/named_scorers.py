"""Scorers that a command line names: `lab`, `rewards.py:brevity`, or a YAML mapping; paths start where it was typed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.core.protocols import Scorer
from posttrain.pipeline.curation_request import read_scorer_text
from posttrain.pipeline.recipe_checks import find_scorer_plugins
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.scorers import build_context, build_scorer, hash_scorer, name_scorer


@dataclass(frozen=True, slots=True)
class NamedScorer:
    """A scorer as it was typed, built. `identity` decides what it says, by content."""

    name: str
    scorer: Scorer
    identity: list[Any]


def build_named_scorer(text: str, *, place: str, allow_unsafe: bool = False) -> NamedScorer:
    """Return the scorer that a text names.

    Raises:
        RecipeError: No such scorer, its settings do not fit, or the user's code cannot be imported.
    """
    value = read_scorer_text(text)
    roots = declare_roots(Path.cwd() / "scorer.yaml")
    plugins = find_scorer_plugins(value, roots, place)
    context = replace(build_context(roots, plugins, allow_unsafe=allow_unsafe), place=place)
    return NamedScorer(name_scorer(value), build_scorer(value, context), hash_scorer(value, context))
