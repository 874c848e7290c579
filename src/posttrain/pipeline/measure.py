"""Measuring policies on tasks: the base, what every stage made, candidates of repairs, any model.

What a policy has answered lies below its hash (`RunFolder.evaluations`), so it is asked once, whichever stage it came
from; a policy is loaded when there is something left to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import write_json
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import ItemResult, Problem
from posttrain.core.run_folder import RunFolder
from posttrain.core.sampling import Sampler
from posttrain.data.ledger import Ledger
from posttrain.evaluation.answering import Answerer
from posttrain.evaluation.generation import Generation
from posttrain.evaluation.harness import LoadedTask
from posttrain.evaluation.harness_answers import HarnessAnswers
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.items import iterate_items
from posttrain.evaluation.multiple_choice import MultipleChoice
from posttrain.evaluation.perplexity import Perplexity
from posttrain.evaluation.problem_store import list_ids
from posttrain.evaluation.runner import choose_problems, run_task
from posttrain.evaluation.task import (
    ChoiceTask,
    EvaluationTask,
    Form,
    GenerationTask,
    PerplexityTask,
    hash_task,
)
from posttrain.evaluation.weighing import Weigher, build_text_renderer, name_template
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.development_rows import read_development_problems, require_development
from posttrain.pipeline.harness import open_harness_policy, prepare_harness
from posttrain.pipeline.plan import hash_model_config
from posttrain.pipeline.plugins import Plugin
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.sampling import build_sampler
from posttrain.pipeline.scorers import ScorerContext, ScorerValue, build_context, build_scorer, find_tier, hash_scorer
from posttrain.pipeline.selecting import hash_chooser, wrap_sampler
from posttrain.pipeline.store import WorkingFolders
from posttrain.pipeline.task_rows import read_task_problems
from posttrain.pipeline.tools import build_task_environment, hash_environment
from posttrain.pipeline.weighers import build_weigher
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.distributed import find_device

Rows = Literal["data", "development"]
CARD_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """What tasks are measured with beside the policy: where paths lead, the user's scorers and tools, the precision."""

    roots: Roots
    scorers: Mapping[str, Plugin]
    dtype: str
    allow_unsafe: bool = False

    @property
    def scorer_context(self) -> ScorerContext:
        """What scorers and tools are built with."""
        return build_context(self.roots, self.scorers, allow_unsafe=self.allow_unsafe)


def read_measure_settings(recipe: Recipe, *, allow_unsafe: bool = False) -> MeasureSettings:
    """Return what a recipe's tasks are measured with."""
    return MeasureSettings(recipe.roots, recipe.scorers, choose_dtype(recipe), allow_unsafe)


def choose_dtype(recipe: Recipe) -> str:
    """Return the precision that policies are measured in: what the recipe's stages compute in, one for all.

    One precision for the base and every stage, so that a difference between them is the stage's.
    """
    dtypes = {entry.config.dtype for entry in recipe.stages if isinstance(entry.config, TrainingKeys)}
    return "bfloat16" if "bfloat16" in dtypes else "float32"


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy's metrics on a task, as `run.json` lists them, and where its items lie."""

    task: str
    hash: str
    metrics: list[dict[str, Any]]
    items_path: Path
    problem_ids: frozenset[str]

    def read_items(self) -> list[ItemResult]:
        """Return the items of the problems that were asked, texts included."""
        return list(self.iterate_items())

    def iterate_items(self) -> Iterator[ItemResult]:
        """Yield the items of the problems that were asked, texts included, one at a time."""
        return (item for item in iterate_items(self.items_path) if item.item_id in self.problem_ids)


@dataclass(slots=True)
class PreparedTask:
    """A task with its rows read: made once, asked of many policies.

    `loaded` is what the harness made of its own; `rows_bad` are rows that cannot be read, as far as the task lets them.
    """

    task: EvaluationTask
    problems: Sequence[Problem]
    hash: str
    loaded: LoadedTask | None = None
    rows_bad: int = 0


class OpenPolicy:
    """A policy that is loaded when it is first asked something.

    Args:
        folder: The policy's folder.
        hash: Its name by content.
        renderer: Turns problems into prompts.
        dtype: The precision to measure in.
        progress: Is told how the sampler was chosen.
    """

    # many parameters: a policy and everything it is opened with
    def __init__(self, folder: Path, hash: str, renderer: Renderer, dtype: str, progress: Progress) -> None:
        self.folder, self.hash, self.renderer, self.dtype, self.progress = folder, hash, renderer, dtype, progress
        self._policy: LoadedPolicy | None = None
        self._samplers: dict[Form, Sampler] = {}
        self._weigher: Weigher | None = None

    def take(self, policy: LoadedPolicy) -> None:
        """Use a policy that is loaded already."""
        self._policy = policy

    def _load(self) -> LoadedPolicy:
        if self._policy is None:
            self._policy = load_policy(self.folder, dtype=self.dtype, device=find_device())
        return self._policy

    def open_sampler(self, form: Form = "chat") -> Sampler:
        """Return what draws from the policy, prompted through the chat template or with plain text.

        One for the other form is closed, so that the weights are there once.
        """
        if form not in self._samplers:
            self._close_samplers()
            renderer = build_text_renderer(self.renderer) if form == "text" else self.renderer
            self._samplers[form], notes = build_sampler(self._load(), renderer)
            for note in notes:
                self.progress.note(note)
        return self._samplers[form]

    def open_weigher(self) -> Weigher:
        """Return what weighs texts by the policy."""
        if self._weigher is None:
            self._weigher = build_weigher(self._load(), self.renderer, self.folder)
        return self._weigher

    def open_harness(self, task: HarnessTask) -> Any:
        """Return the policy as lm-evaluation-harness asks it."""
        return open_harness_policy(self._load(), task, self.open_weigher(), self.open_sampler)

    def _close_samplers(self) -> None:
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers = {}

    def close(self) -> None:
        """Release what was opened."""
        self._close_samplers()
        self._policy = self._weigher = None


