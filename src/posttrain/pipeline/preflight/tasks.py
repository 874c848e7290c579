"""The checks of an evaluation task: its rows against its cap, and its scorer against its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_json
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.harness_metrics import choose_metric
from posttrain.evaluation.harness_task import HARNESS, HarnessTask
from posttrain.evaluation.task import GenerationTask
from posttrain.pipeline.harness import prepare_harness
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.length_caps import check_length_caps
from posttrain.pipeline.preflight.override_names import name_task
from posttrain.pipeline.preflight.references import MAX_ROWS, load_references
from posttrain.pipeline.preflight.scorer import check_scorer
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.scorers import ScorerContext, build_scorer, hash_scorer
from posttrain.pipeline.selecting import hash_chooser
from posttrain.pipeline.wiring import fingerprint_sources

VERSION = 1
"""Part of what findings are kept under: raised whenever the same task could be found otherwise."""


def check_task(
    recipe: Recipe, task: GenerationTask, renderer: Renderer, context: ScorerContext, context_tokens: int | None
) -> list[Finding]:
    """Return what is found of a task; what passed once, with the same rows, scorer and template, is not done again.

    Args:
        recipe: Says where paths start and where the cache is.
        task: The task.
        renderer: Turns its rows into tokens.
        context: What its scorer is built with.
        context_tokens: The model's context; None if it has no limit.

    Raises:
        DataError: The rows cannot be read, have no prompt, or lack what the scorer reads.
        RecipeError: The scorer cannot be built.
    """
    place = name_task(task.name)
    kept = _find_kept(recipe, task, renderer, context, context_tokens)
    if (known := _read_kept(kept)) is not None:
        return [Finding(place, **values) for values in known]
    references = load_references(
        recipe, task.data, renderer, MAX_ROWS, recipe.seed, task.name, benchmark=task.benchmark
    )
    scorer, *_ = (build_scorer(value, context) for value in task.scorers.values())
    findings = [
        check_length_caps(place, task, references, context_tokens),
        check_scorer(place, scorer, references, renderer.format.stop_ids[0]),
    ]
    if all(finding.status != "refused" for finding in findings):
        values = [finding.to_json() for finding in findings]
        write_json(kept, {"findings": [{key: value[key] for key in value if key != "stage"} for value in values]})
    return findings


def check_harness_task(recipe: Recipe, task: HarnessTask, renderer: Renderer, *, allow_unsafe: bool) -> Finding:
    """Return what is found of a task of lm-evaluation-harness: its first documents are loaded, and none is asked.

    Raises:
        RecipeError: The harness is not installed, or has no such task.
        RefusedError: The task cannot be measured.
        DataError: Its data cannot be read.
    """
    few = task.model_copy(update={"limit": min(task.limit or MAX_ROWS, MAX_ROWS)})
    loaded, _ = prepare_harness(few, recipe.roots, renderer, "", allow_unsafe=allow_unsafe)
    found = f"{task.task} asks for {loaded.output_type}; an item is worth {choose_metric(task, loaded)}"
    return Finding(name_task(task.name), HARNESS, "passed", found, figures={"documents": len(loaded.docs)})


def _find_kept(
    recipe: Recipe, task: GenerationTask, renderer: Renderer, context: ScorerContext, context_tokens: int | None
) -> Path:
    """Return the file of what was found of a task, named by all that decides it."""
    tokenizer: Any = renderer.tokenizer
    key = hash_json(
        {
            "version": VERSION,
            "task": task.identity(),
            "rows": fingerprint_sources(recipe, [task.data]),
            "scorer": [*hash_scorer(task.scorer, context), *hash_chooser(task, context)],
            "chat": renderer.format.hash,
            "tokenizer": tokenizer.content_hash,
            "context_tokens": context_tokens,
            "seed": recipe.seed,
        }
    )
    return RunFolder(recipe.folder).cache / "preflight" / f"{key}.json"


def _read_kept(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        return list(read_json(path)["findings"])
    except (StorageError, KeyError, TypeError):
        return None
