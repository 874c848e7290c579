"""The typed parts of a recipe that belong to no stage: model, chat, loggers, and the keys of every stage."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from posttrain.chat.templates import DEFAULT_DATE
from posttrain.core.config import Config, display_field
from posttrain.data.contamination_index import KINDS, ContaminationSettings, Kind
from posttrain.evaluation.monitors.settings import MonitorSettings
from posttrain.evaluation.task import EvaluationTask
from posttrain.gates.rules import GateRules

NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Logger = Literal["tensorboard", "wandb", "mlflow", "trackio"]
BASE = "base"
"""What `from:` calls the recipe's own model; no stage may bear this name."""


class ModelSource(Config):
    """Where the base model comes from.

    `source` is a Hub id, a folder in Hugging Face format, an artifact's folder, or `lab:<name>`;
    `revision` pins a commit, tag or branch of a Hub id. A recipe may write the source alone.
    """

    source: str = Field(min_length=1)
    revision: str | None = None


class ChatSettings(Config):
    """How messages become text.

    `template` is `auto` (the tokenizer's own, else the plain one), `plain`, or the path of a .jinja file;
    `date` is what a template that asks for today's date is told; `arguments` go to the template.
    """

    template: str = Field("auto", min_length=1)
    date: str = DEFAULT_DATE
    arguments: dict[str, bool | int | float | str | None] = Field(default_factory=dict)

    @field_validator("date")
    @classmethod
    def _check_date(cls, value: str) -> str:
        try:
            is_written_in_full = datetime.date.fromisoformat(value).isoformat() == value
        except ValueError:
            is_written_in_full = False
        if not is_written_in_full:
            raise ValueError("a date is written YYYY-MM-DD")
        return value


def read_one_name(value: Any) -> Any:
    """Return a list for one name that stands alone: `monitors: auto`."""
    return [value] if isinstance(value, str) else value


class DecontaminationSettings(ContaminationSettings):
    """How training rows that hold evaluation items are found and left out.

    `kinds` are the ways of holding one that count. Where more than `max_fraction` of a source's rows hold one, the
    start is refused: then it is the data that is wrong, not some rows of it.
    """

    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS), min_length=1)
    max_fraction: float = Field(0.1, ge=0.0, le=1.0)


class RecipeHead(Config):
    """Every top-level key of a recipe but `schema` and `stages`."""

    name: Name
    seed: int = Field(0, ge=0)
    model: ModelSource
    chat: ChatSettings = Field(default_factory=ChatSettings)
    folder: str | None = display_field(None, min_length=1)
    loggers: list[Logger] = display_field(default_factory=list)
    evaluate: list[EvaluationTask] = Field(default_factory=list)
    monitors: list[MonitorSettings] = Field(default_factory=list)

    @field_validator("monitors", mode="before")
    @classmethod
    def _read_monitors(cls, value: Any) -> Any:
        return read_one_name(value)

    decontaminate: DecontaminationSettings | None = Field(default_factory=DecontaminationSettings)

    @field_validator("model", mode="before")
    @classmethod
    def _read_model(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _read_decontaminate(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("loggers")
    @classmethod
    def _check_named_once(cls, value: list[Logger]) -> list[Logger]:
        if len(set(value)) < len(value):
            raise ValueError("each logger may be named once")
        return value


class StageKeys(Config):
    """The keys that every stage has, whatever its type; `gate` is what its policy must hold to be passed on."""

    name: Name
    type: str = Field(min_length=1)
    parent: str | None = Field(None, alias="from")
    repeat: int = Field(1, ge=1, le=1000)
    gate: GateRules | None = None


STAGE_KEYS = ("name", "type", "from", "repeat", "gate")
TOP_KEYS = ("schema", *RecipeHead.model_fields, "stages")