@dataclass(slots=True)
class Measurer:
    """Measures policies on tasks, below one folder.

    Args:
        settings: What tasks are measured with.
        folder: Where evaluations lie.
        renderer: Turns problems into prompts.
        progress: Shows how far it has come.
        seed: What draws start from; 0 is what results are told of.

    `sandbox` is the tier that programs ran in, once any did.
    """

    settings: MeasureSettings
    folder: RunFolder
    renderer: Renderer
    progress: Progress
    seed: int = 0
    sandbox: str | None = None
    _prepared: dict[str, PreparedTask] = field(default_factory=dict)
    _scorers: dict[str, Scorer] = field(default_factory=dict)

    def prepare(self, task: EvaluationTask, rows: Rows = "data") -> PreparedTask:
        """Return a task with its rows, read once.

        Raises:
            DataError: The rows cannot be used.
            RecipeError: Development rows are asked for and the task has none.
            RefusedError: A task of the harness cannot be measured.
        """
        if isinstance(task, HarnessTask):
            return self._prepare_harness(task, rows)
        source = task.data if rows == "data" else require_development(task)
        key = hash_json([task.model_dump(mode="json"), source.model_dump(mode="json")])
        if key not in self._prepared:
            roots = self.settings.roots
            ledger = Ledger()
            if rows == "data":
                problems = read_task_problems(roots, task, source, ledger=ledger)
            else:
                problems = read_development_problems(roots, task, ledger=ledger)
            measured_by = hash_json([self._name_template(task), self.settings.dtype, *self._hash_parts(task)])
            found = hash_task(task, problems, measured_by)
            self._prepared[key] = PreparedTask(task, problems, found, rows_bad=ledger.rows_bad)
            if ledger.rows_bad:
                self.progress.note(
                    f"{task.name}: {ledger.rows_bad:,} of {ledger.rows_in:,} rows cannot be read and are not measured"
                )
        return self._prepared[key]

    def _prepare_harness(self, task: HarnessTask, rows: Rows) -> PreparedTask:
        if rows != "data":
            require_development(task)
        key = hash_json(task.model_dump(mode="json"))
        if key not in self._prepared:
            settings = self.settings
            loaded, found = prepare_harness(
                task, settings.roots, self.renderer, settings.dtype, allow_unsafe=settings.allow_unsafe
            )
            self._prepared[key] = PreparedTask(task, loaded.list_problems(), found, loaded)
        return self._prepared[key]

    def measure(
        self, policy: OpenPolicy, task: EvaluationTask, *, rows: Rows = "data", first: int | None = None
    ) -> Measured:
        """Return a policy's metrics on a task.

        Args:
            policy: What is measured.
            task: What it is asked.
            rows: The task's own rows, or those for selection.
            first: A random choice of so many of them, the same for every policy; None: all.

        Raises:
            RefusedError: The harness failed on too many items.
            DataError: The task's rows cannot be used.
        """
        prepared = self.prepare(task, rows)
        folder = self.folder.evaluations(policy.hash)
        # The weights' name says nothing of what else a bare folder's files decide (where it stops by itself).
        WorkingFolders(self.folder).claim(folder.root, hash_model_config(policy.folder))
        paths = (task.name, prepared.hash, self.seed)
        chosen = choose_problems(task.name, prepared.hash, prepared.problems, first)
        answerer = self._build_answerer(policy, prepared, folder.items(*paths))
        card = self._describe(policy, prepared, answerer, rows)
        write_json(folder.card(*paths), card)
        metrics = run_task(chosen, answerer, folder.items(*paths), self.progress)
        if isinstance(answerer, HarnessAnswers):  # which metrics it has is known once documents were judged
            write_json(folder.card(*paths), card | {"parts": answerer.name_parts(metrics)})
        self.sandbox = next(filter(None, map(find_tier, self._scorers.values())), self.sandbox)
        described = {"task_hash": prepared.hash, "template": card["template"], "settings": card["settings"]}
        return Measured(
            task.name,
            prepared.hash,
            [{**figures, **described} for figures in metrics],
            folder.items(*paths),
            frozenset(list_ids(chosen.problems)),
        )

    def open(self, stack: ExitStack, folder: Path, policy_hash: str) -> OpenPolicy:
        """Return a policy that is closed when the stack unwinds."""
        policy = OpenPolicy(folder, policy_hash, self.renderer, self.settings.dtype, self.progress)
        stack.callback(policy.close)
        return policy

    def _build_answerer(self, policy: OpenPolicy, prepared: PreparedTask, items_path: Path) -> Answerer:
        task = prepared.task
        if isinstance(task, HarnessTask):
            assert prepared.loaded is not None  # `prepare` loads it
            open_policy = partial(policy.open_harness, task)
            return HarnessAnswers(task, prepared.loaded, policy.hash, open_policy, items_path, self.seed)
        if isinstance(task, GenerationTask):
            environment = build_task_environment(task, self.renderer, self.settings.scorer_context, policy.folder)
            scorer, open_sampler = self._find_scorer(task.scorer), partial(self._open_sampler, policy, task)
            return Generation(task, policy.hash, open_sampler, scorer, self.seed, environment)
        if isinstance(task, ChoiceTask):
            return MultipleChoice(task, policy.hash, policy.open_weigher)
        return Perplexity(task, policy.hash, policy.open_weigher)

    def _open_sampler(self, policy: OpenPolicy, task: GenerationTask) -> Sampler:
        return wrap_sampler(policy.open_sampler(task.form), task, self._find_scorer)

    def _find_scorer(self, value: ScorerValue) -> Scorer:
        key = hash_json(value)
        if key not in self._scorers:
            self._scorers[key] = build_scorer(value, self.settings.scorer_context)
        return self._scorers[key]

    def _name_template(self, task: EvaluationTask) -> str:
        """Return what names the chat format that a task is asked in."""
        return name_template("chat" if isinstance(task, PerplexityTask) else task.form, self.renderer)

    def _hash_parts(self, task: EvaluationTask) -> list[Any]:
        """Return what names the scorer, and the environment and who chooses where there are such."""
        if not isinstance(task, GenerationTask):
            return [None]
        context, environment = self.settings.scorer_context, task.environment
        own = [] if environment is None else [hash_environment(environment, context)]
        return [hash_scorer(task.scorer, context), *own, *hash_chooser(task, context)]

    def _describe(self, policy: OpenPolicy, prepared: PreparedTask, answerer: Answerer, rows: Rows) -> dict[str, Any]:
        """Return the card that lies beside the items: what was measured, and how.

        `rows` says whether results are told of them; a task that is measured on a split for development has one file
        for both.
        """
        task, tokenizer = prepared.task, self.renderer.tokenizer
        is_result = rows == "data" or isinstance(task, HarnessTask) or require_development(task) == task.data
        return {
            "schema": CARD_SCHEMA,
            "task": prepared.task.name,
            "task_hash": prepared.hash,
            "rows": "data" if is_result else "development",
            "policy": policy.hash,
            "tokenizer": tokenizer.content_hash if isinstance(tokenizer, HuggingFaceTextTokenizer) else None,
            "context_tokens": read_context_tokens(policy.folder),
            "template": self._name_template(task),
            "dtype": self.settings.dtype,
            "seed": self.seed,
            "metric": answerer.metric_name,
            "parts": _parts_of(task),
            "settings": _settings_of(task),
            "num_problems": len(prepared.problems),
            "rows_bad": prepared.rows_bad,
        }


