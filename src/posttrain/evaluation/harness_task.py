"""A task of lm-evaluation-harness (EleutherAI), measured with this project's log-probs and sampler.

Nothing here imports the harness, so that a recipe is read where it is not installed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posttrain.core.config import Config

HARNESS = "harness"
"""The type of such a task, and in place of an interval's method where the harness's own standard error made it."""


class HarnessTask(Config):
    """One task of the harness: rows, prompts, filters and metrics are its own.

    `task` is its name there, `include` a folder of further ones as YAML. `shots` is the number of examples before
    the question (None: the task's own, else 0), `limit` the first so many documents. `metric` is what an item is worth:
    a metric of the task that has a value for every document, as `name` or `name,filter`; None: its first.
    `form: chat` puts prompts through the chat template, examples as turns of their own.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    type: Literal["harness"]
    task: str = Field(min_length=1, max_length=200)
    shots: int | None = Field(None, ge=0, le=1000)
    include: str | None = None
    limit: int | None = Field(None, ge=1)
    metric: str | None = Field(None, min_length=1, max_length=200)
    form: Literal["text", "chat"] = "text"
