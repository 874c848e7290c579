"""Whether a stage's largest step fits into the memory that is free, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from posttrain.models.lora_settings import LoraSettings
from posttrain.pipeline import estimates
from posttrain.pipeline.estimates import StepWork
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.override_names import MEMORY
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.stage_costs import TrainingConfig
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.distributed import Ranks
from posttrain.training.memory import MemoryEstimate

C = TypeVar("C", bound=TrainingConfig)

_PROPOSED_RANK = 16


# many parameters: whose step it is, what it computes, and where
def check_memory(
    stage: str,
    folder: Path,
    config: C,
    build_work: Callable[[C], StepWork],
    ranks: Ranks,
    *,
    longest: int,
) -> Finding:
    """Return whether a stage's largest step fits, with activation checkpointing where the stage may use it.

    Args:
        stage: The stage's label.
        folder: A policy of the shape that the stage starts from.
        config: Its configuration.
        build_work: Gives what the steps of a changed configuration compute.
        ranks: The processes that share a step.
        longest: Tokens of the longest row, which no budget makes shorter.
    """

    def estimate(**changes: Any) -> MemoryEstimate:
        changed = config.model_copy(update=changes)
        return estimates.estimate_memory(folder, changed, build_work(changed), ranks)

    needed, free = estimate(), estimates.find_free_memory()
    figures = {
        "needed_bytes": needed.total - needed.process,
        "free_bytes": free,
        "weights_bytes": needed.weights,
        "optimizer_bytes": needed.optimizer,
        "activations_bytes": needed.activations,
        "copies_bytes": needed.copies,
        "drawing_bytes": needed.drawing,
        "micro_batch_tokens": config.micro_batch_tokens,
    }
    found = f"a step needs about {_show(needed.total - needed.process)}, and {_show(free)} are free"
    if estimates.fits_memory(needed):
        return Finding(stage, MEMORY, "passed", found, figures=figures)
    expected = f"at most {estimates.MEMORY_SHARE:.0%} of what is free"
    ways = []
    for options in _list_changes(config, longest):
        for words, changes in options:
            other = estimate(**changes)
            if estimates.fits_memory(other):
                ways.append(f"set {words} ({_show(other.total - other.process)})")
                break
    cure = " or ".join(ways) or (
        "no setting of this stage is enough: a smaller model, shorter rows (max_length), several processes, or a "
        "machine with more memory"
    )
    return Finding(stage, MEMORY, "refused", found, expected, cure, figures)


def _list_changes(config: TrainingConfig, longest: int) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield what could make a step smaller, each in words and as keys, mildest first."""
    if config.activation_checkpointing == "off":
        kind: Any = type(config)
        allowed = get_args(kind.model_fields["activation_checkpointing"].annotation)
        setting = "auto" if "auto" in allowed else "on"
        yield [(f"activation_checkpointing: {setting}", {"activation_checkpointing": setting})]
    budgets = []
    tokens = config.micro_batch_tokens // 2
    while tokens >= longest:  # no budget makes the longest row shorter
        budgets.append((f"micro_batch_tokens: {tokens}", {"micro_batch_tokens": tokens}))
        tokens //= 2
    yield budgets
    if config.dtype == "float32":
        yield [("dtype: bfloat16", {"dtype": "bfloat16"})]
    if config.adapter is None and config.adapter_start is None:
        yield [(f"adapter: {{rank: {_PROPOSED_RANK}}}", {"adapter": LoraSettings(rank=_PROPOSED_RANK)})]


def shape_adapter(recipe: Recipe, entry: StageEntry, config: C) -> C:
    """Return a stage's configuration with the adapter that it goes on with, where another stage says which."""
    if config.adapter is not None or config.adapter_start != "continue":
        return config
    return config.model_copy(update={"adapter": find_trained_adapter(recipe, entry)})


def find_trained_adapter(recipe: Recipe, entry: StageEntry) -> LoraSettings | None:
    """Return the shape of the adapter that a stage trains, which may be that of a stage before it; None if none."""
    entries = {other.name: other for other in recipe.stages}
    while isinstance(entry.config, TrainingKeys):
        if entry.config.adapter is not None or entry.config.adapter_start != "continue" or entry.parent == BASE:
            return entry.config.adapter
        entry = entries[entry.parent]
        while find_stage_type(entry.type).passes_policy_on and entry.parent != BASE:
            entry = entries[entry.parent]
    return None


def _show(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
