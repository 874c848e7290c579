"""What the pipeline asks of a type of stage; each has a file of its name in this folder that answers, as `KIND`.

    find_kind(entry).run(job, entry.config)       # and plan, preflight, previews ask the same way

A type answers what it can: what is not overridden here is unknown to plan, not checked, and not shown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from posttrain.core.errors import RecipeError
from posttrain.pipeline.rounds import Round, derive_stage_seed
from posttrain.pipeline.stage_costs import StageCost
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_types import STAGE_TYPES

if TYPE_CHECKING:
    from posttrain.chat.rendering import Renderer
    from posttrain.core.protocols import Progress
    from posttrain.core.records import Artifact
    from posttrain.core.run_folder import StageFolder
    from posttrain.evaluation.monitors.reading import Reading
    from posttrain.pipeline.preflight.findings import Finding
    from posttrain.pipeline.recipe import Recipe
    from posttrain.pipeline.stage_jobs import StageJob, StageResult
    from posttrain.training.distributed import Ranks

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class StageSetting:
    """One round of a stage before it runs, and what surrounds it.

    Made by plan, preflight and previews. `base` is the recipe's model, whose shape the stage's policy has.
    """

    recipe: Recipe
    stage: Round
    base: Path
    renderer: Renderer
    ranks: Ranks
    progress: Progress
    allow_unsafe: bool = False

    @property
    def seed(self) -> int:
        """The round's seed."""
        return derive_stage_seed(self.recipe, self.stage)

    @property
    def context_tokens(self) -> int | None:
        """The model's longest row, None if it has no limit."""
        from posttrain.models.loading import read_context_tokens

        return read_context_tokens(self.base)


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What decides a stage's artifact beside what every stage has: choices, and the content of what it reads."""

    config: dict[str, Any]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """What preflight found in a stage's rows; `rows` are those on which its policy is checked before step 0, if any."""

    findings: list[Finding] = field(default_factory=list)
    rows: Any = None


class StageKind(ABC, Generic[C]):
    """A type of stage, whose configuration is of the class C."""

    @abstractmethod
    def identify(self, recipe: Recipe, entry: StageEntry, config: C) -> KeyParts:
        """Return what decides the artifact of a stage.

        Raises:
            DataError: A source cannot be read.
        """

    @abstractmethod
    def run(self, job: StageJob, config: C) -> StageResult:
        """Run a stage and return what it made.

        Raises:
            PosttrainError: Whatever stops the stage; its checkpoints stay.
        """

    def check_recipe(self, recipe: Recipe, config: C, context_tokens: int | None, ranks: Ranks) -> Sequence[str]:
        """Check what the recipe alone tells, and return the tasks by which the stage chooses its weights.

        Raises:
            PosttrainError: The stage cannot start.
        """
        return ()

    def estimate(self, setting: StageSetting, config: C, *, is_cached: bool) -> StageCost:
        """Return what a stage will cost; one that `is_cached` takes no time."""
        return StageCost()

    def check_rows(self, setting: StageSetting, config: C, *, is_new: bool) -> CheckedRows:
        """Return what rows say that needs no policy; no finding unless the stage `is_new` to preflight.

        Raises:
            DataError: Rows cannot be read or used at all.
        """
        return CheckedRows()

    def check_step_zero(self, setting: StageSetting, config: C, parent: Path, rows: Any) -> Finding:
        """Return what the policy in a folder says of the rows that `check_rows` gave, before the first step."""
        raise NotImplementedError(f"{type(self).__name__} gives rows and no check of them")

    def preview(self, setting: StageSetting, config: C, count: int) -> list[dict[str, Any]]:
        """Return some rows as they are trained on, token by token.

        Raises:
            RecipeError: There are none before the stage runs.
        """
        refuse_preview(setting.stage.entry.name)

    def read_outcome(self, config: C, folder: StageFolder) -> list[Reading]:
        """Return what a stage says of itself beside the tasks, from its working folder.

        Raises:
            StorageError: What was kept cannot be read.
        """
        return []

    def read_made(self, made: Artifact) -> list[Reading]:
        """Return what monitors say in an artifact that a stage made beside the policy, which it passes on.

        Raises:
            StorageError: What was kept cannot be read.
        """
        return []


def refuse_preview(stage: str) -> NoReturn:
    """Refuse to show the rows of a stage that has none of its own.

    Raises:
        RecipeError: Always.
    """
    raise RecipeError(
        f"stage '{stage}' is a plug-in, which alone knows its data, or trains on what it samples, or on nothing",
        expected="a stage that is trained on rows",
        cure="choose another with --stage",
        place=stage,
    )


def find_kind(entry: StageEntry) -> StageKind[Any]:
    """Return what the pipeline does with a stage, imported now."""
    name = entry.type if entry.type in STAGE_TYPES else "plugin"
    kind: StageKind[Any] = import_module(f"posttrain.pipeline.stage_kinds.{name}").KIND
    return kind
