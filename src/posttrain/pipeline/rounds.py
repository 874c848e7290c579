"""The rounds of a recipe: `repeat: 3` makes three of a stage, each starting from the one before."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.core.seeds import derive_seed
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_entries import StageEntry


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one stage: `repeat: 3` makes three, each starting from the one before.

    `index` counts all rounds of the recipe from 0.
    """

    entry: StageEntry
    number: int
    index: int

    @property
    def label(self) -> str:
        """The name that metrics and reports show."""
        return self.entry.name if self.number == 1 else f"{self.entry.name} (round {self.number})"


def list_rounds(recipe: Recipe) -> list[Round]:
    """Return every round of every stage, in the order in which they run."""
    pairs = [(entry, number) for entry in recipe.stages for number in range(1, entry.repeat + 1)]
    return [Round(entry, number, index) for index, (entry, number) in enumerate(pairs)]


def derive_stage_seed(recipe: Recipe, stage: Round) -> int:
    """Return the seed of one round of a stage."""
    return derive_seed(recipe.seed, "stage", stage.entry.name, stage.number)