def _parts_of(task: EvaluationTask) -> list[str]:
    """Return what is reported beside a task's value, as far as the task names it."""
    if isinstance(task, HarnessTask):
        return []
    return [*task.parts, *(task.repeated if isinstance(task, GenerationTask) else ())]


def _settings_of(task: EvaluationTask) -> dict[str, Any]:
    """Return what a table says of how a task was measured: its type, and the settings that are not the defaults."""
    own = task.model_dump(mode="json", exclude_defaults=True)
    hidden = ("name", "data", "development", "shots_from", "parts", "pass_at", "cons_at", "best_at")
    shown = {"type": task.type, **{key: value for key, value in own.items() if key not in hidden}}
    if isinstance(task, GenerationTask):
        shown |= {"max_new_tokens": task.max_new_tokens, "temperature": task.temperature, "scorer": task.scorer}
    return shown


def measure_all(
    measurer: Measurer,
    policy: OpenPolicy,
    tasks: Sequence[EvaluationTask],
    *,
    rows: Rows = "data",
    firsts: Mapping[str, int] | None = None,
    done: Callable[[Measured], object] | None = None,
) -> dict[str, Measured]:
    """Return what a policy scores on each task, by the task's name.

    Args:
        measurer: Measures.
        policy: What is measured.
        tasks: What it is asked.
        rows: The tasks' own rows, or those for selection.
        firsts: How many problems of a task are asked; all where it is not named.
        done: Told of each as it comes.
    """
    found: dict[str, Measured] = {}
    for task in tasks:
        measured = measurer.measure(policy, task, rows=rows, first=(firsts or {}).get(task.name))
        found[task.name] = measured
        if done is not None:
            done(measured)
    return found
