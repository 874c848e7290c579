"""The keys that every monitor has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posttrain.core.config import Config

TASK_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

OnAlarm = Literal["note", "hold"]


def check_named_once(names: list[str]) -> list[str]:
    """Refuse a task that is named twice: it would be tested twice.

    Raises:
        ValueError: See above.
    """
    if len(set(names)) < len(names):
        raise ValueError("each task may be named once")
    return names


class AlarmKeys(Config):
    """How sure an alarm must be, and what follows one.

    `level` is the chance of an alarm on a policy whose figures lie at their bounds, for all tests of the monitor
    together. `on_alarm: hold` stops a run after the stage.
    """

    level: float = Field(0.01, gt=0, le=0.2)
    on_alarm: OnAlarm = "note"


class MonitorKeys(AlarmKeys):
    """What a monitor is called beside: `name`, in readings and for `--override monitor:NAME`; none: its type."""

    name: str | None = Field(None, pattern=TASK_PATTERN)

    @property
    def label(self) -> str:
        """What readings call the monitor."""
        return self.name or str(getattr(self, "type", ""))
