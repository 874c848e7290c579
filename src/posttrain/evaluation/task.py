"""What is measured: rows, and how their answers are drawn or weighed, and judged.

| type | what the policy does | what an item is worth |
| --- | --- | --- |
| `generation` | answers | what a scorer says |
| `choice` | weighs given answers by their log-likelihood | 1 where the right one is likeliest |
| `perplexity` | weighs a text | the geometric mean probability of its tokens |
| `harness` | what a task of lm-evaluation-harness asks | what the harness says |

A task that names a `benchmark` has that one's settings where it says nothing itself, and reads its published rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from posttrain.core.config import Config, display_field, optional_field
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import canonical_json, hash_pieces
from posttrain.core.records import Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.data.evaluation_items import LEAK_ANSWERS, LEAK_QUESTION
from posttrain.data.sources import DataSource
from posttrain.evaluation.harness_task import HARNESS, HarnessTask
from posttrain.evaluation.suites.registry import find_benchmark
from posttrain.rollouts.environments import EnvironmentSettings
from posttrain.samplers.best_of_n import By

GENERATION, CHOICE, PERPLEXITY = "generation", "choice", "perplexity"
DEVELOPMENT = "development"
Normalisation = Literal["sum", "token", "byte"]
Form = Literal["chat", "text"]
MAX_SHOTS = 1000


class _Task(Config):
    """The keys that every task has.

    `name` is part of the file name of its items. `data` are the rows that results are told of; `development` are rows
    for selection: the best checkpoint, the search for a repair. `benchmark` says in which published form the rows of
    both stand. `parts` are parts of the outcomes that are reported beside their value.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    data: DataSource
    development: DataSource | None = None
    benchmark: str | None = optional_field()
    parts: list[str] = display_field(default_factory=list)

    BESIDE: ClassVar[tuple[str, ...]] = ("name", "data", "development", "shots_from")
    """Fields that do not say how a row is measured, or say it by what they hold."""

    @field_validator("data", "development", "shots_from", check_fields=False)
    @classmethod
    def _check_data(cls, value: DataSource | None) -> DataSource | None:
        if value is not None and value.proportion is not None:
            raise ValueError("a task has one source and mixes nothing: leave 'proportion' out")
        return value

    @model_validator(mode="after")
    def _check_development(self) -> _Task:
        if self.development is not None and self.development == self.data:
            raise ValueError("'development' are the rows of 'data': what is selected on them is not measured by them")
        return self


class _AskedTask(_Task):
    """The keys of tasks that ask something.

    `form: text` asks without a chat template: the texts of a prompt as they stand. `shots` solved examples stand before
    each question, rows of `shots_from` in the order of a draw by `shots_seed` (None: as they stand); `shots_by` names
    a column in which they agree with the question.
    """

    form: Form = optional_field("chat")
    shots: int = optional_field(0, ge=0, le=MAX_SHOTS)
    shots_from: DataSource | None = optional_field()
    shots_by: str | None = optional_field(min_length=1)
    shots_seed: int | None = optional_field(0, ge=0)

    @model_validator(mode="after")
    def _check_shots(self) -> _AskedTask:
        if self.shots and self.shots_from is None:
            raise ValueError("'shots' are rows of a source: add shots_from: {source: ...}, or set shots: 0")
        if not self.shots:
            given = [name for name in ("shots_from", "shots_by") if getattr(self, name) is not None]
            given += ["shots_seed"] if self.shots_seed != type(self).model_fields["shots_seed"].default else []
            if given:
                raise ValueError(f"'{given[0]}' without shots changes nothing: set shots, or leave it out")
        return self


class SelectSettings(Config):
    """Each answer is chosen among `n` that are drawn (`samplers.best_of_n`).

    `scorer` is who chooses, written as a task's own; a vote needs none, and reads the answers that the task's scorer
    finds.
    """

    n: int = Field(ge=2, le=4096)
    by: By = "score"
    scorer: str | dict[str, Any] | None = optional_field()

    @model_validator(mode="after")
    def _check_scorer(self) -> SelectSettings:
        if self.scorer is None and self.by != "majority":
            raise ValueError(f"'by: {self.by}' without a scorer that says it: add scorer, or choose by majority")
        return self


