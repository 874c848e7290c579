"""Making the lab's base model: pretraining by a recipe, a card, and a folder of at most ten megabytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chat.sentencepiece_file import SENTENCEPIECE_FILE
from posttrain.core.durable import read_json, write_folder, write_json, write_text
from posttrain.core.errors import ModelError, RefusedError
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.lab.base_model import BASE_VERSION, CARD
from posttrain.lab.source import LAB_VERSION
from posttrain.lab.world import WORLD_SEED
from posttrain.models.exporting import export_policy
from posttrain.pipeline.lab_card import CardSettings, format_card, measure_card
from posttrain.pipeline.lab_export import check_is_new
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.run import run_recipe

BASE_RECIPE = Path(__file__).parent.parent / "lab" / "base.yaml"
MAX_BYTES = 10 << 20
_FILES = (
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", SENTENCEPIECE_FILE),
)
"""What a base has; a chat template is none of it."""


@dataclass(frozen=True, slots=True)
class BuiltBase:
    """Where a base was written, and its card."""

    folder: Path
    card: Mapping[str, Any]


def build_lab_base(
    out: Path,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None,
    progress: Progress,
    should_stop: Callable[[], bool],
    settings: CardSettings,
) -> BuiltBase:
    """Pretrain the base model and write its folder; stopped at any time, the same call goes on where it stood.

    Args:
        out: The folder to write; it must not exist yet.
        overrides: Changes of the recipe (`pretrain.learning_rate=1e-3`).
        folder: The run folder, None for the recipe's own.
        progress: Shows how far it has come.
        should_stop: Asked after every step.
        settings: How the card is measured.

    Raises:
        RefusedError: The folder exists, or the model is larger than ten megabytes.
        PosttrainError: Whatever stopped the run.
    """
    check_is_new(out)
    recipe = read_recipe(BASE_RECIPE, overrides, folder=folder)
    run = RunFolder(run_recipe(recipe, progress=progress, should_stop=should_stop))
    record = read_json(run.run_json)
    stage = record["stages"][-1]
    artifact = run.artifacts / stage["outputs"]["policy"]
    card = {"name": f"lab:base@{BASE_VERSION}" if not overrides else f"a base like lab:base@{BASE_VERSION}"}
    card |= describe_training(recipe, record, run) | {"measured": measure_card(str(artifact), settings, progress)}

    def fill(target: Path) -> None:
        exported = target / "exported"
        export_policy(artifact, exported, weights_dtype="bfloat16")
        for name in _FILES:
            shutil.move(exported / name, target / name)
        shutil.rmtree(exported)
        write_json(target / CARD, card)
        write_text(target / "README.md", format_base_card(card))
        size = sum(path.stat().st_size for path in target.iterdir())
        if size > MAX_BYTES:
            raise RefusedError(f"the base takes {size:,} bytes", expected=f"at most {MAX_BYTES:,}", place=str(out))

    write_folder(out, fill)
    return BuiltBase(out, card)


def describe_training(recipe: Recipe, record: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """Return what a base was made from: world, data, steps, losses, seconds.

    Raises:
        ModelError: The run has no metrics of a stage.
    """
    folders = [run.stage(index, entry.name) for index, entry in enumerate(recipe.stages)]
    logged = [_read_metrics(folder.metrics) for folder in folders]
    validated = [line["validation/loss"] for line in logged[-1] if "validation/loss" in line]
    trained = [[line for line in lines if "loss" in line][-1] for lines in logged]
    return {
        "lab_version": LAB_VERSION,
        "world_seed": WORLD_SEED,
        "recipe_hash": record["recipe_hash"],
        "documents": sum(read_json(folder.ledger)["rows_in"] for folder in folders),
        "tokens": sum(int(line["num_tokens"]) for line in trained),
        "steps": sum(line["step"] for line in trained),
        "seconds": sum(_estimate_seconds(lines) for lines in logged),
        "loss": trained[-1]["loss"],
        "validation_loss": validated[-1] if validated else None,
        "versions": record["versions"],
        "machine": record["machine"]["processor"],
    }


def _estimate_seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    """Return the time of a stage's steps: the mean of those that were logged, however often it was stopped."""
    timed = [line["time/step_seconds"] for line in lines if "time/step_seconds" in line]
    last = max(line["step"] for line in lines)
    return round(last * sum(timed) / len(timed), 1) if timed else 0.0


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    if not any("loss" in line for line in lines):
        raise ModelError("the run has no metrics of a stage", expected="logged steps", place=str(path))
    return lines


def format_base_card(card: Mapping[str, Any]) -> str:
    """Return a base's card as a page."""
    validation = card["validation_loss"]
    loss = f"{card['loss']:.3f} nats a token" + (
        f", {validation:.3f} on documents kept back for development" if validation else ""
    )
    settings = card["measured"]["settings"]
    return (
        f"# {card['name']}\n\n"
        "The base model of the lab: it has read the lab's corpus and knows nothing of chats. Apache-2.0, made by\n"
        "`posttrain lab build` from a seed; nothing in it comes from anywhere else.\n\n"
        f"* Data: {card['documents']:,} generated documents and pages, {card['tokens']:,} tokens, each read once "
        f"(world {card['world_seed']}, lab version {card['lab_version']}).\n"
        f"* Training: {card['steps']:,} steps, {card['seconds'] / 60:.0f} minutes; loss {loss}.\n"
        f"* Measured on {settings['num_questions']} {settings['split']} questions of each skill, "
        f"{settings['num_samples']} samples each at temperature {settings['temperature']:g}, asked as the corpus "
        "asks.\n\n" + format_card(card["measured"])
    )
