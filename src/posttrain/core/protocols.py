"""Promises between rooms: what a part must do so that stages and the pipeline can use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.core.records import Completion, Outcome, Problem


class MetricsSink(Protocol):
    """Takes the metrics of a step: the JSONL file, a logger, a progress bar."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values under declared keys for one step."""

    def position(self) -> int:
        """Return where the sink's file ends, in bytes: what a checkpoint remembers; 0 without a file."""

    def rewind(self, position: int) -> None:
        """Forget what came after a remembered position, since those steps will be taken again."""

    def close(self) -> None:
        """Flush and release whatever the sink holds."""


class Progress(Protocol):
    """Shows how far something long has come; silent implementations are allowed."""

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Begin a task of `total` units."""

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Move on, and show the figures that matter (`loss=2.31`)."""

    def finish(self) -> None:
        """End the task."""

    def note(self, text: str) -> None:
        """Print one plain line without disturbing the bar."""


class Callback(Protocol):
    """A user's own code, called by the training loop; every method is optional in practice."""

    def on_step(self, step: int, metrics: Mapping[str, float], policy: Any) -> None:
        """Called after every optimizer step."""

    def on_save(self, step: int, folder: Path) -> None:
        """Called after every checkpoint."""


class TextTokenizer(Protocol):
    """What rendering needs of a tokenizer: text to ids with character offsets, and back."""

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """The text and id of every token that is matched in a text before anything else, special or not."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The text and id of every control token: what a message's own words must never become."""

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for text outside the vocabulary, if there is one."""

    def encode_with_offsets(
        self, text: str, *, specials_as_text: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the [start, end) characters of each, adding no special tokens.

        With `specials_as_text`, the text of a control token is encoded like any other text.
        """

    def encode_batch_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Return `encode_with_offsets` of each text, in order."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it stands inside a longer text: special tokens kept, nothing cleaned up."""


class TemplateRenderer(Protocol):
    """Turns messages into text by a chat template, wherever the template may run."""

    def render(self, requests: Sequence[Mapping[str, Any]]) -> list[str | Exception]:
        """Return one text, or the error that stands in its place, for each request, in order.

        A request holds `messages`, and where they apply `tools` and `add_generation_prompt`.
        """


class RowSource(Protocol):
    """Opens rows that do not come from a file: `lab:conversations`."""

    def __call__(self, name: str, split: str) -> Iterator[dict[str, Any]]:
        """Yield raw rows of a named set and split."""


class Scorer(Protocol):
    """Judges completions; order is kept and nothing is raised for what a policy wrote.

    A scorer may be called from any thread, any process and under a running event loop: it takes no signal and
    keeps no state between calls that changes an outcome. `scorers.calling.score_async` is the async twin.
    """

    name: str

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item."""


@dataclass(slots=True)
class RunContext:
    """What a stage is given beside its config, inputs and parts.

    `folder` is the stage's own working folder (checkpoints, metrics), kept across restarts. `num_snapshots` is how many
    times on its way the stage keeps its weights for whoever may want to go back; it changes no result.
    """

    folder: Path
    seed: int
    metrics: MetricsSink
    progress: Progress
    should_stop: Callable[[], bool]
    callbacks: list[Callback] = field(default_factory=list)
    log_every_steps: int = 10
    num_snapshots: int = 0