class GenerationTask(_AskedTask):
    """Completions are drawn and judged.

    `scorer` is a name, or a mapping with `type` and that type's keys. `temperature` 0 is greedy. `max_new_tokens`
    counts the stop token; what does not stop by then is truncated and counts as a failure. `pass_at`, `cons_at`
    and `best_at` ask for pass@k, the majority's score of the first k samples, and the expected best score of k.
    `environment` has tools reply to calls; `max_new_tokens` then bounds all turns together. `select` draws several for
    each and measures the one that is chosen.
    """

    type: Literal["generation"] = "generation"
    scorer: str | dict[str, Any] = "exact_match"
    max_new_tokens: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, lt=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float | None = Field(None, gt=0, lt=1)
    stop: list[str] = Field(default_factory=list)
    environment: EnvironmentSettings | None = optional_field()
    select: SelectSettings | None = optional_field()
    num_samples: int = Field(1, ge=1, le=100_000)
    pass_at: list[int] = display_field(default_factory=list)
    cons_at: list[int] = display_field(default_factory=list)
    best_at: list[int] = display_field(default_factory=list)

    @model_validator(mode="after")
    def _check_sampling(self) -> GenerationTask:
        if self.temperature == 0:
            given = [name for name in ("top_p", "top_k", "min_p") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"'{given[0]}' at temperature 0 changes nothing: set a temperature, or leave it out")
            if self.num_samples > 1:
                raise ValueError("samples at temperature 0 are all the same: set a temperature, or one sample")
        if self.environment is not None and (self.stop or self.form == "text"):
            found = (
                "a stop string ends a turn before its stop token" if self.stop else "'form: text' writes no template"
            )
            raise ValueError(f"{found}, behind which tools reply: leave it out, or 'environment'")
        if self.select is not None and (self.temperature == 0 or self.environment is not None):
            found = "at temperature 0 chooses among equals" if self.temperature == 0 else "chooses turns, not attempts"
            cure = "set a temperature" if self.temperature == 0 else "leave 'environment' out"
            raise ValueError(f"'select' {found}: {cure}, or leave 'select' out")
        if any(not text for text in self.stop):
            raise ValueError("a stop string has at least one character")
        for name in ("pass_at", "cons_at", "best_at"):
            wanted: list[int] = getattr(self, name)
            if any(not 1 <= k <= self.num_samples for k in wanted) or len(set(wanted)) < len(wanted):
                raise ValueError(f"'{name}' holds each k once, from 1 to num_samples ({self.num_samples})")
        return self

    @property
    def scorers(self) -> dict[tuple[str, ...], str | dict[str, Any]]:
        """The scorers of the task, by the keys that lead to each: its own, and who chooses where that is another."""
        chooser = None if self.select is None else self.select.scorer
        return {("scorer",): self.scorer, **({} if chooser is None else {("select", "scorer"): chooser})}

    @property
    def sampling(self) -> SamplingSettings:
        """How completions are drawn."""
        return SamplingSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            num_samples=self.num_samples,
            stop_strings=tuple(self.stop),
        )

    @property
    def repeated(self) -> list[str]:
        """The metrics of several samples that are reported: `pass@k`, `cons@k` and `best@k`."""
        asked = {"pass": self.pass_at, "cons": self.cons_at, "best": self.best_at}
        return [f"{method}@{k}" for method, wanted in asked.items() for k in wanted]


class ChoiceTask(_AskedTask):
    """Each row's `choices` are weighed by their log-likelihood; the likeliest is the policy's answer.

    Columns: `choices`, a list of texts (or `{text: [...], label: [...]}`), and `answer`: the right one's place from 0,
    its label, its letter, or its text, or a list of those where several are right. `normalisation`: the log-likelihood
    as it is (`sum`), by token, or by byte of UTF-8. `options: letters` shows the choices in the prompt and weighs their
    letters. `metric`: 1 where the likeliest is right (`accuracy`), or the share of the choices' likelihood that the
    right ones have (`mass`), which is of likelihoods as they are: `normalisation` is `sum` there.
    """

    type: Literal["choice"]
    normalisation: Normalisation = "byte"
    options: Literal["texts", "letters"] = "texts"
    metric: Literal["accuracy", "mass"] = optional_field("accuracy")

    @model_validator(mode="before")
    @classmethod
    def _fill_normalisation(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("metric") == "mass":
            return {"normalisation": "sum", **value}
        return value

    @model_validator(mode="after")
    def _check_mass(self) -> ChoiceTask:
        if self.metric == "mass" and self.normalisation != "sum":
            raise ValueError(f"'mass' by {self.normalisation} is no share of likelihood: leave 'normalisation' out")
        return self


class PerplexityTask(_Task):
    """Texts are weighed: documents whole, conversations by what the assistant says (stop tokens count)."""

    type: Literal["perplexity"]


def _read_type(value: Any) -> str:
    if isinstance(value, Mapping):
        named = value.get("type", GENERATION)
        return named if isinstance(named, str) else ""
    return str(getattr(value, "type", ""))


TASK_TYPES: dict[str, type[_Task]] = {GENERATION: GenerationTask, CHOICE: ChoiceTask, PERPLEXITY: PerplexityTask}


def fill_benchmark(value: Any) -> Any:
    """Return a task's values with the settings of the benchmark that it names, where it does not say them itself.

    Of a benchmark whose type the task replaces, only the settings that its own type has too are taken.

    Raises:
        ValueError: There is no such benchmark.
    """
    named = value.get("benchmark") if isinstance(value, Mapping) else None
    if not isinstance(named, str):
        return value
    try:
        found = find_benchmark(named)
    except RecipeError as error:
        raise ValueError(f"'benchmark': {error.found}; {error.cure}") from None
    kind = TASK_TYPES.get(_read_type({**found.settings, **value}))
    known = found.settings if kind is None else {k: v for k, v in found.settings.items() if k in kind.model_fields}
    return {**known, **value, "benchmark": f"{found.name}@{found.version}"}


EvaluationTask = Annotated[
    Annotated[GenerationTask, Tag(GENERATION)]
    | Annotated[ChoiceTask, Tag(CHOICE)]
    | Annotated[PerplexityTask, Tag(PERPLEXITY)]
    | Annotated[HarnessTask, Tag(HARNESS)],
    Discriminator(
        _read_type,
        custom_error_type="unknown_task",
        custom_error_message=f"'type' of a task is one of {GENERATION}, {CHOICE}, {PERPLEXITY}, {HARNESS}",
    ),
    BeforeValidator(fill_benchmark),
]
"""One task: measured on the base and after every stage, by the same rows, drawing and scorer."""


def find_development(task: EvaluationTask) -> DataSource | None:
    """Return the rows that a task selects by, or None where it has none: its own, or those of the lab's split."""
    if isinstance(task, HarnessTask):
        return None  # its documents are the harness's
    if task.development is not None:
        return task.development
    if task.data.split == DEVELOPMENT:
        return task.data
    if task.data.source.startswith("lab:"):
        return task.data.model_copy(update={"split": DEVELOPMENT})
    return None


def hash_task(
    task: GenerationTask | ChoiceTask | PerplexityTask, problems: Sequence[Problem], measured_by: str = ""
) -> str:
    """Return the name by content of a task and its problems: items may be compared only under one such hash.

    The task's name and the path of its data do not count; what the problems say does. Problems are read one by one.

    Args:
        task: Its settings.
        problems: All of its rows.
        measured_by: The hash of what else decides an item: chat format, scorer, precision, solved examples.

    Raises:
        DataError: A row of columns, as Parquet may hold, has a number that is not finite.
    """
    settings = {key: value for key, value in task.identity().items() if key not in task.BESIDE}
    return hash_pieces(lambda: _write_pieces(settings, problems, measured_by))


def _write_pieces(settings: Mapping[str, Any], problems: Sequence[Problem], measured_by: str) -> Iterator[str]:
    """Yield the canonical JSON of `[settings, [problem, ...], measured_by]`, a problem at a time."""
    yield f"[{canonical_json(settings)},["
    for number, p in enumerate(problems):
        columns = {name: value for name, value in p.columns.items() if name not in (LEAK_QUESTION, LEAK_ANSWERS)}
        content = [p.problem_id, p.messages, p.tools, columns, p.cluster_id, p.reply]
        try:
            text = canonical_json(content)
        except ValueError as error:
            raise DataError(
                "a number that is not finite",
                expected="rows of text, finite numbers, true, false and null",
                cure="write null in its place, or leave the column out",
                place=p.problem_id,
            ) from error
        yield ("," if number else "") + text
    yield f"],{canonical_json(measured_by)}]"
